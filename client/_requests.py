"""From a chunk of speech to the tensors of a request, and from its answer to frames."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client._settings import MAX_FRAME_INDEX
from client._speech import Chunk
from client.errors import ServerFaultError, SessionError
from compositor_backend import contract

Rect = tuple[int, int, int, int]


@dataclass(frozen=True)
class Frame:
    """A finished frame.

    - `index`: Position on the avatar's timeline.
    - `timestamp_s`: Time since the utterance's beginning; 0 of an idle frame.
    - `jpeg`: The whole baseline JPEG.
    - `rect`: Face box x1, y1, x2, y2 in pixels, if it was asked for.
    - `idle`: Whether it belongs to no utterance: shown by a session while nobody speaks.
    """

    index: int
    timestamp_s: float
    jpeg: bytes
    rect: Rect | None = None
    idle: bool = False


@dataclass(frozen=True)
class FrameRequest:
    """A request for a chunk of an utterance whose first frame is at `base` on the avatar's timeline."""

    avatar: str
    chunk: Chunk
    base: int
    rects: bool

    def __post_init__(self) -> None:
        if self.base + self.chunk.start + self.chunk.frames - 1 > MAX_FRAME_INDEX:
            raise SessionError(f"the avatar's timeline ends at frame {MAX_FRAME_INDEX}; start again from 0")

    @property
    def model(self) -> str:
        """The ensemble's name."""
        return contract.avatar_ensemble_name(self.avatar)

    @property
    def silent(self) -> bool:
        """Whether nothing is heard in all of its window, so that idle frames are what the network would draw."""
        return not self.chunk.pcm.any()

    @property
    def outputs(self) -> list[str]:
        """Names of the tensors asked for."""
        return [contract.JPEG.name, contract.RECT.name] if self.rects else [contract.JPEG.name]

    def inputs(self) -> dict[str, NDArray[Any]]:
        """The tensors to send."""
        return {**self.idle_inputs(), contract.PCM.name: self.chunk.pcm}

    def idle_inputs(self) -> dict[str, NDArray[Any]]:
        """The tensors to send for idle frames: no sound."""
        first = self.base + self.chunk.start
        return {
            contract.AVATAR.name: np.array([self.avatar.encode()], dtype=object),
            contract.FRAME_INDEX.name: np.arange(first, first + self.chunk.frames, dtype=np.int32),
        }

    def frames(self, answer: Mapping[str, NDArray[Any]], url: str) -> list[Frame]:
        """The frames in an answer; `url` is for the error where their number is wrong."""
        jpegs = answer[contract.JPEG.name]
        rects = answer[contract.RECT.name].tolist() if self.rects else [None] * len(jpegs)
        if not len(jpegs) == len(rects) == self.chunk.frames:
            raise ServerFaultError(
                f"Triton at {url} sent {len(jpegs)} frames and {len(rects)} face boxes "
                f"where {self.chunk.frames} were asked for",
                url=url,
            )
        return [self._frame(offset, *pair) for offset, pair in enumerate(zip(jpegs, rects, strict=True))]

    def _frame(self, offset: int, jpeg: bytes, rect: list[int] | None) -> Frame:
        position = self.chunk.start + offset
        box = None if rect is None else (rect[0], rect[1], rect[2], rect[3])
        idle = offset >= self.chunk.frames - self.chunk.idle
        timestamp_s = 0.0 if idle else position / contract.FRAME_RATE_HZ
        return Frame(self.base + position, timestamp_s, bytes(jpeg), box, idle)
