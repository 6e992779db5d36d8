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
    - `jpeg`: The whole baseline JPEG; empty if regions were asked for.
    - `rect`: Face box x1, y1, x2, y2 in px, if it was asked for.
    - `idle`: Whether it belongs to no utterance: shown by a session while nobody speaks.
    - `region`: If regions were asked for, the changed part alone, a baseline JPEG. Drawn at `region_rect` over any
      picture of the same template frame (`AvatarInfo.template_index`), such as an idle one, it gives this frame.
    - `region_rect`: Where that lies in the frame: x1, y1, x2, y2 in px, x2 and y2 exclusive.
    """

    index: int
    timestamp_s: float
    jpeg: bytes
    rect: Rect | None = None
    idle: bool = False
    region: bytes | None = None
    region_rect: Rect | None = None


@dataclass(frozen=True)
class FrameRequest:
    """A request for a chunk of an utterance whose first frame is at `base` on the avatar's timeline."""

    avatar: str
    chunk: Chunk
    base: int
    rects: bool = False
    regions: bool = False

    def __post_init__(self) -> None:
        if self.base + self.chunk.start + self.chunk.frames - 1 > MAX_FRAME_INDEX:
            raise SessionError(f"the avatar's timeline ends at frame {MAX_FRAME_INDEX}; start again from 0")

    @property
    def silent(self) -> bool:
        """Whether nothing is heard in all of its window, so that idle frames are what the network would draw."""
        return not self.chunk.pcm.any()

    @property
    def outputs(self) -> list[str]:
        """Names of the tensors asked for."""
        pictures = [contract.REGION, contract.REGION_RECT] if self.regions else [contract.JPEG]
        rects = [contract.RECT] if self.rects else []
        return [tensor.name for tensor in (*pictures, *rects)]

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
        counts = {name: len(answer[name]) for name in self.outputs}
        if set(counts.values()) != {self.chunk.frames}:
            got = ", ".join(f"{count} in {name}" for name, count in counts.items())
            raise ServerFaultError(
                f"Triton at {url} sent {got} where {self.chunk.frames} frames were asked for", url=url
            )
        return [self._frame(offset, answer) for offset in range(self.chunk.frames)]

    def _frame(self, offset: int, answer: Mapping[str, NDArray[Any]]) -> Frame:
        position = self.chunk.start + offset
        idle = offset >= self.chunk.frames - self.chunk.idle
        return Frame(
            index=self.base + position,
            timestamp_s=0.0 if idle else position / contract.FRAME_RATE_HZ,
            jpeg=b"" if self.regions else bytes(answer[contract.JPEG.name][offset]),
            rect=_rect(answer[contract.RECT.name][offset]) if self.rects else None,
            idle=idle,
            region=bytes(answer[contract.REGION.name][offset]) if self.regions else None,
            region_rect=_rect(answer[contract.REGION_RECT.name][offset]) if self.regions else None,
        )


def _rect(row: NDArray[Any]) -> Rect:
    x1, y1, x2, y2 = row.tolist()
    return x1, y1, x2, y2
