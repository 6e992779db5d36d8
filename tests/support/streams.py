"""Viewers that watch avatars speak, look at every frame, and keep a record of what they met."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field

import numpy as np

from client import AvatarPool, LipstreamError
from compositor_backend import contract
from tests.support.clones import Colour, shows

FRAMES = 15
CHUNK_FRAMES = 5


@dataclass(frozen=True)
class Utterance:
    """What became of one: `error` is empty if all frames came; times are of `time.monotonic`."""

    avatar: str
    began_s: float
    ended_s: float
    frames: int
    error: str = ""


class WrongFrameError(AssertionError):
    """A frame that is not what was asked for."""


@dataclass
class Viewers:
    """Streams that run side by side; `past` holds what they have met, by viewer."""

    past: list[list[Utterance]]
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def all(self) -> list[Utterance]:
        """What all of them have met."""
        return [utterance for own in self.past for utterance in own]

    async def until(self, condition: Callable[[], bool], within_s: float) -> None:
        """Return when it holds; fail if it does not in time, or with the error of a viewer that met a wrong frame."""
        async with asyncio.timeout(within_s):
            while not condition():
                for task in self.tasks:
                    if task.done():
                        task.result()
                self.changed.clear()
                await self.changed.wait()

    async def each_served_since(self, moment_s: float, within_s: float) -> None:
        """Return when every viewer has had an utterance in full that it began after `moment_s`."""
        await self.until(
            lambda: all(any(u.began_s >= moment_s and not u.error for u in own) for own in self.past),
            within_s,
        )


@asynccontextmanager
async def viewers(
    pool: AvatarPool, avatars: Sequence[str], count: int, source: Colour, *, seed: int = 0
) -> AsyncIterator[Viewers]:
    """`count` viewers who ask one avatar after another, chosen at random, until the block ends.

    At its end each finishes what it has begun. A wrong frame, or an error that is not one of ours, fails the block.
    """
    stop = asyncio.Event()
    found = Viewers([[] for _ in range(count)])
    for number in range(count):
        watching = _watch(pool, avatars, random.Random(f"{seed} {number}"), source, found, number, stop)
        found.tasks.append(asyncio.create_task(watching))
    try:
        yield found
    finally:
        stop.set()
        done = await asyncio.gather(*found.tasks, return_exceptions=True)
    for result in done:
        if isinstance(result, BaseException):
            raise result


async def _watch(
    pool: AvatarPool,
    avatars: Sequence[str],
    chance: random.Random,
    source: Colour,
    found: Viewers,
    number: int,
    stop: asyncio.Event,
) -> None:
    while not stop.is_set():
        avatar, first = chance.choice(avatars), chance.randrange(10_000)
        began_s, frames, error = time.monotonic(), 0, ""
        try:
            async with pool.lease(avatar) as lease:
                pcm = noise(FRAMES, chance.randrange(2**32))
                speech = lease.client.speak(
                    avatar, pcm, chunk_frames=CHUNK_FRAMES, first_frame=first, rects=True
                )
                async with aclosing(speech) as coming:
                    async for frame in coming:
                        if frame.index != first + frames or not shows(
                            avatar, frame.jpeg, frame.rect or (), source
                        ):
                            raise WrongFrameError(f"{avatar}: frame {frames} of {first} and on is wrong")
                        frames += 1
            if frames != FRAMES:
                raise WrongFrameError(f"{avatar}: {frames} frames came of {FRAMES}")
        except LipstreamError as failed:
            error = str(failed)
            await asyncio.sleep(0.1)  # as a viewer who presses the button again
        finally:
            found.past[number].append(Utterance(avatar, began_s, time.monotonic(), frames, error))
            found.changed.set()


def noise(frames: int, seed: int) -> np.ndarray[tuple[int], np.dtype[np.int16]]:
    """Sound for so many frames, 16 kHz mono int16."""
    samples = np.random.default_rng(seed).integers(-3000, 3000, frames * contract.SAMPLES_PER_FRAME)
    return samples.astype(np.int16)
