"""Pools of avatars on a server in memory: who is loaded, who leaves, who waits, who is told."""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from client import (
    AvatarIdError,
    AvatarNotFoundError,
    AvatarNotLoadedError,
    AvatarPool,
    Lease,
    MemoryTransport,
    MemoryUse,
    PoolFullError,
    PoolSettings,
    RequestTimeoutError,
    RetryPolicy,
    ServerBusyError,
    ServerFaultError,
    ServerUnavailableError,
    SessionError,
    SettingsError,
)
from client._metrics import fetch_metrics
from client._server_memory import MemoryBudget
from client._transport import Tensors
from tests.unit.client.speaker import FRAME, answer_at_once, frames_of, noise, settle

NAMES = [f"a{number}" for number in range(12)]
ONCE = RetryPolicy(attempts=1)


class Stage(MemoryTransport):
    """A server that notes loads and unloads, can hold loads up, and fails those it is told to."""

    def __init__(self, names: Iterable[str] = NAMES, url: str = "memory:1") -> None:
        super().__init__(answer_at_once, models=[f"avatar_{name}" for name in names], url=url)
        self.loads: list[str] = []
        self.unloads: list[str] = []
        self.loaded: set[str] = set()
        self.most_loaded = 0
        self.loading = 0
        self.most_loading = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.empty = asyncio.Event()
        self.errors: dict[str, Exception] = {}
        self.frame_errors: dict[str, Exception] = {}
        self.unload_errors: dict[str, Exception] = {}
        self.unload_gate = asyncio.Event()
        self.unload_gate.set()

    async def infer(
        self, model: str, inputs: Tensors, outputs: Sequence[str], timeout_s: float
    ) -> dict[str, NDArray[Any]]:
        if error := self.frame_errors.get(model.removeprefix("avatar_")):
            raise error
        return await super().infer(model, inputs, outputs, timeout_s)

    async def load(self, model: str, timeout_s: float) -> None:
        name = model.removeprefix("avatar_")
        self.loads.append(name)
        self.loading += 1
        self.most_loading = max(self.most_loading, self.loading)
        try:
            await self.gate.wait()
            await asyncio.sleep(0)
            if name in self.errors:
                raise self.errors[name]
            await super().load(model, timeout_s)
        finally:
            self.loading -= 1
        self.loaded.add(name)
        self.most_loaded = max(self.most_loaded, len(self.loaded))

    async def unload(self, model: str, timeout_s: float) -> None:
        if not model.startswith("avatar_"):
            return
        name = model.removeprefix("avatar_")
        await self.unload_gate.wait()
        await asyncio.sleep(0)
        if name in self.unload_errors:
            raise self.unload_errors[name]
        await super().unload(model, timeout_s)
        self.unloads.append(name)
        self.loaded.discard(name)
        if not self.loaded:
            self.empty.set()

    async def lose(self, name: str) -> None:
        """As another pool does it."""
        await MemoryTransport.unload(self, f"avatar_{name}", 1)
        self.loaded.discard(name)


@asynccontextmanager
async def opened(*stages: Stage, **settings: object) -> AsyncIterator[AvatarPool]:
    chosen = PoolSettings(**{"most": 2, **settings})  # type: ignore[arg-type]
    async with AvatarPool(settings=chosen, transports=stages, retry=ONCE) as pool:
        yield pool


async def see(lease: Lease, frames: int = 3) -> None:
    pcm = noise(frames * FRAME, seed=7)
    seen = [frame async for frame in lease.client.speak(lease.avatar, pcm)]
    assert seen == frames_of(pcm, lease.avatar)


async def visit(pool: AvatarPool, *avatars: str) -> None:
    for avatar in avatars:
        async with pool.lease(avatar) as lease:
            await see(lease)


async def displace_a0(pool: AvatarPool, stage: Stage) -> asyncio.Task[None]:
    """The visit to a1 that makes a0 leave a full pool; a0 is on its way out until `stage.unload_gate` opens."""
    await visit(pool, "a0")
    stage.unload_gate.clear()
    visiting = asyncio.create_task(visit(pool, "a1"))
    await settle()
    return visiting


class TestLeases:
    async def test_an_avatar_is_loaded_before_its_lease_begins_and_stays_after_it(self) -> None:
        stage = Stage()
        async with opened(stage) as pool:
            await visit(pool, "a0", "a0", "a0")
            assert stage.loads == ["a0"]
            assert pool.resident == {"memory:1": ["a0"]}
            assert (pool.figures.hits, pool.figures.misses, pool.figures.loads) == (2, 1, 1)
        assert stage.loaded == {"a0"}

    async def test_it_has_given_a_frame_by_then(self) -> None:
        stage = Stage()
        async with opened(stage) as pool, pool.lease("a0"):
            counted = {model.model: model.requests for model in await stage.statistics(1)}
            assert counted == {"avatar_a0": 1}

    async def test_however_many_want_it_it_is_loaded_once(self) -> None:
        stage = Stage()
        async with opened(stage) as pool:
            await asyncio.gather(*(visit(pool, "a3") for _ in range(30)))
        assert stage.loads == ["a3"]

    async def test_so_many_are_loaded_at_a_time(self) -> None:
        stage = Stage()
        async with opened(stage, most=10, loads_at_a_time=3) as pool:
            await asyncio.gather(*(visit(pool, name) for name in NAMES[:9]))
        assert stage.most_loading == 3

    async def test_no_id_no_load(self) -> None:
        stage = Stage()
        async with opened(stage) as pool:
            with pytest.raises(AvatarIdError):
                await visit(pool, "../etc")
        assert stage.loads == []

    async def test_who_gives_up_waiting_does_not_end_the_load_of_others(self) -> None:
        stage = Stage()
        stage.gate.clear()
        async with opened(stage) as pool:
            impatient = asyncio.create_task(visit(pool, "a0"))
            patient = asyncio.create_task(visit(pool, "a0"))
            await settle()
            impatient.cancel()
            await settle()
            stage.gate.set()
            await patient
        assert impatient.cancelled()
        assert stage.loads == ["a0"]


class TestEviction:
    async def test_the_least_recently_used_leaves_before_another_comes(self) -> None:
        stage = Stage()
        async with opened(stage) as pool:
            await visit(pool, "a0", "a1", "a0", "a2", "a1")
        assert stage.loads == ["a0", "a1", "a2", "a1"]
        assert stage.unloads == ["a1", "a0"]
        assert stage.most_loaded == 2

    async def test_hits_are_those_of_a_simulated_lru(self) -> None:
        stage = Stage()
        chance = random.Random(5)
        trace = chance.choices(NAMES, [1 / (rank + 1) for rank in range(len(NAMES))], k=600)
        held: OrderedDict[str, None] = OrderedDict()
        hits = 0
        for name in trace:
            hits += name in held
            held[name] = None
            held.move_to_end(name)
            if len(held) > 4:
                held.popitem(last=False)
        async with opened(stage, most=4) as pool:
            for name in trace:
                async with pool.lease(name):
                    pass
            assert pool.figures.hits == hits
            assert pool.resident["memory:1"] == list(held)

    async def test_of_all_who_want_one_back_that_leaves_only_the_first_is_a_miss(self) -> None:
        stage = Stage()
        async with opened(stage, most=1) as pool:
            other = await displace_a0(pool, stage)
            waiting = [asyncio.create_task(visit(pool, "a0")) for _ in range(2)]
            await settle()
            stage.unload_gate.set()
            await asyncio.gather(other, *waiting)
            assert (pool.figures.hits, pool.figures.misses, pool.figures.loads) == (1, 3, 3)

    async def test_whoever_gave_up_waiting_for_one_that_leaves_no_longer_counts(self) -> None:
        stage = Stage()
        async with opened(stage, most=1) as pool:
            other = await displace_a0(pool, stage)
            waiting = asyncio.create_task(visit(pool, "a0"))
            await settle()
            waiting.cancel()
            stage.unload_gate.set()
            await other
            await visit(pool, "a0")
            assert (pool.figures.hits, pool.figures.misses, pool.figures.loads) == (0, 4, 3)

    async def test_what_is_leased_stays_and_who_waits_gets_the_first_place_that_is_free(self) -> None:
        stage = Stage()
        async with opened(stage) as pool, AsyncExitStack() as second:
            async with pool.lease("a0"):
                await second.enter_async_context(pool.lease("a1"))
                waiting = asyncio.create_task(visit(pool, "a2"))
                await settle()
                assert (stage.loads, pool.figures.value("waiting")) == (["a0", "a1"], 1)
            await waiting
            assert stage.unloads == ["a0"]
            assert pool.figures.value("waiting") == 0

    async def test_who_comes_back_at_once_does_not_keep_others_waiting_for_ever(self) -> None:
        stage = Stage()
        async with opened(stage, most=1) as pool:

            async def linger() -> None:
                for _ in range(10):
                    async with pool.lease("a0"):
                        await settle()

            await asyncio.gather(linger(), visit(pool, "a1"), visit(pool, "a2"))
        assert stage.loads[:3] == ["a0", "a1", "a2"]
        assert stage.most_loaded == 1

    async def test_who_waits_too_long_is_told_so(self) -> None:
        stage = Stage()
        async with opened(stage, most=1, wait_s=0.01) as pool:
            async with pool.lease("a0"):
                with pytest.raises(
                    PoolFullError,
                    match=r"'a1' waited 0.01 s for room on memory:1: all 1 avatars there are in use; "
                    r"try again in about \d+ s$",
                ):
                    await visit(pool, "a1")
            assert pool.figures.value("refused_total", why="places") == 1
            await visit(pool, "a1")
        assert stage.loads == ["a0", "a1"]

    async def test_whom_nobody_wants_any_more_is_not_loaded(self) -> None:
        stage = Stage()
        async with opened(stage, most=1) as pool:
            async with pool.lease("a0"):
                waiting = [asyncio.create_task(visit(pool, name)) for name in ("a1", "a1", "a2")]
                await settle()
                for task in waiting[:2]:
                    task.cancel()
                await settle()
                assert pool.figures.value("waiting") == 1
            await waiting[2]
            await settle()
        assert stage.loads == ["a0", "a2"]

    async def test_while_one_still_wants_it_it_keeps_its_turn(self) -> None:
        stage = Stage()
        async with opened(stage, most=1) as pool:
            async with pool.lease("a0"):
                waiting = [asyncio.create_task(visit(pool, name)) for name in ("a1", "a2", "a1")]
                await settle()
                waiting[0].cancel()
                await settle()
            await asyncio.gather(*waiting[1:])
        assert stage.loads == ["a0", "a1", "a2"]

    @pytest.mark.parametrize("steps", range(5))
    async def test_who_wants_it_right_after_starts_anew(self, steps: int) -> None:
        stage = Stage()
        async with opened(stage, most=1) as pool:
            async with pool.lease("a0"):
                first = asyncio.create_task(visit(pool, "a1"))
                await settle()
                first.cancel()
                for _ in range(steps):
                    await asyncio.sleep(0)
                second = asyncio.create_task(visit(pool, "a1"))
                await settle()
                assert pool.figures.value("waiting") == 1
            await second
            await visit(pool, "a2", "a1")
            assert stage.most_loaded == 1
        assert stage.loads == ["a0", "a1", "a2", "a1"]

    @pytest.mark.parametrize("steps", range(12))
    async def test_giving_up_as_the_place_gets_free_loses_no_place(self, steps: int) -> None:
        stage = Stage()
        async with opened(stage, most=1) as pool:
            async with pool.lease("a0"):
                waiting = asyncio.create_task(visit(pool, "a1"))
                await settle()
            for _ in range(steps):
                await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            await visit(pool, "a2", "a1")
            assert stage.most_loaded == 1

    async def test_an_avatar_pinned_twice_at_a_time_is_unpinned_by_one_call(self) -> None:
        stage = Stage()
        async with opened(stage, most=1) as pool:
            await asyncio.gather(pool.pin("a0"), pool.pin("a0"))
            pool.unpin("a0")
            await visit(pool, "a1")

    async def test_pinned_avatars_stay_until_unpinned(self) -> None:
        stage = Stage()
        async with opened(stage) as pool:
            await pool.pin("a0")
            await pool.pin("a0")
            await visit(pool, "a1", "a2", "a3")
            assert "a0" in stage.loaded
            pool.unpin("a0")
            pool.unpin("a0")
            await visit(pool, "a4", "a5")
            assert stage.loaded == {"a4", "a5"}

    async def test_idle_avatars_leave_by_themselves(self) -> None:
        stage = Stage()
        async with opened(stage, idle_s=0.01) as pool:
            await visit(pool, "a0")
            await asyncio.wait_for(stage.empty.wait(), 20)
            assert pool.figures.value("evictions_total", why="idle") == 1
            await visit(pool, "a0")
        assert stage.loads == ["a0", "a0"]

    async def test_a_lease_stops_the_clock(self) -> None:
        stage = Stage()
        async with opened(stage, idle_s=0.01) as pool:
            await visit(pool, "a0")
            async with pool.lease("a0") as lease:
                await asyncio.sleep(0.05)
                await see(lease)
        assert stage.loads == ["a0"]

    async def test_a_storm_loses_nothing(self) -> None:
        """Capacity 2, 6 avatars, 8 visitors, some of whom are torn away."""
        stage = Stage()
        chance = random.Random(1)
        async with opened(stage, wait_s=60) as pool:

            async def wander() -> None:
                for _ in range(60):
                    patience_s = 0.002 if chance.random() < 0.2 else None
                    with suppress(asyncio.TimeoutError):
                        await asyncio.wait_for(visit(pool, chance.choice(NAMES[:6])), patience_s)

            await asyncio.gather(*(wander() for _ in range(8)))
            await visit(pool, *NAMES)
            await settle()
            assert stage.most_loaded <= 2
            assert set(pool.resident["memory:1"]) == stage.loaded


class TestFailures:
    @pytest.mark.parametrize(
        "error",
        [
            ServerFaultError("its pack is cut short", url="memory:1"),
            ServerBusyError("a queue is full", url="memory:1", retry_after_s=1),
            ServerUnavailableError("nobody there", url="memory:1"),
        ],
    )
    async def test_an_avatar_whose_first_frame_fails_does_not_stay_loaded(self, error: Exception) -> None:
        stage = Stage()
        stage.frame_errors = dict.fromkeys(NAMES, error)
        async with opened(stage) as pool:
            for name in NAMES[:6]:
                with pytest.raises(type(error)):
                    await visit(pool, name)
            await settle()
            assert stage.loaded == set()
            stage.frame_errors.clear()
            await visit(pool, "a6", "a7", "a8")
        assert stage.most_loaded <= 2

    async def test_an_unload_that_failed_is_made_up_for_before_the_next_load(self) -> None:
        stage = Stage()
        stage.unload_errors["a0"] = ServerUnavailableError("nobody there", url="memory:1")
        async with opened(stage) as pool:
            await visit(pool, "a0", "a1", "a2")
            await settle()
            assert stage.loaded == {"a0", "a1", "a2"}
            stage.unload_errors.clear()
            await visit(pool, "a3")
            assert stage.loaded == {"a2", "a3"}

    async def test_an_avatar_that_is_wanted_again_is_not_unloaded_for_that(self) -> None:
        stage = Stage()
        stage.unload_errors["a0"] = ServerUnavailableError("nobody there", url="memory:1")
        async with opened(stage) as pool:
            await visit(pool, "a0", "a1", "a2")
            await settle()
            stage.unload_errors.clear()
            async with pool.lease("a0") as lease:
                await visit(pool, "a3")
                await see(lease)
            assert "a0" not in stage.unloads

    async def test_each_is_told_with_an_error_of_its_own(self) -> None:
        stage = Stage()
        stage.errors["a0"] = ServerFaultError("broken", url="memory:1")
        async with opened(stage, failed_s=3600) as pool:
            together = await asyncio.gather(*(visit(pool, "a0") for _ in range(3)), return_exceptions=True)
            later = await asyncio.gather(*(visit(pool, "a0") for _ in range(3)), return_exceptions=True)
        told = [*together, *later]
        assert len({id(error) for error in told}) == 6
        assert isinstance(told[0], ServerFaultError)
        told[0].frames_delivered = 7
        assert [str(error) for error in told[1:]] == ["broken"] * 5

    @pytest.mark.parametrize(
        "error",
        [
            RequestTimeoutError("no answer", url="memory:1"),
            AvatarNotLoadedError("another pool's doing", url="memory:1"),
        ],
    )
    async def test_what_says_nothing_about_the_avatar_is_not_remembered(self, error: Exception) -> None:
        stage = Stage()
        stage.frame_errors["a0"] = error
        async with opened(stage, failed_s=3600) as pool:
            with pytest.raises(type(error)):
                await visit(pool, "a0")
            stage.frame_errors.clear()
            await visit(pool, "a0")

    async def test_a_lease_that_has_ended_brings_nothing_back(self) -> None:
        stage = Stage()
        async with opened(stage) as pool:
            async with pool.lease("a0") as lease:
                pass
            await stage.lose("a0")
            with pytest.raises(SessionError, match="the lease on 'a0' has ended"):
                await see(lease)
        assert stage.loads == ["a0"]

    async def test_who_waits_for_an_unload_that_hangs_is_told(self) -> None:
        stage = Stage()
        async with opened(stage, most=1, wait_s=0.01) as pool:
            other = await displace_a0(pool, stage)
            with pytest.raises(PoolFullError, match=r"'a0' waited 0.01 s .* it is still being unloaded"):
                await visit(pool, "a0")
            stage.unload_gate.set()
            with pytest.raises(PoolFullError):
                await other

    async def test_nothing_is_loaded_once_the_pool_is_closed(self) -> None:
        stage = Stage()
        async with opened(stage, most=1) as pool:
            leaving = await displace_a0(pool, stage)
            back = asyncio.create_task(visit(pool, "a0"))
            await settle()
        for task in (leaving, back):
            with pytest.raises(SessionError):
                await task
        assert stage.loads == ["a0"]

    async def test_a_lease_counts_once_however_often_it_is_tried(self) -> None:
        stages = [Stage(url=f"memory:{number}") for number in range(3)]
        for stage in stages:
            stage.errors["a0"] = ServerUnavailableError("nobody there", url=stage.url)
        settings, often = PoolSettings(most=2), RetryPolicy(attempts=3, first_delay_s=0.001)
        async with AvatarPool(settings=settings, transports=stages, retry=often) as pool:
            with pytest.raises(ServerUnavailableError):
                await visit(pool, "a0")
            assert (pool.figures.hits, pool.figures.misses) == (0, 1)
            assert [len(stage.loads) for stage in stages] == [3, 3, 3]

    def test_a_pool_wants_a_server(self) -> None:
        with pytest.raises(SettingsError, match="the address of one at least is wanted"):
            AvatarPool([])

    async def test_a_failed_load_is_told_to_all_and_not_tried_again_for_a_while(self) -> None:
        stage = Stage()
        stage.errors["a0"] = ServerFaultError("model.onnx is broken", url="memory:1")
        async with opened(stage, failed_s=3600) as pool:
            answers = await asyncio.gather(*(visit(pool, "a0") for _ in range(5)), return_exceptions=True)
            assert [str(answer) for answer in answers] == ["model.onnx is broken"] * 5
            with pytest.raises(ServerFaultError, match=r"model\.onnx is broken"):
                await visit(pool, "a0")
            assert stage.loads == ["a0"]
            assert pool.figures.value("load_failures_total") == 1
            await asyncio.gather(visit(pool, "a1"), visit(pool, "a2"))

    async def test_it_is_tried_again_later(self) -> None:
        stage = Stage()
        stage.errors["a0"] = ServerFaultError("no", url="memory:1")
        async with opened(stage, failed_s=0) as pool:
            with pytest.raises(ServerFaultError):
                await visit(pool, "a0")
            del stage.errors["a0"]
            await visit(pool, "a0")

    async def test_that_a_server_was_busy_is_not_held_against_the_avatar(self) -> None:
        stage = Stage()
        stage.errors["a0"] = ServerBusyError("a queue is full", url="memory:1", retry_after_s=1)
        async with opened(stage, failed_s=3600) as pool:
            with pytest.raises(ServerBusyError):
                await visit(pool, "a0")
            stage.errors.clear()
            await visit(pool, "a0")

    async def test_no_such_avatar(self) -> None:
        async with opened(Stage()) as pool:
            with pytest.raises(AvatarNotFoundError):
                await visit(pool, "nobody")

    async def test_what_another_pool_unloads_comes_back_within_a_lease(self) -> None:
        stage = Stage()
        async with opened(stage) as pool, pool.lease("a0") as lease:
            await stage.lose("a0")
            await asyncio.gather(*(see(lease, frames=60) for _ in range(4)))
            assert stage.loads == ["a0", "a0"]
            assert pool.figures.value("reloads_total") == 1

    async def test_and_if_it_cannot_come_back_the_next_lease_tries_again(self) -> None:
        stage = Stage()
        async with opened(stage, failed_s=0) as pool:
            async with pool.lease("a0") as lease:
                await stage.lose("a0")
                stage.errors["a0"] = ServerFaultError("gone", url="memory:1")
                with pytest.raises(ServerFaultError, match="gone"):
                    await see(lease)
                del stage.errors["a0"]
                await visit(pool, "a0")
                await see(lease)
            await visit(pool, "a1", "a2")
            assert stage.most_loaded <= 2

    async def test_two_pools_on_one_server_lose_nothing(self) -> None:
        stage = Stage()
        async with opened(stage, most=1) as one, opened(stage, most=1) as other:

            async def wander(pool: AvatarPool, seed: int) -> None:
                chance = random.Random(seed)
                for _ in range(40):
                    await visit(pool, chance.choice(NAMES[:3]))

            await asyncio.gather(*(wander(pool, seed) for seed, pool in enumerate((one, other, one, other))))

    async def test_figures_are_served_until_the_pool_is_closed(self) -> None:
        async with opened(Stage()) as pool:
            port = pool.serve_figures(0)
            await visit(pool, "a0")
            text = await asyncio.to_thread(fetch_metrics, f"http://127.0.0.1:{port}/metrics")
            assert 'lipstream_pool_leases_total{found="no"} 1.0' in text
            with pytest.raises(SessionError, match="served already"):
                pool.serve_figures(0)
            async with opened(Stage()) as other:
                with pytest.raises(SettingsError, match=rf"cannot be served at 127\.0\.0\.1:{port}: "):
                    other.serve_figures(port)
        async with opened(Stage()) as other:
            assert other.serve_figures(port) == port

    async def test_a_reload_whose_lease_has_ended_makes_room_for_who_waits(self) -> None:
        stage = Stage()
        async with opened(stage, most=1) as pool:
            async with pool.lease("a0") as lease:
                await stage.lose("a0")
                stage.gate.clear()
                speaking = asyncio.create_task(see(lease))
                await settle()
                assert stage.loading == 1
                speaking.cancel()
                await settle()
            waiting = asyncio.create_task(visit(pool, "a1"))
            await settle()
            stage.gate.set()
            await asyncio.wait_for(waiting, 20)  # less than wait_s
            assert stage.most_loaded == 1

    async def test_and_so_does_one_that_fails(self) -> None:
        stage = Stage()
        async with opened(stage, most=1) as pool:
            async with pool.lease("a0") as lease:
                await stage.lose("a0")
                stage.gate.clear()
                stage.errors["a0"] = ServerFaultError("gone", url="memory:1")
                speaking = asyncio.create_task(see(lease))
                await settle()
                speaking.cancel()
                await settle()
            waiting = asyncio.create_task(visit(pool, "a1"))
            await settle()
            stage.gate.set()
            await asyncio.wait_for(waiting, 20)

    async def test_closing_ends_what_is_under_way(self) -> None:
        stage = Stage()
        stage.gate.clear()
        async with opened(stage) as pool:
            waiting = asyncio.create_task(visit(pool, "a0"))
            await settle()
        with pytest.raises(SessionError, match="the pool was closed"):
            await waiting


class TestStreams:
    async def test_one_more_than_may_be_is_refused_at_once(self) -> None:
        stage = Stage()
        async with opened(stage, streams=2) as pool, pool.lease("a0") as first:
            async with pool.lease("a0"):
                with pytest.raises(
                    PoolFullError,
                    match=r"^all 2 streams of memory:1 are taken; try again in about 10 s$",
                ) as refused:
                    await visit(pool, "a1")
                assert refused.value.retry_after_s == 10
                assert refused.value.url == "memory:1"
                assert pool.figures.value("streams") == 2
            await visit(pool, "a1")
            await see(first)
            assert pool.figures.value("streams") == 1
            assert pool.figures.value("refused_total", why="streams") == 1
        assert stage.loads == ["a0", "a1"]

    async def test_who_waits_for_a_load_has_a_stream_already(self) -> None:
        stage = Stage()
        stage.gate.clear()
        async with opened(stage, streams=1) as pool:
            waiting = asyncio.create_task(visit(pool, "a0"))
            await settle()
            with pytest.raises(PoolFullError):
                await visit(pool, "a1")
            stage.gate.set()
            await waiting

    async def test_a_lease_that_came_to_nothing_gives_its_stream_back(self) -> None:
        stage = Stage()
        stage.errors["a0"] = ServerFaultError("broken", url="memory:1")
        async with opened(stage, streams=1) as pool:
            with pytest.raises(ServerFaultError):
                await visit(pool, "a0")
            await visit(pool, "a1")
            assert pool.figures.value("streams") == 0

    async def test_pins_do_not_count(self) -> None:
        async with opened(Stage(), streams=1) as pool:
            await pool.pin("a0")
            async with pool.lease("a0"):
                await pool.pin("a1")

    async def test_another_server_with_room_is_tried_first(self) -> None:
        stages = [Stage(url=f"memory:{number}") for number in range(2)]
        async with opened(*stages, streams=2) as pool, AsyncExitStack() as leases:
            for _ in range(4):
                await see(await leases.enter_async_context(pool.lease("a0")))
            assert [stage.loads for stage in stages] == [["a0"], ["a0"]]
            with pytest.raises(PoolFullError, match="all 2 streams of memory:0, memory:1 are taken"):
                await visit(pool, "a0")

    async def test_where_the_other_is_away_the_full_one_is_what_is_told(self) -> None:
        stages = [Stage(url=f"memory:{number}") for number in range(2)]
        async with opened(*stages, streams=1) as pool, pool.lease("a0"):
            empty = stages[1 - stages.index(next(stage for stage in stages if stage.loaded))]
            empty.errors["a0"] = ServerUnavailableError("nobody there", url=empty.url)
            with pytest.raises(PoolFullError):
                await visit(pool, "a0")


class Scales:
    """Weighs what a stage has loaded, 100 bytes an avatar, and tells it so many readings late."""

    def __init__(self, stage: Stage, late: int = 0) -> None:
        self.stage = stage
        self.weights: deque[int] = deque(maxlen=late + 1)
        self.reads = 0

    async def read(self) -> MemoryUse:
        self.reads += 1
        # No two readings are quite the same.
        jitter = self.reads % 7 if self.weights.maxlen == 1 else 0
        self.weights.append(100 * len(self.stage.loaded) + jitter)
        return MemoryUse(self.weights[0])


@pytest.fixture(autouse=True)
def memory_given_back_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MemoryBudget.__init__.__kwdefaults__, "given_back_s", 0)


@asynccontextmanager
async def weighed(
    stage: Stage, scales: Scales | None = None, **settings: object
) -> AsyncIterator[AvatarPool]:
    """Up to 9 avatars, and 250 bytes: three of them, since the third is weighed when it is there."""
    chosen = PoolSettings(**{"most": 9, "host_bytes": 250, **settings})  # type: ignore[arg-type]
    readers = [scales or Scales(stage)]
    async with AvatarPool(settings=chosen, transports=[stage], retry=ONCE, memory_readers=readers) as pool:
        yield pool


class TestBudgets:
    async def test_the_least_recently_used_leaves_while_memory_is_over_budget(self) -> None:
        stage = Stage()
        async with weighed(stage) as pool:
            await visit(pool, "a0", "a1", "a2", "a0", "a3", "a4", "a0")
            assert stage.unloads == ["a1", "a2"]
            assert stage.most_loaded == 3
            assert pool.figures.value("evictions_total", why="room") == 2

    async def test_as_many_leave_as_it_takes(self) -> None:
        stage = Stage()
        async with weighed(stage) as pool:
            await visit(pool, "a0", "a1", "a2")
            stage.loaded |= {"others", "others too"}  # which this pool knows nothing of
            await visit(pool, "a3")
            assert stage.unloads == ["a0", "a1", "a2"]

    async def test_a_reading_from_before_an_unload_is_not_trusted(self) -> None:
        stage = Stage()
        scales = Scales(stage, late=2)
        async with weighed(stage, scales) as pool:
            await visit(pool, "a0", "a1", "a2")
            for _ in range(2):
                await scales.read()
            await visit(pool, "a3")
        assert stage.unloads == ["a0"]

    async def test_who_needs_memory_waits_until_an_avatar_rests(self) -> None:
        stage = Stage()
        async with weighed(stage) as pool:
            await visit(pool, "a0", "a1")
            async with pool.lease("a0"), pool.lease("a1"):
                async with pool.lease("a2"):
                    waiting = asyncio.create_task(visit(pool, "a3"))
                    await settle()
                    assert (stage.loads, pool.figures.value("waiting")) == (["a0", "a1", "a2"], 1)
                await waiting
                assert stage.unloads == ["a2"]

    async def test_and_is_told_when_none_does(self) -> None:
        stage = Stage()
        async with weighed(stage, wait_s=0.05) as pool, pool.lease("a0"), pool.lease("a1"), pool.lease("a2"):
            with pytest.raises(
                PoolFullError,
                match=r"'a3' waited 0.05 s for room on memory:1: 30\d bytes of host memory are in use and 250 may be, "
                r"and no avatar there can leave; try again in about 10 s$",
            ):
                await visit(pool, "a3")
            assert pool.figures.value("refused_total", why="memory") == 1
            stage.loaded.discard("a2")
            await visit(pool, "a3")

    async def test_who_gave_up_waiting_for_memory_is_not_loaded(self) -> None:
        stage = Stage()
        async with weighed(stage) as pool:
            async with pool.lease("a0"), pool.lease("a1"), pool.lease("a2"):
                waiting = asyncio.create_task(visit(pool, "a3"))
                await settle()
                waiting.cancel()
                await settle()
            await visit(pool, *NAMES[4:])
            assert "a3" not in stage.loads

    async def test_a_storm_keeps_to_the_budget(self) -> None:
        stage = Stage()
        chance = random.Random(3)
        async with weighed(stage, loads_at_a_time=1, wait_s=60) as pool:

            async def wander() -> None:
                for _ in range(40):
                    patience_s = 0.002 if chance.random() < 0.2 else None
                    with suppress(asyncio.TimeoutError):
                        await asyncio.wait_for(visit(pool, chance.choice(NAMES[:6])), patience_s)

            await asyncio.gather(*(wander() for _ in range(6)))
            await visit(pool, *NAMES)
            await settle()
            assert set(pool.resident["memory:1"]) == stage.loaded
            assert pool.figures.value("waiting") == 0

    async def test_a_budget_wants_metrics_of_every_server(self) -> None:
        with pytest.raises(SettingsError, match="2 are wanted, metrics_urls has 1"):
            AvatarPool(["h:1", "h:2"], PoolSettings(gpu_bytes=1), metrics_urls=["http://h:3/metrics"])


class TestSeveralServers:
    async def test_an_absent_one_is_not_waited_for_while_another_answers(self) -> None:
        stages = [Stage(url=f"memory:{number}") for number in range(2)]
        stages[0].errors = dict.fromkeys(NAMES, ServerUnavailableError("nobody there", url="memory:0"))
        async with AvatarPool(transports=stages, retry=RetryPolicy(attempts=9)) as pool:
            await visit(pool, "a0")
            assert (stages[0].loads, stages[1].loads) == (["a0"], ["a0"])

    async def test_where_none_answers_a_lease_waits_until_one_is_back(self) -> None:
        stages = [Stage(url=f"memory:{number}") for number in range(2)]
        for stage in stages:
            stage.errors = dict.fromkeys(NAMES, ServerUnavailableError("nobody there", url=stage.url))
        retry = RetryPolicy(attempts=100, first_delay_s=0.01, longest_delay_s=0.1)
        async with AvatarPool(transports=stages, retry=retry) as pool:
            waiting = asyncio.create_task(visit(pool, "a0"))
            while len(stages[1].loads) < 2:
                await asyncio.sleep(0.01)
            stages[1].errors = {}
            await asyncio.wait_for(waiting, 20)

    async def test_avatars_are_spread_and_found_again(self) -> None:
        stages = [Stage(url=f"memory:{number}") for number in range(3)]
        async with opened(*stages) as pool, AsyncExitStack() as leases:
            for name in NAMES[:6]:
                await leases.enter_async_context(pool.lease(name))
            assert [len(stage.loaded) for stage in stages] == [2, 2, 2]
            await visit(pool, *NAMES[:6])
            assert sum(len(stage.loads) for stage in stages) == 6

    async def test_one_that_does_not_answer_is_passed_over(self) -> None:
        stages = [Stage(url=f"memory:{number}") for number in range(2)]
        stages[0].errors = dict.fromkeys(NAMES, ServerUnavailableError("nobody there", url="memory:0"))
        async with opened(*stages) as pool:
            await visit(pool, *NAMES[:4])
            assert stages[0].loaded == set()
            stages[1].errors = stages[0].errors
            with pytest.raises(ServerUnavailableError):
                await visit(pool, "a9")
            # That a server was away is no fault of the avatar's, to be remembered.
            stages[0].errors = stages[1].errors = {}
            await visit(pool, "a9")

    @pytest.mark.parametrize(
        "error",
        [
            ServerBusyError("a queue is full", url="memory:0", retry_after_s=1),
            RequestTimeoutError("no answer", url="memory:0"),
            ServerFaultError("its GPU is gone", url="memory:0"),
        ],
    )
    async def test_nor_is_one_that_fails_in_another_way(self, error: Exception) -> None:
        stages = [Stage(url=f"memory:{number}") for number in range(2)]
        stages[0].errors = dict.fromkeys(NAMES, error)
        async with opened(*stages) as pool:
            await visit(pool, "a0", "a1")
            assert stages[1].loads == ["a0", "a1"]
            stages[1].errors = dict.fromkeys(NAMES, ServerUnavailableError("nobody there", url=stages[1].url))
            with pytest.raises(type(error)):
                await visit(pool, "a2")

    async def test_where_all_are_full_the_first_place_that_gets_free_is_taken(self) -> None:
        stages = [Stage(url=f"memory:{number}") for number in range(2)]
        async with opened(*stages, most=1, streams=9) as pool, AsyncExitStack() as leases:
            for name in ("a0", "a1"):
                await leases.enter_async_context(pool.lease(name))
            ends = {stage.url: asyncio.Event() for stage in stages}

            async def hold(name: str) -> None:
                async with pool.lease(name) as lease:
                    held.append(lease.client.url)
                    await ends[lease.client.url].wait()

            held: list[str] = []
            await leases.aclose()
            holding = [asyncio.create_task(hold(name)) for name in ("a0", "a1")]
            await settle()
            assert sorted(held) == ["memory:0", "memory:1"]
            early = asyncio.create_task(visit(pool, "a2"))
            await settle()
            late = asyncio.create_task(visit(pool, "a3"))
            await settle()
            ends["memory:1"].set()
            await asyncio.wait_for(early, 20)
            await asyncio.wait_for(late, 20)
            assert stages[1].loads[-2:] == ["a2", "a3"]
            assert stages[0].loads == ["a0"]
            assert pool.figures.value("streams") == 1
            assert pool.figures.value("waiting") == 0
            ends["memory:0"].set()
            await asyncio.gather(*holding)
            await settle()
        assert max(stage.most_loaded for stage in stages) == 1

    async def test_a_stream_that_somebody_takes_meanwhile_is_not_given_twice(self) -> None:
        full, roomy = stages = [Stage(url=f"memory:{number}") for number in range(2)]
        async with opened(*stages, most=2, streams=2) as pool, AsyncExitStack() as leases:
            for name in NAMES[:4]:
                await pool.pin(name)
            mine, theirs = ([name for name in NAMES[:4] if name in stage.loaded] for stage in stages)
            for name in theirs:
                pool.unpin(name)
            # Both of that server's avatars can leave, and one is wanted away: it is looked at after the full one.
            roomy.unload_gate.clear()
            roomy.errors["a5"] = ServerFaultError("broken", url=roomy.url)
            first = asyncio.create_task(visit(pool, "a4"))
            await settle()
            second = asyncio.create_task(visit(pool, "a5"))
            await settle()
            for name in mine:
                await leases.enter_async_context(pool.lease(name))
            roomy.unload_gate.set()
            await asyncio.wait_for(first, 20)
            with pytest.raises(PoolFullError, match=f"all 2 streams of {full.url} are taken"):
                await asyncio.wait_for(second, 20)
            assert pool.figures.value("streams") == 2

    async def test_who_gives_up_waiting_at_all_of_them_leaves_nothing(self) -> None:
        stages = [Stage(url=f"memory:{number}") for number in range(2)]
        async with opened(*stages, most=1, streams=9, wait_s=0.05) as pool, AsyncExitStack() as leases:
            for name in ("a0", "a1"):
                await leases.enter_async_context(pool.lease(name))
            with pytest.raises(PoolFullError, match="waited"):
                await visit(pool, "a2")
            assert pool.figures.value("refused_total", why="places") == 1
            waiting = asyncio.create_task(visit(pool, "a2"))
            await settle()
            assert pool.figures.value("waiting") == 2
            waiting.cancel()
            await settle()
            assert pool.figures.value("waiting") == 0
            assert pool.figures.value("streams") == 2
            await leases.aclose()
            await visit(pool, "a2", "a3", "a4")
        assert max(stage.most_loaded for stage in stages) == 1


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        ({"most": 0}, "most"),
        ({"streams": 0}, "streams"),
        ({"host_bytes": 0}, "host_bytes"),
        ({"gpu_bytes": 0}, "gpu_bytes"),
        ({"loads_at_a_time": 0}, "loads_at_a_time"),
        ({"idle_s": 0}, "idle_s"),
        ({"wait_s": 0}, "wait_s"),
    ],
)
def test_settings_are_checked(settings: dict[str, int], wrong: str) -> None:
    with pytest.raises(SettingsError, match=f"^{wrong} is 0"):
        PoolSettings(**settings)


def test_warm_up_is_no_silence() -> None:
    from client.residency import _HUM

    assert len(_HUM) == FRAME
    assert np.abs(_HUM).min() > 0
