"""Pools of avatars on a real Triton: what its model control really does under load, and between pools."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from client import AvatarPool, LipstreamClient, PoolFullError, PoolSettings, RetryPolicy, ServerFaultError
from client._server_memory import MetricsReader
from server.launcher import TritonServer
from tests.functional.client.fake_avatars import write_repository
from tests.functional.client.test_client import pid_of
from tests.support.triton import running_triton
from tests.unit.client.speaker import FRAME, frames_of, noise

pytestmark = pytest.mark.functional

NAMES = ("ann", "bob", "cat", "dan", "eve", "fay")
FRAMES = 12
WAIT_S = 120


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("residency")
    write_repository(folder, NAMES)
    return folder


@pytest.fixture(scope="module")
def triton(repository: Path) -> Iterator[TritonServer]:
    # As in production: what avatars share is loaded first, and never by an avatar.
    with running_triton([repository], models=("ears", "pen")) as server:
        yield server


async def visit(pool: AvatarPool, avatar: str, seed: int) -> None:
    """Every frame of an utterance, with its own face, its own sound, and in its place."""
    pcm = noise(FRAMES * FRAME, seed)
    async with pool.lease(avatar) as lease:
        frames = lease.client.speak(avatar, pcm, first_frame=seed)
        assert [frame async for frame in frames] == frames_of(pcm, avatar, seed)


async def wander(pool: AvatarPool, seed: int, visits: int) -> None:
    chance = random.Random(seed)
    for number in range(visits):
        await visit(pool, chance.choice(NAMES), 100 * seed + number)


async def loaded_on(url: str) -> set[str]:
    async with LipstreamClient(url) as client:
        return {state.avatar for state in await client.avatars() if state.state == "ready"}


async def test_a_storm_of_visitors_sees_the_right_frames_and_no_more_than_two_stay(
    triton: TritonServer,
) -> None:
    async with AvatarPool([triton.grpc_url], PoolSettings(most=2)) as pool:
        await asyncio.wait_for(asyncio.gather(*(wander(pool, seed, 4) for seed in range(8))), WAIT_S)
        figures = pool.figures
        assert figures.hits + figures.misses == 32
        assert figures.misses == figures.loads
        assert await loaded_on(triton.grpc_url) == set(pool.resident[triton.grpc_url])
        assert len(pool.resident[triton.grpc_url]) == 2


async def test_two_pools_that_take_each_others_avatars_away_lose_nothing(triton: TritonServer) -> None:
    settings = PoolSettings(most=1)
    async with (
        AvatarPool([triton.grpc_url], settings) as one,
        AvatarPool([triton.grpc_url], settings) as other,
    ):
        pools = (one, other, one, other)
        await asyncio.wait_for(
            asyncio.gather(*(wander(pool, seed, 4) for seed, pool in enumerate(pools))), WAIT_S
        )


async def test_what_cannot_be_loaded_says_why_and_takes_no_place(triton: TritonServer) -> None:
    async with AvatarPool([triton.grpc_url], PoolSettings(most=1)) as pool:
        with pytest.raises(ServerFaultError, match="no_such_backend"):
            await visit(pool, "broken", 1)
        await asyncio.wait_for(visit(pool, "ann", 2), WAIT_S)


async def until_memory_is_known(metrics_url: str) -> int:
    """Bytes in use on the machine; Triton says 0 until it has looked."""
    reader = MetricsReader(metrics_url)
    while not (used := (await reader.read()).host_bytes):
        await asyncio.sleep(0.1)
    return used


async def test_budgets_go_by_tritons_own_metrics(triton: TritonServer) -> None:
    used = await asyncio.wait_for(until_memory_is_known(triton.metrics_url), WAIT_S)
    metrics = [triton.metrics_url]
    wide = PoolSettings(most=2, host_bytes=100 * used)
    async with AvatarPool([triton.grpc_url], wide, metrics_urls=metrics) as pool:
        await asyncio.wait_for(wander(pool, 1, 4), WAIT_S)
        tight = PoolSettings(most=2, host_bytes=1000, wait_s=0.1)
        async with AvatarPool([triton.grpc_url], tight, metrics_urls=metrics) as other:
            with pytest.raises(PoolFullError, match=r"host memory are in use and 1,000 may be"):
                await visit(other, "ann", 1)


async def test_a_lease_outlives_a_triton_that_is_killed(repository: Path) -> None:
    pcm = noise(60 * FRAME)
    with running_triton([repository], models=("ears", "pen")) as server:
        port = int(server.grpc_url.rsplit(":", 1)[1])
        # Long enough for a Triton to start.
        pool = AvatarPool([server.grpc_url], PoolSettings(most=1), retry=RetryPolicy(attempts=200))
        async with pool.lease("ann") as lease:
            frames = lease.client.speak("ann", pcm, chunk_frames=5, in_flight=1)
            got = [await anext(frames) for _ in range(10)]
            os.kill(pid_of(server), signal.SIGKILL)
            await asyncio.to_thread(server.stop)
            with running_triton([repository], models=("ears", "pen"), grpc_port=port):
                got += [frame async for frame in frames]
        await pool.close()
    assert got == frames_of(pcm, "ann")
