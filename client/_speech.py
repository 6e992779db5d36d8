"""One utterance's sound, cut into what requests carry.

A request for frames ``start … start+B`` of an utterance carries the samples from 10 frames before `start` to
12 frames after its last; zeros past either end. Requests start on multiples of 5 frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.errors import AudioError
from compositor_backend.contract import (
    CHUNK_GRID_FRAMES,
    FRAMES_AFTER,
    FRAMES_BEFORE,
    SAMPLES_PER_FRAME,
    pcm_samples,
)

_BYTES_PER_SAMPLE = 2


@dataclass(frozen=True)
class Chunk:
    """Frames of an utterance from `start` on, and the PCM (int16) that a request for them carries.

    The last `idle` of the frames come after the utterance's end.
    """

    start: int
    frames: int
    pcm: NDArray[np.int16]
    idle: int = 0


def frame_count(samples: int) -> int:
    """Frames of an utterance of so many samples: a frame for each 40 ms begun."""
    return -(-samples // SAMPLES_PER_FRAME)


def check_pcm(pcm: NDArray[Any]) -> NDArray[np.int16]:
    """`pcm` itself if it is one-dimensional int16; `AudioError` otherwise."""
    if not isinstance(pcm, np.ndarray):
        raise AudioError(f"expected PCM as a numpy array of int16, got {type(pcm).__name__}")
    if pcm.dtype != np.int16:
        raise AudioError(f"expected PCM int16, got {pcm.dtype} (client.to_pcm converts)")
    if pcm.ndim != 1:
        raise AudioError(f"expected PCM [samples], one channel, got {list(pcm.shape)}")
    return pcm


class SpeechBuffer:
    """An utterance as it arrives; hands out chunk after chunk and forgets what no chunk will need again.

    With `echo` it hands out the frames after its end that still hear it, too: `FRAMES_BEFORE` of them.
    """

    def __init__(self, echo: bool = False) -> None:
        self.ended = False
        self._echo_frames = FRAMES_BEFORE if echo else 0
        self._bytes = bytearray()
        self._forgotten = 0
        self._taken = 0

    @property
    def samples(self) -> int:
        """Samples that have arrived."""
        return self._forgotten + len(self._bytes) // _BYTES_PER_SAMPLE

    @property
    def frames(self) -> int:
        """Frames of the sound that has arrived."""
        return frame_count(self.samples)

    @property
    def queued_samples(self) -> int:
        """Samples that have arrived and whose frames have not been handed out."""
        return max(0, self.samples - self._taken * SAMPLES_PER_FRAME)

    @property
    def taken_frames(self) -> int:
        """Frames handed out."""
        return self._taken

    @property
    def finished(self) -> bool:
        """Whether the sound has ended and all its frames have been handed out, those that echo it aside."""
        return self.ended and self._taken >= self.frames

    def append(self, pcm: NDArray[np.int16]) -> None:
        """More sound."""
        self._bytes += pcm.tobytes()

    def end(self) -> None:
        """No more sound will come: frames near the end may be handed out, with zeros after the end."""
        self.ended = True

    def take(self, limit_frames: int) -> Chunk | None:
        """The next chunk, of `limit_frames` at most; None while its look-ahead has not arrived."""
        start, stop = self._taken, self._stop(limit_frames)
        if stop == start:
            return None
        idle = max(0, stop - max(start, self.frames)) if self.ended else 0
        chunk = Chunk(start, stop - start, self._window(start, stop), idle)
        self._taken = stop
        self._forget()
        return chunk

    def _stop(self, limit_frames: int) -> int:
        if self.ended:
            return min(self._taken + limit_frames, self._end())
        ready = max(self._taken, self.samples // SAMPLES_PER_FRAME - FRAMES_AFTER)
        stop = min(self._taken + limit_frames, ready)
        return stop - stop % CHUNK_GRID_FRAMES

    def _end(self) -> int:
        """Where the last chunk of the utterance ends, and after that one, its echo."""
        spoken = self.frames
        if spoken == 0 or self._echo_frames == 0:
            return spoken
        # What echoes is a request of its own, lest the utterance's last frames wait for it, and on the grid.
        whole = -(-spoken // CHUNK_GRID_FRAMES) * CHUNK_GRID_FRAMES
        return whole if self._taken < spoken else spoken + self._echo_frames

    def _window(self, start: int, stop: int) -> NDArray[np.int16]:
        window = np.zeros(pcm_samples(stop - start), np.int16)
        first = (start - FRAMES_BEFORE) * SAMPLES_PER_FRAME
        low, high = max(first, 0), min(first + len(window), self.samples)
        window[low - first : high - first] = self._slice(low, high)
        return window

    def _slice(self, low: int, high: int) -> NDArray[np.int16]:
        # A copy: a view would forbid the bytearray to grow.
        begin, end = ((at - self._forgotten) * _BYTES_PER_SAMPLE for at in (low, high))
        return np.frombuffer(bytes(self._bytes[begin:end]), np.int16)

    def _forget(self) -> None:
        needed = max(0, (self._taken - FRAMES_BEFORE) * SAMPLES_PER_FRAME)
        surplus = min(needed, self.samples) - self._forgotten
        if surplus > 0:
            del self._bytes[: surplus * _BYTES_PER_SAMPLE]
            self._forgotten += surplus
