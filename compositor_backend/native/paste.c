/* Brings a network's mouth into a frame: resampled and blended row by row, so that nothing leaves the nearest cache.
 *
 * The arithmetic is that of compositor_backend.blend: 8-bit RGB, weights of 14 bits, rows before columns, and a blend
 * with an alpha of 7 bits. Compiled by build.sh, called through ctypes: no Python header is needed.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* -DPLAIN leaves the vector code out, as on other processors. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(PLAIN)
#include <immintrin.h>
#define HAS_AVX2 1
/* -DNO_AVX512 leaves these out, as on processors before Ice Lake and Zen 4. */
#if !defined(NO_AVX512)
#define HAS_AVX512 1
#endif
#endif

#define WEIGHT_BITS 14
#define WEIGHT_HALF (1 << (WEIGHT_BITS - 1))
#define ALPHA_BITS 7
#define ALPHA_ONE (1 << ALPHA_BITS)
#define ALPHA_HALF (ALPHA_ONE / 2)
/* Taps of a column come in groups of so many; bytes that may be read past the end of a line, or written. */
#define GROUP 4
#define SLACK 64
#define CACHE_LINE 64
/* A column's weights are stored as they are multiplied: taps 0 1 0 1 0 1 0 1 2 3 2 3 2 3 2 3 of each group. */
#define SPREAD 4
/* Columns are made so many at a time; their tables are filled up to a multiple of that. */
#define COLUMNS 4

/* Every result pixel of a side: its first source pixel, and its weights, `taps` each. */
typedef struct {
    const int32_t *first;
    const int16_t *weights;
    int32_t taps;
} side_t;

static inline uint8_t clip(int32_t sum)
{
    int32_t value = (sum + WEIGHT_HALF) >> WEIGHT_BITS;
    return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
}

/* One line out of `taps` rows of `bytes` bytes each. */
static void mix_rows(const uint8_t *rows, int32_t bytes, const int16_t *weights, int32_t taps, uint8_t *line)
{
    for (int32_t i = 0; i < bytes; i++) {
        int32_t sum = 0;
        for (int32_t k = 0; k < taps; k++)
            sum += weights[k] * rows[(ptrdiff_t)k * bytes + i];
        line[i] = clip(sum);
    }
}

/* One row of `width` RGB pixels out of a line. */
static void mix_columns(const uint8_t *line, int32_t width, side_t side, uint8_t *out)
{
    for (int32_t x = 0; x < width; x++) {
        const int16_t *weights = side.weights + (ptrdiff_t)x * side.taps * SPREAD;
        const uint8_t *source = line + (ptrdiff_t)side.first[x] * 3;
        int32_t red = 0, green = 0, blue = 0;
        for (int32_t k = 0; k < side.taps; k++) {
            const int32_t weight = weights[k / 2 * 2 * SPREAD + k % 2];
            red += weight * source[3 * k];
            green += weight * source[3 * k + 1];
            blue += weight * source[3 * k + 2];
        }
        out[3 * x] = clip(red);
        out[3 * x + 1] = clip(green);
        out[3 * x + 2] = clip(blue);
    }
}

#ifdef HAS_AVX2
/* Weights of two rows side by side, in every 32 bits of a register; at most so many pairs are kept in registers. */
#define MAX_PAIRS 6

__attribute__((target("avx2"))) static inline __m256i weight_pair(const int16_t *weights, int32_t k, int32_t taps)
{
    const uint32_t second = k + 1 < taps ? (uint16_t)weights[k + 1] : 0;
    return _mm256_set1_epi32((int32_t)((uint16_t)weights[k] | second << 16));
}

/* 32 bytes of a line: two rows' bytes side by side as 16-bit pairs, multiplied and added in one step. */
__attribute__((target("avx2"), always_inline)) static inline __m256i mix_32_bytes(
    const uint8_t *at, int32_t bytes, const __m256i *pairs, int32_t taps)
{
    const __m256i zero = _mm256_setzero_si256(), half = _mm256_set1_epi32(WEIGHT_HALF);
    __m256i sums[4] = {half, half, half, half};
    for (int32_t k = 0; k < taps; k += 2) {
        const uint8_t *one = at + (ptrdiff_t)k * bytes, *other = k + 1 < taps ? one + bytes : one;
        __m256i a = _mm256_loadu_si256((const __m256i *)one), b = _mm256_loadu_si256((const __m256i *)other);
        __m256i low = _mm256_unpacklo_epi8(a, b), high = _mm256_unpackhi_epi8(a, b);
        sums[0] = _mm256_add_epi32(sums[0], _mm256_madd_epi16(_mm256_unpacklo_epi8(low, zero), pairs[k / 2]));
        sums[1] = _mm256_add_epi32(sums[1], _mm256_madd_epi16(_mm256_unpackhi_epi8(low, zero), pairs[k / 2]));
        sums[2] = _mm256_add_epi32(sums[2], _mm256_madd_epi16(_mm256_unpacklo_epi8(high, zero), pairs[k / 2]));
        sums[3] = _mm256_add_epi32(sums[3], _mm256_madd_epi16(_mm256_unpackhi_epi8(high, zero), pairs[k / 2]));
    }
    for (int32_t n = 0; n < 4; n++)
        sums[n] = _mm256_srai_epi32(sums[n], WEIGHT_BITS);
    return _mm256_packus_epi16(_mm256_packs_epi32(sums[0], sums[1]), _mm256_packs_epi32(sums[2], sums[3]));
}

/* Inlined for each number of taps, which unrolls it and keeps its weights in registers. */
__attribute__((target("avx2"), always_inline)) static inline void mix_rows_of(
    const uint8_t *rows, int32_t bytes, const int16_t *weights, int32_t taps, uint8_t *line)
{
    __m256i pairs[MAX_PAIRS];
    for (int32_t k = 0; k < taps; k += 2)
        pairs[k / 2] = weight_pair(weights, k, taps);
    for (int32_t i = 0; i < bytes; i += 32)
        _mm256_storeu_si256((__m256i *)(line + i), mix_32_bytes(rows + i, bytes, pairs, taps));
}

__attribute__((target("avx2"))) static void mix_rows_avx2(
    const uint8_t *rows, int32_t bytes, const int16_t *weights, int32_t taps, uint8_t *line)
{
    switch (taps) {
    case 5: mix_rows_of(rows, bytes, weights, 5, line); return;
    case 6: mix_rows_of(rows, bytes, weights, 6, line); return;
    case 7: mix_rows_of(rows, bytes, weights, 7, line); return;
    case 8: mix_rows_of(rows, bytes, weights, 8, line); return;
    case 9: mix_rows_of(rows, bytes, weights, 9, line); return;
    case 10: mix_rows_of(rows, bytes, weights, 10, line); return;
    case 11: mix_rows_of(rows, bytes, weights, 11, line); return;
    case 12: mix_rows_of(rows, bytes, weights, 12, line); return;
    default: mix_rows(rows, bytes, weights, taps, line);
    }
}

/* A pixel: taps 0 and 1 of each colour in one half of the register, 2 and 3 in the other, still to be added. */
__attribute__((target("avx2"), always_inline)) static inline __m256i mix_pixel(
    const uint8_t *line, int32_t x, side_t side, int32_t taps)
{
    const __m256i spread = _mm256_setr_epi8(
        0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1,
        6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1);
    const uint8_t *source = line + (ptrdiff_t)side.first[x] * 3;
    const int16_t *weights = side.weights + (ptrdiff_t)x * taps * SPREAD;
    __m256i sum = _mm256_setzero_si256();
    for (int32_t k = 0; k < taps; k += GROUP) {
        __m256i bytes = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(source + 3 * k)));
        __m256i pairs = _mm256_loadu_si256((const __m256i *)(weights + (ptrdiff_t)k * SPREAD));
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_shuffle_epi8(bytes, spread), pairs));
    }
    return sum;
}

/* Two pixels' sums to 32-bit colours, the first in the lower half. */
__attribute__((target("avx2"), always_inline)) static inline __m256i add_halves(__m256i one, __m256i other)
{
    __m256i sum = _mm256_add_epi32(
        _mm256_permute2x128_si256(one, other, 0x20), _mm256_permute2x128_si256(one, other, 0x31));
    return _mm256_srai_epi32(_mm256_add_epi32(sum, _mm256_set1_epi32(WEIGHT_HALF)), WEIGHT_BITS);
}

/* Four pixels at a time; those past `width`, which the tables have too, go to the slack. */
__attribute__((target("avx2"), always_inline)) static inline void mix_columns_of(
    const uint8_t *line, int32_t width, side_t side, int32_t taps, uint8_t *out)
{
    const __m128i close = _mm_setr_epi8(0, 1, 2, 8, 9, 10, 4, 5, 6, 12, 13, 14, -1, -1, -1, -1);
    for (int32_t x = 0; x < width; x += COLUMNS) {
        __m256i low = add_halves(mix_pixel(line, x, side, taps), mix_pixel(line, x + 1, side, taps));
        __m256i high = add_halves(mix_pixel(line, x + 2, side, taps), mix_pixel(line, x + 3, side, taps));
        __m256i words = _mm256_packs_epi32(low, high); /* pixels 0 and 2, then 1 and 3 */
        __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
        _mm_storeu_si128((__m128i *)(out + 3 * x), _mm_shuffle_epi8(bytes, close));
    }
}

__attribute__((target("avx2"))) static void mix_columns_avx2(
    const uint8_t *line, int32_t width, side_t side, uint8_t *out)
{
    switch (side.taps) {
    case 4: mix_columns_of(line, width, side, 4, out); return;
    case 8: mix_columns_of(line, width, side, 8, out); return;
    default: mix_columns_of(line, width, side, side.taps, out);
    }
}
#endif

#ifdef HAS_AVX512
/* The same twice as wide: multiplied and added in one instruction, and a pixel's eight taps in one register. */
#define AVX512 __attribute__((target("avx2,avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni"), always_inline))

AVX512 static inline __m512i mix_64_bytes(const uint8_t *at, int32_t bytes, const __m512i *pairs, int32_t taps)
{
    const __m512i zero = _mm512_setzero_si512(), half = _mm512_set1_epi32(WEIGHT_HALF);
    __m512i sums[4] = {half, half, half, half};
    for (int32_t k = 0; k < taps; k += 2) {
        const uint8_t *one = at + (ptrdiff_t)k * bytes, *other = k + 1 < taps ? one + bytes : one;
        __m512i a = _mm512_loadu_si512(one), b = _mm512_loadu_si512(other);
        __m512i low = _mm512_unpacklo_epi8(a, b), high = _mm512_unpackhi_epi8(a, b);
        sums[0] = _mm512_dpwssd_epi32(sums[0], _mm512_unpacklo_epi8(low, zero), pairs[k / 2]);
        sums[1] = _mm512_dpwssd_epi32(sums[1], _mm512_unpackhi_epi8(low, zero), pairs[k / 2]);
        sums[2] = _mm512_dpwssd_epi32(sums[2], _mm512_unpacklo_epi8(high, zero), pairs[k / 2]);
        sums[3] = _mm512_dpwssd_epi32(sums[3], _mm512_unpackhi_epi8(high, zero), pairs[k / 2]);
    }
    for (int32_t n = 0; n < 4; n++)
        sums[n] = _mm512_srai_epi32(sums[n], WEIGHT_BITS);
    return _mm512_packus_epi16(_mm512_packs_epi32(sums[0], sums[1]), _mm512_packs_epi32(sums[2], sums[3]));
}

AVX512 static inline void mix_rows_wide(
    const uint8_t *rows, int32_t bytes, const int16_t *weights, int32_t taps, uint8_t *line)
{
    __m256i pairs[MAX_PAIRS];
    __m512i wide[MAX_PAIRS];
    for (int32_t k = 0; k < taps; k += 2) {
        pairs[k / 2] = weight_pair(weights, k, taps);
        wide[k / 2] = _mm512_broadcast_i64x4(pairs[k / 2]);
    }
    int32_t i = 0;
    for (; i + 64 <= bytes; i += 64)
        _mm512_storeu_si512(line + i, mix_64_bytes(rows + i, bytes, wide, taps));
    for (; i < bytes; i += 32)
        _mm256_storeu_si256((__m256i *)(line + i), mix_32_bytes(rows + i, bytes, pairs, taps));
}

__attribute__((target("avx2,avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni"))) static void mix_rows_avx512(
    const uint8_t *rows, int32_t bytes, const int16_t *weights, int32_t taps, uint8_t *line)
{
    switch (taps) {
    case 5: mix_rows_wide(rows, bytes, weights, 5, line); return;
    case 6: mix_rows_wide(rows, bytes, weights, 6, line); return;
    case 7: mix_rows_wide(rows, bytes, weights, 7, line); return;
    case 8: mix_rows_wide(rows, bytes, weights, 8, line); return;
    case 9: mix_rows_wide(rows, bytes, weights, 9, line); return;
    default: mix_rows_avx2(rows, bytes, weights, taps, line);
    }
}

/* A pixel of eight taps: 0 and 1 of each colour in the first quarter of the register, 2 and 3 in the next … */
AVX512 static inline __m512i mix_pixel_wide(const uint8_t *line, int32_t x, side_t side)
{
    const __m512i spread = _mm512_set_epi8(
        0, 0, 0, 0, 0, 23, 0, 20, 0, 22, 0, 19, 0, 21, 0, 18, 0, 0, 0, 0, 0, 17, 0, 14, 0, 16, 0, 13, 0, 15, 0, 12,
        0, 0, 0, 0, 0, 11, 0, 8, 0, 10, 0, 7, 0, 9, 0, 6, 0, 0, 0, 0, 0, 5, 0, 2, 0, 4, 0, 1, 0, 3, 0, 0);
    const __mmask64 used = 0x0555055505550555;
    __m256i source = _mm256_loadu_si256((const __m256i *)(line + (ptrdiff_t)side.first[x] * 3));
    __m512i taps = _mm512_maskz_permutexvar_epi8(used, spread, _mm512_castsi256_si512(source));
    return _mm512_madd_epi16(taps, _mm512_loadu_si512(side.weights + (ptrdiff_t)x * 8 * SPREAD));
}

/* Two registers of four quarters each: the first's halves added, then the second's. */
AVX512 static inline __m512i fold(__m512i one, __m512i other)
{
    return _mm512_add_epi32(_mm512_shuffle_i64x2(one, other, 0x44), _mm512_shuffle_i64x2(one, other, 0xee));
}

__attribute__((target("avx2,avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni"))) static void mix_columns_avx512(
    const uint8_t *line, int32_t width, side_t side, uint8_t *out)
{
    if (side.taps != 8) {
        mix_columns_avx2(line, width, side, out);
        return;
    }
    const __m128i close = _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1);
    for (int32_t x = 0; x < width; x += COLUMNS) {
        __m512i low = fold(mix_pixel_wide(line, x, side), mix_pixel_wide(line, x + 1, side));
        __m512i high = fold(mix_pixel_wide(line, x + 2, side), mix_pixel_wide(line, x + 3, side));
        __m512i sum = _mm512_add_epi32(
            _mm512_shuffle_i64x2(low, high, 0x88), _mm512_shuffle_i64x2(low, high, 0xdd));
        sum = _mm512_srai_epi32(_mm512_add_epi32(sum, _mm512_set1_epi32(WEIGHT_HALF)), WEIGHT_BITS);
        __m128i bytes = _mm512_cvtusepi32_epi8(_mm512_max_epi32(sum, _mm512_setzero_si512()));
        _mm_storeu_si128((__m128i *)(out + 3 * x), _mm_shuffle_epi8(bytes, close));
    }
}
#endif

/* `under` moves to `face` by alpha = down * across[i], both of 7 bits. */
static void blend(uint8_t *under, const uint8_t *face, int32_t from, int32_t to, int32_t down, const int16_t *across)
{
    for (int32_t i = from; i < to; i++) {
        int16_t alpha = (int16_t)((down * across[i] + ALPHA_HALF) >> ALPHA_BITS);
        int16_t change = (int16_t)((face[i] - under[i]) * alpha + ALPHA_HALF);
        under[i] = (uint8_t)(under[i] + (change >> ALPHA_BITS));
    }
}

int32_t lipstream_paste_version(void) { return 1; }

/* Draw `mouth` (mouth_px x mouth_px RGB, a multiple of 32 bytes a row) over `under` (height x width RGB, its rows `stride` bytes apart).
 *
 * `row_*` and `column_*` say how each result row and column comes about; a column's taps are a multiple of GROUP, and
 * those past the line's end have no weight. `down` [height] and `across` [3 * width] are the alphas of 7 bits, one
 * for each byte; `edge` is the number of bytes at either end of a row in which `across` is less than one.
 */
void lipstream_paste(
    uint8_t *under, int64_t stride, int32_t width, int32_t height, const uint8_t *mouth, int32_t mouth_px,
    const int32_t *row_first, const int16_t *row_weights, int32_t row_taps,
    const int32_t *column_first, const int16_t *column_weights, int32_t column_taps,
    const int16_t *down, const int16_t *across, int32_t edge)
{
    const int32_t line_bytes = mouth_px * 3, bytes = width * 3;
    uint8_t line[line_bytes + SLACK], face[bytes + SLACK]; /* a few kB: they stay in the nearest cache */
    const side_t columns = {column_first, column_weights, column_taps};
    memset(line + line_bytes, 0, SLACK);
#ifdef HAS_AVX2
    const int avx2 = __builtin_cpu_supports("avx2");
#endif
#ifdef HAS_AVX512
    const int avx512 = __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")
        && __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vnni");
#endif
    for (int32_t y = 0; y < height; y++, under += stride) {
        const uint8_t *rows = mouth + (ptrdiff_t)row_first[y] * line_bytes;
        /* The mouth comes from another process: fetch what the row after the next one will read for the first time. */
        if (y + 2 < height) {
            const ptrdiff_t from = (ptrdiff_t)(row_first[y + 1] + row_taps) * line_bytes;
            const ptrdiff_t to = (ptrdiff_t)(row_first[y + 2] + row_taps) * line_bytes;
            for (ptrdiff_t i = from; i < to; i += CACHE_LINE)
                __builtin_prefetch(mouth + i);
        }
        const int16_t *weights = row_weights + (ptrdiff_t)y * row_taps;
#ifdef HAS_AVX512
        if (avx512) {
            mix_rows_avx512(rows, line_bytes, weights, row_taps, line);
            mix_columns_avx512(line, width, columns, face);
        } else
#endif
#ifdef HAS_AVX2
        if (avx2) {
            mix_rows_avx2(rows, line_bytes, weights, row_taps, line);
            mix_columns_avx2(line, width, columns, face);
        } else
#endif
        {
            mix_rows(rows, line_bytes, weights, row_taps, line);
            mix_columns(line, width, columns, face);
        }
        const int32_t inner = down[y] == ALPHA_ONE && 2 * edge <= bytes ? edge : bytes;
        blend(under, face, 0, inner, down[y], across);
        if (inner < bytes) {
            memcpy(under + edge, face + edge, (size_t)(bytes - 2 * edge));
            blend(under, face, bytes - edge, bytes, down[y], across);
        }
    }
}
