"""Which avatars stay, compared with an LRU cache on the same trace."""

from __future__ import annotations

import asyncio

from client._admission import Streams
from client._pool_figures import PoolFigures
from client._residents import Residents
from client._settings import PoolSettings
from tests.support.traces import lru_hits, zipf

CLIENTS = 8
MOST = 16


async def pause(_avatar: str) -> None:
    """A load or an unload, in the course of which others get their turn."""
    for _ in range(3):
        await asyncio.sleep(0)


async def test_who_was_asked_for_longest_ago_leaves_first() -> None:
    figures = PoolFigures()
    settings = PoolSettings(most=MOST)
    residents = Residents("memory:1", pause, pause, pause, settings, figures, Streams(None, figures))
    trace = zipf([f"avatar{number}" for number in range(11_000)], 2000)
    asked, hits = iter(trace), []

    async def client() -> None:
        for avatar in asked:
            hits.append(residents.holds(avatar))
            await residents.take(avatar)
            await pause(avatar)
            residents.give(avatar)

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    # Not quite equal: eight are asked for at a time, and none of them can leave.
    assert abs(sum(hits) - lru_hits(trace, MOST)) <= 0.01 * len(trace)
    # One that is just leaving is there for none of those who ask for it, and is loaded once for all of them.
    assert 0 <= len(trace) - sum(hits) - figures.loads <= 0.01 * len(trace)
