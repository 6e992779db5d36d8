"""Eleven thousand avatars of which sixteen are loaded, asked for as an audience does: few often, most hardly ever."""

from __future__ import annotations

import asyncio
import logging
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from client import AvatarPool, PoolSettings
from export.clone import clone_avatars, clone_ids
from tests.functional.faults.conftest import Catalogue, make_catalogue
from tests.support.clones import SOURCE, shows
from tests.support.footprint import settled
from tests.support.served import Served, serving
from tests.support.streams import noise
from tests.support.traces import lru_hits, zipf

pytestmark = [pytest.mark.functional, pytest.mark.storm]
_log = logging.getLogger(__name__)

AVATARS = int(os.environ.get("LIPSTREAM_AVATARS_KNOWN", "11000"))
LEASES = int(os.environ.get("LIPSTREAM_LEASES", "2000"))
FIRST_LEASES = 100
CLIENTS = 8
MOST = 16
FRAMES = 10
SHARED_STUBS = 6
"""Of the shared models and the audio encoder, with all their instances (embedded configs)."""
STARTS = 3


@pytest.fixture(scope="module")
def thousands(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    made = make_catalogue(tmp_path_factory.mktemp("thousands"), 1)
    more = clone_ids(SOURCE, AVATARS - 1, first=2)
    clone_avatars(made.avatars, SOURCE, more)
    return Catalogue(made.avatars, (*made.ids, *more), made.source)


@pytest.fixture(scope="module")
def served(thousands: Catalogue, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(thousands.avatars, log=tmp_path_factory.mktemp("log") / "triton.log") as server:
        yield server


async def test_two_thousand_leases(served: Served, thousands: Catalogue) -> None:
    trace = zipf(thousands.ids, LEASES)
    async with AvatarPool([served.url], PoolSettings(most=MOST)) as pool:
        await lease_all(pool, thousands, trace[:FIRST_LEASES])
        first = await settled(served, SHARED_STUBS + MOST)
        start_s = time.monotonic()
        await lease_all(pool, thousands, trace[FIRST_LEASES:])
        took_s = time.monotonic() - start_s
        last = await settled(served, SHARED_STUBS + MOST)
        figures = pool.figures
        hits, wanted = figures.hits / LEASES, lru_hits(trace, MOST) / LEASES
        load_ms = 1000 * figures.value("load_seconds_sum") / figures.loads
    _log.info("%d leases of %d avatars, %d different", LEASES, AVATARS, len(set(trace)))
    _log.info(
        "hit rate %.4f, of an LRU cache %.4f; %d loads of %.0f ms", hits, wanted, figures.loads, load_ms
    )
    _log.info("memory %.0f MB, at the end %.0f MB", first.memory / 1e6, last.memory / 1e6)
    _log.info("first %s, last %s; %.0f s", first, last, took_s)
    assert abs(hits - wanted) <= 0.01
    assert last.memory <= 1.1 * first.memory
    assert (served.health()["repairs"], served.health()["restarts"]) == (0, 0)


async def lease_all(pool: AvatarPool, catalogue: Catalogue, trace: Sequence[str]) -> None:
    """Lease one avatar after another, in so many clients at a time, and look at each one's every frame."""
    numbered = iter(enumerate(trace))

    async def client() -> None:
        for number, avatar in numbered:
            async with pool.lease(avatar) as lease:
                frames = [
                    frame
                    async for frame in lease.client.speak(
                        avatar, noise(FRAMES, number), first_frame=number, chunk_frames=5, rects=True
                    )
                ]
            assert [frame.index for frame in frames] == list(range(number, number + FRAMES))
            for frame in frames:
                assert shows(avatar, frame.jpeg, frame.rect or (), catalogue.source), (avatar, frame.index)

    await asyncio.gather(*(client() for _ in range(CLIENTS)))


def test_knowing_thousands_costs_a_start_little(
    thousands: Catalogue, catalogue: Catalogue, tmp_path: Path
) -> None:
    many, few = [], []
    for _ in range(STARTS):
        many.append(start_s(thousands, tmp_path))
        few.append(start_s(catalogue, tmp_path))
    _log.info("starts with %d avatars %s s, with %d %s s", AVATARS, many, len(catalogue.ids), few)
    assert statistics.median(many) <= statistics.median(few) + 3


def start_s(catalogue: Catalogue, folder: Path) -> float:
    began_s = time.monotonic()
    with serving(catalogue.avatars, "--load", catalogue.ids[0], log=folder / "triton.log"):
        return time.monotonic() - began_s
