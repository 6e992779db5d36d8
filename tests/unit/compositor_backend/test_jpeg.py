from __future__ import annotations

import io
import re

import numpy as np
import pytest
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from compositor_backend.errors import PackError
from compositor_backend.jpeg import (
    JpegSettings,
    encode,
    marker_codes,
    marker_offsets,
    read_header,
    with_comment,
)
from tests.support.scenes import textured


def scan_of(jpeg: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(jpeg, np.uint8)[len(read_header(jpeg).data) :]


@pytest.mark.parametrize("quality", [20, 75, 98])
@pytest.mark.parametrize(("subsampling", "name"), [("420", "4:2:0"), ("422", "4:2:2"), ("444", "4:4:4")])
def test_the_encoder_does_as_it_is_told(subsampling: str, name: str, quality: int) -> None:
    pixels = textured(100, 60, 1)
    jpeg = encode(pixels, JpegSettings(quality, subsampling, 2))
    assert simplejpeg.decode_jpeg_header(jpeg) == (60, 100, "YCbCr", subsampling)
    plain = io.BytesIO()
    Image.fromarray(pixels).save(plain, "JPEG", quality=quality, subsampling=name)
    np.testing.assert_array_equal(simplejpeg.decode_jpeg(jpeg), simplejpeg.decode_jpeg(plain.getvalue()))


@pytest.mark.parametrize(
    "view",
    [
        pytest.param(lambda pixels: pixels[5:40, 10:70], id="a part"),
        pytest.param(lambda pixels: pixels[::-1, ::2], id="turned over"),
        pytest.param(lambda pixels: np.asfortranarray(pixels), id="column by column"),
        pytest.param(lambda pixels: pixels[..., ::-1], id="colours exchanged"),
    ],
)
def test_pixels_may_lie_anyhow_in_memory(view: object) -> None:
    assert callable(view)
    pixels = view(textured(100, 60, 2))
    settings = JpegSettings(75, "420", 1)
    assert encode(pixels, settings) == encode(np.array(pixels, order="C"), settings)


@pytest.mark.parametrize(
    "pixels", [np.zeros((8, 8, 3), np.float32), np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8)]
)
def test_other_pixels_are_refused(pixels: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match=r"uint8 \[H, W, 3\] is wanted"):
        encode(pixels, JpegSettings(75, "420"))


def test_a_header_ends_where_the_scan_starts() -> None:
    jpeg = encode(textured(300, 200, 1), JpegSettings(75, "420", 1))
    header = read_header(jpeg)
    assert (header.width, header.height) == (300, 200)
    assert header.data[-14:-10] == b"\xff\xda\x00\x0c"  # SOS of three components is 12 bytes long
    assert b"\xff\xdd\x00\x04\x00\x01" in header.data  # DRI: one MCU
    assert jpeg.startswith(header.data)


def test_headers_of_other_sizes_have_the_same_tables() -> None:
    settings = JpegSettings(75, "420", 4)
    header = read_header(encode(textured(300, 200, 1), settings))
    assert header.same_tables(encode(textured(64, 48, 2), settings))
    assert not header.same_tables(encode(textured(300, 200, 1), JpegSettings(76, "420", 4)))
    assert not header.same_tables(encode(textured(300, 200, 1), JpegSettings(75, "422", 4)))
    assert not header.same_tables(encode(textured(300, 200, 1), JpegSettings(75, "420", 5)))
    assert not header.same_tables(b"")


JPEG = encode(textured(40, 30, 1), JpegSettings(75, "420", 1))
HEADER_BYTES = len(read_header(JPEG).data)


@pytest.mark.parametrize("length", [*range(0, HEADER_BYTES, 7), HEADER_BYTES - 1])
def test_a_header_cut_off_is_refused(length: int) -> None:
    with pytest.raises(PackError, match="a JPEG header"):
        read_header(JPEG[:length])


def test_what_is_no_baseline_jpeg_is_refused() -> None:
    progressive = JPEG.replace(b"\xff\xc0", b"\xff\xc2", 1)
    with pytest.raises(PackError, match="no baseline frame"):
        read_header(progressive)
    with pytest.raises(PackError, match="does not start with SOI"):
        read_header(b"\x89PNG\r\n\x1a\n" + JPEG)


def test_a_comment_is_part_of_a_header_but_not_of_its_tables() -> None:
    settings = JpegSettings(75, "420", 4)
    plain = read_header(encode(textured(300, 200, 1), settings))
    header = read_header(with_comment(with_comment(plain.data, b"second"), b"first"))
    assert len(header.data) == len(plain.data) + len("first") + len("second") + 2 * 4
    assert (header.encoded, header.size_at) == (plain.data, plain.size_at)
    assert (header.width, header.height) == (300, 200)
    assert header.same_tables(encode(textured(64, 48, 2), settings))
    assert not header.same_tables(encode(textured(64, 48, 2), JpegSettings(76, "420", 4)))


def test_a_comment_changes_no_pixel() -> None:
    jpeg = with_comment(JPEG, b"whose")
    assert jpeg[2:11] == b"\xff\xe0\x00\x10JFIF\0"  # JFIF's own segment is still the first
    with Image.open(io.BytesIO(jpeg)) as picture:
        assert picture.info["comment"] == b"whose"
    np.testing.assert_array_equal(simplejpeg.decode_jpeg(jpeg), simplejpeg.decode_jpeg(JPEG))


def test_a_comment_where_jfif_is_not_said() -> None:
    without = JPEG[:2] + JPEG[20:]
    assert with_comment(without, b"x").startswith(b"\xff\xd8\xff\xfe\x00\x03x")
    with pytest.raises(PackError, match="a JPEG header"):
        with_comment(b"", b"x")


def test_markers_are_told_from_data() -> None:
    """Noise of the highest quality has stuffed 0xFF in its scan, some before what looks like a marker."""
    pixels = np.random.default_rng(3).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    jpeg = encode(pixels, JpegSettings(100, "444", 4))
    scan = scan_of(jpeg)
    stuffed = [match.start() for match in re.finditer(rb"\xff\x00[\xd0-\xd9]", scan.tobytes())]
    assert len(stuffed) > 5
    found = marker_offsets(scan)
    assert found.tolist() == [match.start() for match in re.finditer(rb"\xff[\xd0-\xd9]", scan.tobytes())]
    assert found.size == 32 * 32 // 4
    assert not set(found.tolist()) & {start + 1 for start in stuffed}
    np.testing.assert_array_equal(scan[found + 1], marker_codes(0, found.size, found.size))


def test_codes_count_on_from_any_segment() -> None:
    assert marker_codes(6, 4, 100).tolist() == [0xD6, 0xD7, 0xD0, 0xD1]
    assert marker_codes(6, 4, 10).tolist() == [0xD6, 0xD7, 0xD0, 0xD9]
