"""Scenarios against a server within the test, whose answers and mistakes are known."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from client import LipstreamClient, MemoryTransport
from compositor_backend.contract import SAMPLES_PER_FRAME
from perf.scenarios import (
    LiveLog,
    first_frame_s,
    idle_streams,
    live_streams,
    most_streams,
    request_latencies,
    saturate,
)
from tests.unit.client.speaker import answer, noise

PCM = noise(60 * SAMPLES_PER_FRAME)


class Server:
    """Answers after `delay_s`; notes how many frames each request wanted."""

    def __init__(self, delay_s: float = 0.0) -> None:
        self.delay_s = delay_s
        self.wanted: list[int] = []

    async def __call__(self, model: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        self.wanted.append(len(inputs["FRAME_INDEX"]))
        await asyncio.sleep(self.delay_s)
        if model == "idle_frames":
            inputs = {**inputs, "PCM": np.zeros((22 + self.wanted[-1]) * SAMPLES_PER_FRAME, np.int16)}
        return answer(inputs)


def connect(server: Server) -> LipstreamClient:
    return LipstreamClient(transport=MemoryTransport(server))


async def test_live_viewers_see_every_frame_whose_sound_has_come() -> None:
    async with connect(Server()) as client:
        log = await live_streams(client, "demo", PCM, streams=3, span_s=1.0)
    # 25 frames of sound each, of which the last 12 are looked ahead at: two chunks of five.
    assert len(log.age_s) == len(log.late_s) == 3 * 10
    assert log.disordered == 0
    assert min(log.age_s) > 0
    assert log.late_share == 0


async def test_a_slow_server_is_seen_in_the_age_of_frames() -> None:
    async with connect(Server(delay_s=0.3)) as client:
        log = await live_streams(client, "demo", PCM, streams=1, span_s=1.0)
    assert min(log.age_s) >= 0.3


def test_late_frames_and_stops_are_counted() -> None:
    log = LiveLog(late_s=[-0.1, -0.05, 0.02, 0.3])
    assert log.late_share == 0.5
    assert log.longest_stop_s == 0.3
    assert LiveLog(late_s=[-0.1]).longest_stop_s == 0.0
    assert LiveLog().longest_stop_s == 0.0


@pytest.mark.parametrize("most", [0, 1, 2, 3, 5, 7, 8, 11, 12])
async def test_the_largest_number_that_works_is_found(most: int) -> None:
    tried: list[int] = []

    async def works(streams: int) -> bool:
        tried.append(streams)
        return streams <= most

    assert await most_streams(works, limit=12) == most
    assert len(tried) == len(set(tried)) <= 7
    assert max(tried) <= 12


async def test_saturation_is_a_given_amount_of_work_shared() -> None:
    server = Server()
    async with connect(server) as client:
        went = await saturate(client, "demo", PCM, clients=3, frames=150, chunk_frames=10)
    assert sum(server.wanted) == 150
    assert set(server.wanted) == {10}
    assert went.disordered == 0
    assert went.frames_per_s > 0


async def test_frames_that_are_missing_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    async with connect(Server()) as client:
        speak = client.speak

        async def forgetful(*arguments: Any, **options: Any) -> Any:
            async for frame in speak(*arguments, **options):
                if frame.index not in (3, 4):
                    yield frame

        monkeypatch.setattr(client, "speak", forgetful)
        went = await saturate(client, "demo", PCM, clients=1, frames=10)
    # The two, and the five after them, which come two places early.
    assert went.disordered == 7


async def test_latencies_are_of_requests_asked_for_by_the_clock() -> None:
    server = Server(delay_s=0.05)
    async with connect(server) as client:
        taken = await request_latencies(client, "demo", PCM, frames_per_s=100, streams=4, span_s=0.5)
    assert set(server.wanted) == {5}
    # 20 requests a second for half a second, but for those that would begin after it.
    assert 6 <= len(taken) == len(server.wanted) <= 10
    assert min(taken) >= 0.05


async def test_every_stranger_asks_however_short_the_time() -> None:
    async with connect(Server()) as client:
        assert len(await request_latencies(client, "demo", PCM, 1000, streams=4, span_s=0.001)) == 4


async def test_the_first_frame_is_timed_twice_and_the_second_time_it_interrupts() -> None:
    server = Server(delay_s=0.02)
    async with connect(server) as client:
        first, again = await first_frame_s(client, "demo", PCM)
    assert first >= 0.02
    assert again >= 0.02


async def test_idle_viewers_take_frames_by_their_clocks() -> None:
    server = Server()
    async with connect(server) as client:
        log = await idle_streams(client, "demo", streams=4, span_s=0.4)
    assert log.disordered == 0
    assert len(log.late_s) == 4 * 10
    assert sum(server.wanted) == 4 * 10
