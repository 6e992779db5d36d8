"""A stand-in for the avatars on a server: every frame is a digest of all that it may depend on.

A frame's bytes tell its avatar, its index and the 23 frames of sound around it, so that a wrong slice, a shifted
index or a mixed-up order gives other bytes. `frames_of` computes the same from the whole utterance.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client import Frame
from compositor_backend import contract

FRAME = contract.SAMPLES_PER_FRAME
AROUND = (contract.FRAMES_BEFORE + 1 + contract.FRAMES_AFTER) * FRAME


def noise(samples: int, seed: int = 0) -> NDArray[np.int16]:
    return np.random.default_rng(seed).integers(-32768, 32767, samples, dtype=np.int16)


def picture(avatar: str, index: int, around: NDArray[np.int16]) -> bytes:
    assert len(around) == AROUND
    return f"{avatar} {index} {hashlib.sha256(around.tobytes()).hexdigest()}".encode()


def box(index: int) -> tuple[int, int, int, int]:
    return (index, index + 1, index + 200, index + 300)


def frames_of(pcm: NDArray[np.int16], avatar: str = "demo", first_frame: int = 0) -> list[Frame]:
    """What a client must deliver for the whole utterance, computed without cutting it."""
    count = int(np.ceil(len(pcm) / FRAME))
    padded = np.zeros((10 + count + 12) * FRAME, np.int16)
    padded[10 * FRAME : 10 * FRAME + len(pcm)] = pcm
    return [
        Frame(
            first_frame + position,
            position / 25,
            picture(avatar, first_frame + position, padded[position * FRAME : position * FRAME + AROUND]),
        )
        for position in range(count)
    ]


def answer(inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """What the ensemble answers; checks the tensors as the server does."""
    avatar = contract.parse_avatar(inputs["AVATAR"])
    indices = contract.check_frame_index(inputs["FRAME_INDEX"])
    pcm = contract.check_pcm(inputs["PCM"], len(indices))
    jpegs = [
        picture(avatar, int(index), pcm[offset * FRAME : offset * FRAME + AROUND])
        for offset, index in enumerate(indices)
    ]
    rects = np.array([box(int(index)) for index in indices], np.int32)
    regions = np.array([b"region of " + jpeg for jpeg in jpegs], dtype=object)
    return {
        "JPEG": np.array(jpegs, dtype=object),
        "RECT": rects,
        "REGION": regions,
        "REGION_RECT": rects,
    }


@dataclass
class Call:
    """A request that waits for the test's word."""

    first: int
    frames: int
    inputs: Mapping[str, NDArray[Any]]
    done: asyncio.Future[dict[str, NDArray[Any]]]

    def answer(self) -> None:
        self.done.set_result(answer(self.inputs))

    def fail(self, error: Exception) -> None:
        self.done.set_exception(error)


@dataclass
class Desk:
    """Requests as they come; each waits until the test answers it."""

    calls: list[Call] = field(default_factory=list)
    cancelled: list[int] = field(default_factory=list)
    most_open: int = 0

    @property
    def open(self) -> list[Call]:
        return [call for call in self.calls if not call.done.done()]

    async def __call__(self, model: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        index = inputs["FRAME_INDEX"]
        future = asyncio.get_running_loop().create_future()
        call = Call(int(index[0]), len(index), inputs, future)
        self.calls.append(call)
        self.most_open = max(self.most_open, len(self.open))
        try:
            return await future
        except asyncio.CancelledError:
            self.cancelled.append(call.first)
            raise

    async def answer_until(self, reading: asyncio.Task[Any], *, last_first: bool = False) -> None:
        """Answer one request after another until `reading` is done; fails if that does not happen."""
        for _ in range(1000):
            await settle()
            if reading.done():
                return await reading
            if self.open:
                self.open[-1 if last_first else 0].answer()
        reading.cancel()
        raise AssertionError("still reading though every request has been answered")


async def answer_at_once(model: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return answer(inputs)


async def settle() -> None:
    """Let every task run until nothing is left to do but wait."""
    for _ in range(20):
        await asyncio.sleep(0)
