"""How people use the server: live streams with clocks of their own, clients that ask as fast as they can, and others.

All go through `client`, so what they measure is what a user's program sees. Times are the event loop's, in seconds.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from client import LipstreamClient
from compositor_backend.contract import CHUNK_GRID_FRAMES, FRAME_RATE_HZ, FRAMES_AFTER, SAMPLES_PER_FRAME

Pcm = NDArray[np.int16]
"""16 kHz mono."""

FRAME_S = 1 / FRAME_RATE_HZ
PLAYOUT_S = 0.1
"""How long a viewer's player holds the first frame back, so that it need not stop for a later one."""
NEEDED_SAMPLES = (CHUNK_GRID_FRAMES + FRAMES_AFTER) * SAMPLES_PER_FRAME
"""Sound that the first frames need: their own, and what the network looks ahead."""


# --- live streams ---
@dataclass
class LiveLog:
    """What the viewers of live streams saw.

    `age_s` is, for every frame, the time since the last sample that it depends on was pushed; `late_s` how far it
    missed its turn on the viewer's clock (negative: it was early); `disordered` counts frames lost or out of order.
    """

    age_s: list[float] = field(default_factory=list)
    late_s: list[float] = field(default_factory=list)
    disordered: int = 0

    @property
    def late_share(self) -> float:
        """The share of frames that came too late to be shown in time."""
        return float(np.mean(np.array(self.late_s) > 0)) if self.late_s else math.nan

    @property
    def longest_stop_s(self) -> float:
        """The longest that a picture stood still beyond its time."""
        return max([0.0, *self.late_s])


async def live_streams(
    client: LipstreamClient, avatar: str, pcm: Pcm, streams: int, span_s: float, seed: int = 0
) -> LiveLog:
    """So many viewers for `span_s`: each hears `pcm`, over and over, in real time, and watches at 25 frames/s.

    Their clocks start at random within a chunk, as strangers' do.
    """
    random = np.random.default_rng(seed)
    phases = random.uniform(0, CHUNK_GRID_FRAMES * FRAME_S, streams)
    log = LiveLog()
    await asyncio.gather(
        *(
            _live_stream(client, avatar, np.roll(pcm, -7 * number * SAMPLES_PER_FRAME), phase, span_s, log)
            for number, phase in enumerate(phases.tolist())
        )
    )
    return log


async def _live_stream(
    client: LipstreamClient, avatar: str, pcm: Pcm, phase_s: float, span_s: float, log: LiveLog
) -> None:
    start_s = asyncio.get_running_loop().time() + phase_s
    blocks = math.ceil(span_s / FRAME_S)
    async with client.session(avatar, chunk_frames=CHUNK_GRID_FRAMES) as session:

        async def speak() -> None:
            for block in range(blocks):
                await _sleep_until(start_s + (block + 1) * FRAME_S)
                first = block * SAMPLES_PER_FRAME % (len(pcm) - SAMPLES_PER_FRAME)
                session.push_audio(pcm[first : first + SAMPLES_PER_FRAME])
            # What is left depends on the end of the utterance, not on sound in real time.
            session.clear()
            await session.aclose()

        speaker = asyncio.create_task(speak())
        shown: list[float] = []
        async for frame in session:
            log.disordered += frame.index != len(shown)
            shown.append(asyncio.get_running_loop().time())
        await speaker
    _note(log, shown, start_s)


def _note(log: LiveLog, shown: Sequence[float], start_s: float) -> None:
    for number, at_s in enumerate(shown):
        chunk_end = (number // CHUNK_GRID_FRAMES + 1) * CHUNK_GRID_FRAMES
        log.age_s.append(at_s - (start_s + (chunk_end + FRAMES_AFTER) * FRAME_S))
        log.late_s.append(at_s - (shown[0] + PLAYOUT_S + number * FRAME_S))


async def idle_streams(
    client: LipstreamClient, avatar: str, streams: int, span_s: float, seed: int = 0
) -> LiveLog:
    """So many sessions that idle for `span_s`, each taking a frame when its own clock wants one."""
    phases = np.random.default_rng(seed).uniform(0, FRAME_S, streams)
    log = LiveLog()
    loop = asyncio.get_running_loop()
    started_s = loop.time()

    async def watch(phase_s: float) -> None:
        async with client.session(avatar, idle=True) as session:
            for number in range(math.ceil(span_s / FRAME_S)):
                due_s = started_s + phase_s + number * FRAME_S
                await _sleep_until(due_s)
                log.disordered += (await anext(session)).index != number
                log.late_s.append(loop.time() - due_s - PLAYOUT_S)

    await asyncio.gather(*map(watch, phases.tolist()))
    return log


async def most_streams(try_streams: Callable[[int], Awaitable[bool]], limit: int) -> int:
    """The largest number up to `limit` with which `try_streams` succeeds, found by doubling, then halving."""
    good, bad = 0, limit + 1
    streams = 1
    while good + 1 < bad:
        if await try_streams(streams):
            good = streams
            streams = min(2 * streams, limit) if bad > limit else (good + bad) // 2
        else:
            bad = streams
            streams = (good + bad) // 2
    return good


# --- as fast as it goes ---
@dataclass(frozen=True)
class Throughput:
    """Frames a second over all clients, and how many frames were lost or out of order."""

    frames_per_s: float
    disordered: int


async def saturate(
    client: LipstreamClient, avatar: str, pcm: Pcm, clients: int, frames: int, chunk_frames: int = 25
) -> Throughput:
    """So many clients that together want that many frames, each in one utterance with four requests under way.

    The work is given, not the time: requests that were broken off would be computed into the next measurement.
    """
    loop = asyncio.get_running_loop()
    each = math.ceil(frames / clients)
    sounds = np.resize(pcm, (clients, each * SAMPLES_PER_FRAME))

    async def speak(sound: Pcm) -> int:
        numbers = []
        stream = client.speak(avatar, sound, chunk_frames=chunk_frames, first_chunk_frames=None)
        async with aclosing(stream):
            async for frame in stream:
                numbers.append(frame.index)
        return sum(found != wanted for wanted, found in enumerate(numbers)) + each - len(numbers)

    started_s = loop.time()
    disordered = sum(await asyncio.gather(*map(speak, sounds)))
    return Throughput(clients * each / (loop.time() - started_s), disordered)


async def request_latencies(
    client: LipstreamClient, avatar: str, pcm: Pcm, frames_per_s: float, streams: int, span_s: float
) -> list[float]:
    """Seconds that requests of five frames take, asked for at that rate whether or not earlier ones are answered.

    Each of `streams` strangers asks in even steps, once at least; when they began is chance.
    """
    loop = asyncio.get_running_loop()
    step_s = streams * CHUNK_GRID_FRAMES / frames_per_s
    phases = np.random.default_rng(0).uniform(0, step_s, streams)
    started_s = loop.time()
    taken: list[float] = []

    async def ask(at_s: float, block: int) -> None:
        await _sleep_until(at_s)
        first = block * CHUNK_GRID_FRAMES * SAMPLES_PER_FRAME % (len(pcm) - NEEDED_SAMPLES)
        sound = pcm[first : first + CHUNK_GRID_FRAMES * SAMPLES_PER_FRAME]
        async with aclosing(client.speak(avatar, sound, chunk_frames=CHUNK_GRID_FRAMES)) as frames:
            async for _ in frames:
                pass
        taken.append(loop.time() - at_s)

    await asyncio.gather(
        *(
            ask(started_s + phase + number * step_s, number)
            for phase in phases.tolist()
            for number in range(max(1, int((span_s - phase) / step_s)))
        )
    )
    return taken


# --- the first frame ---
async def first_frame_s(client: LipstreamClient, avatar: str, pcm: Pcm) -> tuple[float, float]:
    """Seconds from the last sample that it needs to the first frame: of an utterance, and of one that interrupts it."""
    loop = asyncio.get_running_loop()
    async with client.session(avatar, chunk_frames=CHUNK_GRID_FRAMES) as session:
        taken = []
        for _ in range(2):
            started_s = loop.time()
            session.push_audio(pcm[:NEEDED_SAMPLES])
            await anext(session)
            taken.append(loop.time() - started_s)
            # More is under way when the interruption comes.
            session.push_audio(pcm[NEEDED_SAMPLES : 3 * NEEDED_SAMPLES])
            session.clear()
    return taken[0], taken[1]


async def _sleep_until(at_s: float) -> None:
    await asyncio.sleep(max(0.0, at_s - asyncio.get_running_loop().time()))
