"""Minutes in which avatars come and go as fast as a server can load them: no frame wrong, none lost, nobody stuck."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack

import pytest

from client import AvatarPool, PoolSettings
from tests.functional.faults.conftest import Catalogue, make_catalogue
from tests.support.served import Served, serving
from tests.support.streams import viewers

pytestmark = [pytest.mark.functional, pytest.mark.storm]
_log = logging.getLogger(__name__)

STORM_S = float(os.environ.get("LIPSTREAM_STORM_S", "300"))
AVATARS = 6
VIEWERS = 8
STUCK_S = 60


@pytest.fixture(scope="module")
def six(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    return make_catalogue(tmp_path_factory.mktemp("six"), AVATARS)


@pytest.fixture(scope="module")
def served(six: Catalogue, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(six.avatars, log=tmp_path_factory.mktemp("log") / "triton.log") as server:
        yield server


@pytest.mark.parametrize(("pools", "most"), [(1, 2), (2, 2)], ids=["one pool", "two pools"])
async def test_avatars_that_push_each_other_out(
    served: Served, six: Catalogue, pools: int, most: int
) -> None:
    """Two pools know nothing of each other: each unloads what the other holds."""
    begun_s = time.monotonic()
    async with AsyncExitStack() as stack:
        storm = []
        for number in range(pools):
            pool = await stack.enter_async_context(AvatarPool([served.url], PoolSettings(most=most)))
            crowd = viewers(pool, six.ids, VIEWERS // pools, six.source, seed=number)
            storm.append((pool, await stack.enter_async_context(crowd)))
        while time.monotonic() < begun_s + STORM_S:
            # Nobody is ever stuck: each viewer gets one utterance after another.
            now_s = time.monotonic()
            await asyncio.gather(*(crowd.each_served_since(now_s, STUCK_S) for _, crowd in storm))
        figures = [pool.figures for pool, _ in storm]
    met = [utterance for _, crowd in storm for utterance in crowd.all()]
    errors = [utterance.error for utterance in met if utterance.error]
    _log.info(
        "%d pools: %d utterances, %d frames, %d errors; %d loads, %d of them again",
        *(pools, len(met), sum(u.frames for u in met), len(errors)),
        *(sum(f.loads for f in figures), sum(round(f.value("reloads_total")) for f in figures)),
    )
    assert not errors
    assert all(f.value("evictions_total", why="room") > 0 for f in figures)
    if pools > 1:
        assert any(f.value("reloads_total") > 0 for f in figures)
    health = await asyncio.to_thread(served.health)
    assert (health["repairs"], health["restarts"]) == (0, 0)
