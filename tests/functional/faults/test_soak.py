"""Half an hour of avatars that come and go, and of one that speaks all the while: nothing grows, nothing drifts."""

from __future__ import annotations

import asyncio
import logging
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from client import AvatarPool, Frame, PoolSettings
from compositor_backend import contract
from tests.functional.faults.conftest import make_catalogue
from tests.support.footprint import Footprint, footprint
from tests.support.served import Served, serving
from tests.support.streams import viewers

pytestmark = [pytest.mark.functional, pytest.mark.soak]
_log = logging.getLogger(__name__)

SOAK_S = float(os.environ.get("LIPSTREAM_SOAK_S", "1800"))
WARM_SHARE = 0.1
"""Of the soak: in it, pools of memory and caches fill."""
SAMPLE_S = 5.0
AVATARS, MOST, VIEWERS = 6, 4, 3
PUSH_FRAMES = 5
CHECKED_FRAMES = 100
FRAME_S = 1 / contract.FRAME_RATE_HZ


async def test_half_an_hour(tmp_path: Path) -> None:
    catalogue = make_catalogue(tmp_path, AVATARS)
    speaker, *others = catalogue.ids
    with serving(catalogue.avatars, log=tmp_path / "triton.log") as served:
        async with AvatarPool([served.url], PoolSettings(most=MOST)) as pool:
            async with viewers(pool, others, VIEWERS, catalogue.source) as crowd:
                sampling = asyncio.create_task(sample(served))
                sound, frames = await speak_live(pool, speaker)
                samples = await sampling
            await check_in_step(pool, speaker, sound, frames)
        health = served.health()
    errors = [utterance.error for utterance in crowd.all() if utterance.error]
    _log.info("%d utterances beside it, %d loads", len(crowd.all()), pool.figures.loads)
    check_flat(samples)
    assert not errors
    assert (health["repairs"], health["restarts"]) == (0, 0)


async def speak_live(pool: AvatarPool, avatar: str) -> tuple[bytes, list[Frame]]:
    """One utterance as long as the soak, its sound pushed in real time; all its sound and its last frames."""
    rng = np.random.default_rng(0)
    chunks: list[bytes] = []
    last: list[Frame] = []
    count = 0

    async with pool.lease(avatar) as lease, lease.client.session(avatar) as session:

        async def push() -> None:
            begun_s = time.monotonic()
            while (now_s := len(chunks) * PUSH_FRAMES * FRAME_S) < SOAK_S:
                await asyncio.sleep(begun_s + now_s - time.monotonic())
                loudness = rng.integers(100, 12000)
                pcm = rng.integers(-loudness, loudness, PUSH_FRAMES * contract.SAMPLES_PER_FRAME).astype(
                    np.int16
                )
                chunks.append(pcm.tobytes())
                session.push_audio(pcm)
            session.end()

        pushing = asyncio.create_task(push())
        async for frame in session:
            assert frame.index == count, "a frame is missing or doubled"
            count += 1
            last = [*last[-CHECKED_FRAMES - 1 :], frame]
        await pushing
    assert count == len(chunks) * PUSH_FRAMES, "frames and sound are not equally long"
    return b"".join(chunks), last


async def check_in_step(pool: AvatarPool, avatar: str, sound: bytes, frames: Sequence[Frame]) -> None:
    """The last frames are what the last of the sound gives when it is said alone, at the same place: offset 0."""
    pcm = np.frombuffer(sound, np.int16)
    total = len(pcm) // contract.SAMPLES_PER_FRAME
    # The first of them still hear what was before.
    begin = total - CHECKED_FRAMES - 4 * PUSH_FRAMES
    tail = pcm[begin * contract.SAMPLES_PER_FRAME :]
    async with pool.lease(avatar) as lease:
        again = [frame async for frame in lease.client.speak(avatar, tail, first_frame=begin)]
    expected = {frame.index: frame.jpeg for frame in again[4 * PUSH_FRAMES :]}
    found = {frame.index: frame.jpeg for frame in frames if frame.index in expected}
    assert len(set(expected.values())) > CHECKED_FRAMES // 4, "the frames hardly depend on the sound"
    assert found == expected
    _log.info("the last %d frames of %d are in step with their sound", len(found), total)


async def sample(served: Served) -> list[Footprint]:
    samples = []
    end_s = time.monotonic() + SOAK_S
    while time.monotonic() < end_s:
        await asyncio.sleep(SAMPLE_S)
        samples.append(await asyncio.to_thread(footprint, served))
    return samples


def check_flat(samples: Sequence[Footprint]) -> None:
    """The last third against the first, warm-up left out; medians, since avatars come and go."""
    warm = samples[int(len(samples) * WARM_SHARE) :]
    third = len(warm) // 3
    early, late = warm[:third], warm[-third:]
    measures: dict[str, tuple[Callable[[Footprint], int], float, float]] = {
        # What it measures, by what share it may grow, and by how much besides.
        "memory": (lambda found: found.memory, 0.05, 0),
        "handles": (lambda found: found.handles, 0.02, 20),
        "segments": (lambda found: found.segments, 0.0, 2),
        "stubs": (lambda found: found.stubs, 0.0, 2),
    }
    for name, (read, share, besides) in measures.items():
        before, after = (statistics.median(map(read, part)) for part in (early, late))
        _log.info("%s: %.0f early, %.0f late", name, before, after)
        assert after <= before * (1 + share) + besides, name
