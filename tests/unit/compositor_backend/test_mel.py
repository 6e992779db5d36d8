from __future__ import annotations

import librosa
import numpy as np
import pytest
from numpy.typing import NDArray

from compositor_backend import mel

GRID_SAMPLES = 3200  # 5 frames


def make_speech(samples: int, seed: int = 0) -> NDArray[np.int16]:
    """Noise whose loudness changes, with a stretch of silence, up to full scale."""
    rng = np.random.default_rng(seed)
    loudness = np.interp(np.arange(samples), np.linspace(0, samples, 20), rng.uniform(0, 12_000, 20))
    signal = rng.standard_normal(samples) * loudness
    signal[samples // 3 : samples // 2] = 0
    return np.clip(signal, -32_768, 32_767).astype(np.int16)


def librosa_mel(pcm: NDArray[np.int16]) -> NDArray[np.float64]:
    """The facts file's recipe, step by step, in librosa and float64."""
    signal = pcm.astype(np.float64) / 32_768
    emphasised = np.append(signal[:1], signal[1:] - 0.97 * signal[:-1])
    spectrum = librosa.stft(
        emphasised, n_fft=800, hop_length=200, win_length=800, window="hann", center=True, pad_mode="constant"
    )
    bands = librosa.filters.mel(sr=16_000, n_fft=800, n_mels=80, fmin=55, fmax=7600, dtype=np.float64)
    level = 20 * np.log10(np.maximum(1e-5, bands @ np.abs(spectrum))) - 20
    return np.clip(8 * ((level + 100) / 100) - 4, -4, 4).T


def test_mel_equals_librosa() -> None:
    pcm = make_speech(48_123)
    np.testing.assert_allclose(mel.mel_spectrogram(pcm), librosa_mel(pcm), atol=1e-4, rtol=0)


@pytest.mark.parametrize("frequency_hz", [60, 440, 999, 1000, 1001, 3000, 7500])
def test_mel_of_a_tone_equals_librosa(frequency_hz: int) -> None:
    tone = (8000 * np.sin(2 * np.pi * frequency_hz * np.arange(8000) / 16_000)).astype(np.int16)
    np.testing.assert_allclose(mel.mel_spectrogram(tone), librosa_mel(tone), atol=1e-4, rtol=0)


def test_filterbank_equals_librosa() -> None:
    wanted = librosa.filters.mel(sr=16_000, n_fft=800, n_mels=80, fmin=55, fmax=7600, dtype=np.float64)
    np.testing.assert_allclose(mel.mel_filterbank(), wanted, atol=1e-15, rtol=1e-12)


def test_mel_scale_equals_librosa_and_inverts() -> None:
    frequencies_hz = np.linspace(0, 8000, 1001)
    scale = mel.hz_to_mel(frequencies_hz)
    np.testing.assert_allclose(scale, librosa.hz_to_mel(frequencies_hz), rtol=1e-12)
    np.testing.assert_allclose(mel.mel_to_hz(scale), frequencies_hz, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("samples", [1, 199, 200, 399, 401, 3200, 3201])
def test_shape_and_dtype(samples: int) -> None:
    result = mel.mel_spectrogram(make_speech(samples))
    assert result.shape == (1 + samples // 200, 80)
    assert result.dtype == np.float32


def test_silence_is_the_lowest_value() -> None:
    assert (mel.mel_spectrogram(np.zeros(3200, np.int16)) == -4).all()


def test_full_scale_stays_in_range() -> None:
    square = np.where(np.arange(16_000) // 8 % 2, 32_767, -32_768).astype(np.int16)
    result = mel.mel_spectrogram(square)
    assert result.min() >= -4
    assert 2 < result.max() <= 4


def test_input_is_left_alone() -> None:
    pcm = make_speech(3200)
    before = pcm.copy()
    mel.mel_spectrogram(pcm)
    np.testing.assert_array_equal(pcm, before)


@pytest.mark.parametrize("hops", range(7, 76))
def test_a_frame_has_the_same_bits_in_a_signal_of_any_length(hops: int) -> None:
    pcm = make_speech(80 * 200)
    whole, part = mel.mel_spectrogram(pcm), mel.mel_spectrogram(pcm[: hops * 200])
    true_frames = slice(0, hops - 1)  # the last two see beyond the part's end
    assert part[true_frames].tobytes() == whole[true_frames].tobytes()


@pytest.mark.parametrize("first_hop", [*range(1, 34), 48, 64])
@pytest.mark.parametrize("hops", [8, 23, 40])
def test_a_frame_has_the_same_bits_at_any_offset(first_hop: int, hops: int) -> None:
    pcm = make_speech(120 * 200, seed=1)
    whole = mel.mel_spectrogram(pcm)
    part = mel.mel_spectrogram(pcm[first_hop * 200 : (first_hop + hops) * 200])
    # Frames 0 … 2 and the last two see the part's ends (frame 2 by the pre-emphasis of its first sample).
    assert part[3 : hops - 1].tobytes() == whole[first_hop + 3 : first_hop + hops - 1].tobytes()


def test_bits_do_not_depend_on_where_the_buffer_lies() -> None:
    """Tensors arrive in shared memory at any address."""
    pcm = make_speech(3 * GRID_SAMPLES)
    wanted = mel.mel_spectrogram(pcm).tobytes()
    for shift in range(1, 33):
        room = np.zeros(pcm.size + 33, np.int16)
        moved = room[shift : shift + pcm.size]
        moved[:] = pcm
        assert mel.mel_spectrogram(moved).tobytes() == wanted
