"""Speech to mel spectrogram, as the audio encoders were trained on it.

16 kHz; pre-emphasis 0.97; STFT of 800 samples every 200, Hann, centred; magnitudes; 80 mel bands from 55 to
7600 Hz (Slaney scale and norm); 20·log10, −20 dB, to [-4, 4].

A mel frame depends on its own 801 samples and on nothing else, to the last bit: however long the signal is
and wherever in it the frame lies, the same samples give the same 80 numbers. Chunks of an utterance therefore
give the features of the whole. That forbids a matrix product, whose order of summation a BLAS library chooses
by the number of rows; all steps below go element by element or row by row.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from compositor_backend.contract import MEL_BANDS, SAMPLE_RATE_HZ

PCM_FULL_SCALE = 32_768.0
PRE_EMPHASIS = 0.97
FFT_SAMPLES = 800
"""Samples that a mel frame sees; the window is as long as the transform."""
HOP_SAMPLES = 200
HALF_WINDOW_SAMPLES = FFT_SAMPLES // 2  # 400
MEL_FRAMES_PER_SECOND = SAMPLE_RATE_HZ // HOP_SAMPLES  # 80
FFT_BINS = FFT_SAMPLES // 2 + 1  # 401
BAND_MIN_HZ = 55.0
BAND_MAX_HZ = 7600.0

FLOOR = 1e-5
"""The least magnitude, −100 dB; silence."""
REFERENCE_DB = 20.0
MIN_DB = -100.0
MEL_LIMIT = 4.0
"""Mel values lie in [-4, 4]."""

# Slaney's mel scale (M. Slaney, Auditory Toolbox, 1998): linear up to 1 kHz, logarithmic above,
# where 27 steps make a factor of 6.4.
_LINEAR_HZ_PER_MEL = 200.0 / 3.0
_BREAK_HZ = 1000.0
_BREAK_MEL = _BREAK_HZ / _LINEAR_HZ_PER_MEL  # 15
_LOG_STEP = np.log(6.4) / 27.0


def mel_spectrogram(pcm: NDArray[np.int16]) -> NDArray[np.float32]:
    """Mel frames float32 [1 + n // 200, 80] of int16 samples [n] at 16 kHz, in [-4, 4].

    Frame t is centred on sample 200·t. Before the first sample and after the last the signal counts as 0;
    frames that reach there (t < 3 and t > (n - 400) / 200) are no true part of a longer signal.
    """
    magnitudes = _stft_magnitudes(_pre_emphasise(pcm / PCM_FULL_SCALE))
    return _normalise(_mel_bands(magnitudes))


def hz_to_mel(frequency_hz: NDArray[np.float64]) -> NDArray[np.float64]:
    """Slaney's mel scale."""
    linear = frequency_hz / _LINEAR_HZ_PER_MEL
    log = _BREAK_MEL + np.log(np.maximum(frequency_hz, _BREAK_HZ) / _BREAK_HZ) / _LOG_STEP
    return np.where(frequency_hz < _BREAK_HZ, linear, log)


def mel_to_hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    """The inverse of `hz_to_mel`."""
    linear = mel * _LINEAR_HZ_PER_MEL
    log = _BREAK_HZ * np.exp(_LOG_STEP * (np.maximum(mel, _BREAK_MEL) - _BREAK_MEL))
    return np.where(mel < _BREAK_MEL, linear, log)


def mel_filterbank() -> NDArray[np.float64]:
    """Weights float64 [80, 401] of the bins in each band.

    Band m is a triangle over edges m, m+1, m+2 of 82 edges evenly spaced in mel, scaled to an area of 1 Hz
    (Slaney's norm: 2 / width in Hz).
    """
    ends = hz_to_mel(np.array([BAND_MIN_HZ, BAND_MAX_HZ]))
    edges_hz = mel_to_hz(np.linspace(ends[0], ends[1], MEL_BANDS + 2))
    low, centre, high = edges_hz[:-2, None], edges_hz[1:-1, None], edges_hz[2:, None]
    bins_hz = np.arange(FFT_BINS) * (SAMPLE_RATE_HZ / FFT_SAMPLES)
    rising = (bins_hz - low) / (centre - low)
    falling = (high - bins_hz) / (high - centre)
    weights: NDArray[np.float64] = np.maximum(0.0, np.minimum(rising, falling)) * (2.0 / (high - low))
    return weights


def _pre_emphasise(signal: NDArray[np.float64]) -> NDArray[np.float64]:
    """``y[t] = x[t] - 0.97·x[t-1]``, with 400 zeros added at either end."""
    emphasised = np.zeros(signal.size + FFT_SAMPLES)
    inner = emphasised[HALF_WINDOW_SAMPLES : HALF_WINDOW_SAMPLES + signal.size]
    inner[:] = signal
    inner[1:] -= PRE_EMPHASIS * signal[:-1]
    return emphasised


def _stft_magnitudes(padded: NDArray[np.float64]) -> NDArray[np.float64]:
    """Magnitudes float64 [T, 401]; numpy transforms row by row."""
    frames = np.lib.stride_tricks.sliding_window_view(padded, FFT_SAMPLES)[::HOP_SAMPLES]
    spectrum = np.fft.rfft(frames * _hann_window(), axis=1)
    # Not np.abs: IEEE fixes the rounding of ×, + and √, not that of hypot.
    magnitudes: NDArray[np.float64] = np.sqrt(spectrum.real**2 + spectrum.imag**2)
    return magnitudes


def _mel_bands(magnitudes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Band magnitudes float64 [T, 80]: each band's few bins are weighted and summed, row by row."""
    bins, weights, starts = _sparse_filterbank()
    bands: NDArray[np.float64] = np.add.reduceat(magnitudes[:, bins] * weights, starts, axis=1)
    return bands


def _normalise(bands: NDArray[np.float64]) -> NDArray[np.float32]:
    """Decibels, the reference taken off, [-100, 0] dB stretched to [-4, 4] and clipped."""
    level_db = 20.0 * np.log10(np.maximum(FLOOR, bands)) - REFERENCE_DB
    scaled = 2.0 * MEL_LIMIT * ((level_db - MIN_DB) / -MIN_DB) - MEL_LIMIT
    mel: NDArray[np.float64] = np.clip(scaled, -MEL_LIMIT, MEL_LIMIT)
    return mel.astype(np.float32)


@lru_cache(maxsize=1)
def _hann_window() -> NDArray[np.float64]:
    """Periodic Hann window, 800 samples."""
    window: NDArray[np.float64] = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(FFT_SAMPLES) / FFT_SAMPLES)
    return window


@lru_cache(maxsize=1)
def _sparse_filterbank() -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.intp]]:
    """The filterbank's non-zero weights, band after band: their bins, values, and each band's start."""
    filterbank = mel_filterbank()
    bands, bins = np.nonzero(filterbank)
    starts = np.searchsorted(bands, np.arange(MEL_BANDS))
    return bins, filterbank[bands, bins], starts
