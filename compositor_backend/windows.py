"""From a request's samples to the encoder's windows, and from its embeddings to the network's audio input.

A request for frames c … c+B-1 carries samples from frame c-10 on. Frame i looks at encoder frames i-9 … i+6,
so the request needs encoder frames c-9 … c+B+5: M = B + 15 of them. Encoder frame j is the 16 mel frames from
``floor(3.2·j)`` on, counted from the start of the buffer. If c is a multiple of 5, so is c-10, and
``3.2·(c-10)`` is a whole number: the windows are then those of the whole utterance, whichever chunk they
come in.
A chunk that starts elsewhere is served too, on a grid of its own, up to 0.8 mel frames (10 ms) away.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from compositor_backend.contract import (
    EMBEDDING_SIZE,
    FRAME_RATE_HZ,
    FRAMES_AFTER,
    FRAMES_BEFORE,
    MEL,
    MEL_FRAMES_PER_WINDOW,
    SAMPLES_PER_FRAME,
    WINDOWS_BEFORE,
    WINDOWS_PER_FRAME,
)
from compositor_backend.errors import TensorError
from compositor_backend.mel import MEL_FRAMES_PER_SECOND, mel_spectrogram

FIRST_ENCODER_FRAME = FRAMES_BEFORE - WINDOWS_BEFORE
"""The first encoder frame that a request needs, counted from the start of its buffer: 1."""


def window_count(frames: int) -> int:
    """Mel windows (and embeddings) for a request of `frames` frames: B + 15."""
    return frames + WINDOWS_PER_FRAME - 1


def window_starts(frames: int) -> NDArray[np.int64]:
    """First mel frame int64 [B + 15] of each window, counted from the start of the request's buffer.

    ``floor(3.2·j)`` in whole numbers, since 3.2 is no binary fraction.
    """
    encoder_frames = FIRST_ENCODER_FRAME + np.arange(window_count(frames), dtype=np.int64)
    return encoder_frames * MEL_FRAMES_PER_SECOND // FRAME_RATE_HZ


def request_windows(pcm: NDArray[np.int16]) -> NDArray[np.float32]:
    """Mel windows float32 [B + 15, 1, 80, 16] of a request's buffer, int16 [(10 + B + 12)·640], B ≥ 1.

    Only samples 199 … 640·(B + 20) + 199 of the buffer can reach them, so its edges do not show.
    The length must have been checked (`contract.check_pcm`); B may exceed a request's 32 here.
    """
    frames = pcm.size // SAMPLES_PER_FRAME - FRAMES_BEFORE - FRAMES_AFTER
    return _cut_windows(mel_spectrogram(pcm), window_starts(frames))


def utterance_buffer(pcm: NDArray[np.int16]) -> NDArray[np.int16]:
    """A whole utterance int16 [n], n ≥ 1, as one long request's buffer for ``ceil(n / 640)`` frames.

    400 ms of zeros before it; after it the last frame filled up with zeros and 480 ms more.
    """
    frames = math.ceil(pcm.size / SAMPLES_PER_FRAME)
    before = FRAMES_BEFORE * SAMPLES_PER_FRAME
    after = (frames + FRAMES_AFTER) * SAMPLES_PER_FRAME - pcm.size
    return np.pad(pcm, (before, after))


def utterance_windows(pcm: NDArray[np.int16]) -> NDArray[np.float32]:
    """Mel windows float32 [F + 15, 1, 80, 16] of a whole utterance of F frames.

    Row k is encoder frame k-9, and frame i looks at rows i … i+15: the same bits as in requests cut from the
    utterance on the 5-frame grid. Feed their embeddings to `network_audio` for all F frames at once.
    """
    return request_windows(utterance_buffer(pcm))


def network_audio(embedding: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The network's audio input float32 [B, *shape] from embeddings float32 [B + 15, 512].

    Frame i's 16 rows i … i+15 are flattened row-major, e.g. into [32, 16, 16].
    `TensorError` if `shape` does not hold 16 x 512 numbers.
    """
    wanted = WINDOWS_PER_FRAME * EMBEDDING_SIZE
    if math.prod(shape) != wanted:
        raise TensorError(
            f"EMBEDDING makes {wanted} numbers a frame; the avatar's network takes {list(shape)}: "
            "it wants ready audio features"
        )
    rows = np.lib.stride_tricks.sliding_window_view(embedding, WINDOWS_PER_FRAME, axis=0)
    return np.ascontiguousarray(rows.transpose(0, 2, 1)).reshape(-1, *shape)


def frame_windows(windows: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The audio input float32 [B, 1, 80, 16] of a network that hears mel windows, from a request's B + 15.

    Frame i hears the window of encoder frame i, which begins with it. `TensorError` if `shape` is another.
    """
    if shape != MEL.shape[1:]:
        raise TensorError(
            f"MEL has windows of {list(MEL.shape[1:])}; the avatar's network takes {list(shape)}: "
            "it wants embeddings or ready audio features"
        )
    return windows[WINDOWS_BEFORE : WINDOWS_BEFORE + len(windows) - WINDOWS_PER_FRAME + 1]


def _cut_windows(mel: NDArray[np.float32], starts: NDArray[np.int64]) -> NDArray[np.float32]:
    """Windows float32 [M, 1, 80, 16] from mel frames [T, 80]: bands first, then time."""
    rows = mel[starts[:, None] + np.arange(MEL_FRAMES_PER_WINDOW)]
    return np.ascontiguousarray(rows.transpose(0, 2, 1))[:, None]
