from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from client import NO_RETRY, Frame, LipstreamClient, MemoryTransport, RetryPolicy, Transport
from client._servers import FIRST_REST_S, LONGEST_REST_S, Servers, rendezvous_order
from client.errors import (
    AvatarNotFoundError,
    RequestTimeoutError,
    ServerBusyError,
    ServerError,
    ServerUnavailableError,
)
from tests.unit.client.speaker import answer, frames_of, noise

URLS = [f"10.0.0.{n}:8001" for n in range(4)]
ORDERS = [[3, 1, 0, 2], [1, 0, 3, 2], [0, 2, 1, 3], [3, 0, 1, 2]]
AVATARS = [f"avatar-{n}" for n in range(10_000)]
AT_ONCE = RetryPolicy(first_delay_s=0, longest_delay_s=0)
Failure = Callable[[str], ServerError]


def unavailable(url: str) -> ServerError:
    return ServerUnavailableError(f"nobody at {url}", url=url)


def busy(url: str) -> ServerError:
    return ServerBusyError("too much", url=url, retry_after_s=1)


def silent(url: str) -> ServerError:
    return RequestTimeoutError("late", url=url)


class Site:
    """Some servers, of which some fail, and a clock that pauses alone advance; who was asked is written down.

    A failing server fails for ever, or until `back_at_s`.
    """

    def __init__(self, *urls: str) -> None:
        self.failing: dict[str, Failure] = {}
        self.back_at_s = float("inf")
        self.now_s = 0.0
        self.asked: list[str] = []
        self.transports = [MemoryTransport(self._answering(url), url=url) for url in urls]

    def _answering(self, url: str) -> Callable[[str, Any], Awaitable[dict[str, NDArray[Any]]]]:
        async def answering(model: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
            self.asked.append(url)
            await asyncio.sleep(0)
            if url in self.failing and self.now_s < self.back_at_s:
                raise self.failing[url](url)
            return answer(inputs) if inputs else {}

        return answering

    def servers(self, policy: RetryPolicy = NO_RETRY) -> Servers:
        return Servers(self.transports, policy, clock=lambda: self.now_s, sleep=self._sleep)

    async def _sleep(self, delay_s: float) -> None:
        self.now_s += delay_s


async def ask(server: Transport) -> str:
    await server.infer("avatar", {}, [], 1)
    return server.url


async def speak(site: Site, pcm: NDArray[np.int16], retry: RetryPolicy = NO_RETRY) -> list[Frame]:
    async with LipstreamClient(transport=site.transports, retry=retry) as client:
        return [frame async for frame in client.speak("may", pcm, chunk_frames=5, in_flight=1)]


def test_the_order_is_the_same_for_everybody_and_holds_each_server_once() -> None:
    order = rendezvous_order(URLS, "may")
    assert sorted(order) == [0, 1, 2, 3]
    assert rendezvous_order(list(URLS), "may") == order
    backwards = [URLS[::-1][place] for place in rendezvous_order(URLS[::-1], "may")]
    assert backwards == [URLS[place] for place in order]


def test_the_order_is_the_same_in_every_release() -> None:
    """Or clients of two releases would fill each server's memory twice."""
    assert [order_of(avatar) for avatar in ("ann", "bob", "demo", "may")] == ORDERS


def test_every_server_has_its_share() -> None:
    firsts = Counter(rendezvous_order(URLS, avatar)[0] for avatar in AVATARS)
    share = len(AVATARS) / len(URLS)
    assert all(abs(count - share) < 0.1 * share for count in firsts.values())


def test_what_a_server_leaves_is_shared_too() -> None:
    seconds = Counter(order[1] for order in map(order_of, AVATARS) if order[0] == 0)
    share = sum(seconds.values()) / 3
    assert sorted(seconds) == [1, 2, 3]
    assert all(abs(count - share) < 0.1 * share for count in seconds.values())


def order_of(avatar: str) -> list[int]:
    return rendezvous_order(URLS, avatar)


def test_a_server_that_goes_leaves_only_its_own_to_others() -> None:
    fewer = URLS[:3]
    for avatar in AVATARS[:2000]:
        before = [URLS[place] for place in rendezvous_order(URLS, avatar)]
        after = [fewer[place] for place in rendezvous_order(fewer, avatar)]
        assert after == [url for url in before if url in fewer]


@pytest.mark.parametrize("failure", [unavailable, busy, silent])
async def test_the_next_in_order_stands_in_and_no_frame_is_lost(failure: Failure) -> None:
    site, pcm = Site(*URLS), noise(30 * 640)
    first, second = (URLS[place] for place in order_of("may")[:2])
    site.failing[first] = failure
    assert await speak(site, pcm) == frames_of(pcm, "may")
    # The one that failed is not asked again at once; the third is never needed.
    assert site.asked.count(first) == 1
    assert set(site.asked) == {first, second}


async def test_one_that_fails_in_the_middle_costs_no_frame() -> None:
    site, pcm = Site(*URLS), noise(30 * 640)
    first, second = (URLS[place] for place in order_of("may")[:2])
    async with LipstreamClient(transport=site.transports, retry=NO_RETRY) as client:
        stream = client.speak("may", pcm, chunk_frames=5, in_flight=3)
        frames = [await anext(stream) for _ in range(12)]
        site.failing[first] = unavailable
        frames += [frame async for frame in stream]
    assert frames == frames_of(pcm, "may")
    assert set(site.asked) == {first, second}


async def test_a_server_that_failed_is_tried_again_after_longer_and_longer_rests() -> None:
    site = Site(*URLS)
    first, second = (URLS[place] for place in order_of("may")[:2])
    site.failing[first] = unavailable
    servers, tried_at_s = site.servers(), list[float]()
    while len(tried_at_s) < 9:
        site.asked.clear()
        assert await servers.ask("may", ask) == second
        if first in site.asked:
            tried_at_s.append(site.now_s)
        site.now_s += 0.25
    assert np.diff(tried_at_s).tolist() == [0.5, 1, 2, 4, 8, 10, 10, 10]
    assert (FIRST_REST_S, LONGEST_REST_S) == (0.5, 10)


async def test_a_server_that_is_back_is_first_again() -> None:
    site = Site(*URLS)
    first, second = (URLS[place] for place in order_of("may")[:2])
    site.failing[first] = unavailable
    servers = site.servers()
    assert await servers.ask("may", ask) == second
    site.failing.clear()
    assert await servers.ask("may", ask) == second
    site.now_s += 0.5
    assert [await servers.ask("may", ask) for _ in range(2)] == [first, first]


async def test_failures_of_one_moment_count_once() -> None:
    site = Site(*URLS)
    first, second = (URLS[place] for place in order_of("may")[:2])
    site.failing[first] = unavailable

    servers = site.servers()
    assert await asyncio.gather(*(servers.ask("may", ask) for _ in range(4))) == [second] * 4
    assert site.asked.count(first) == 4
    site.failing.clear()
    site.now_s += 0.5
    assert await servers.ask("may", ask) == first


async def test_what_is_wrong_with_a_request_is_wrong_everywhere() -> None:
    site = Site(*URLS)
    site.failing = dict.fromkeys(URLS, lambda url: AvatarNotFoundError("no may", url=url))
    with pytest.raises(AvatarNotFoundError):
        await speak(site, noise(640), AT_ONCE)
    assert len(site.asked) == 1


async def test_where_all_fail_each_was_asked_once_and_the_busy_one_is_heard() -> None:
    site = Site(*URLS)
    site.failing = dict.fromkeys(URLS, unavailable)
    site.failing[URLS[order_of("may")[2]]] = busy
    with pytest.raises(ServerBusyError):
        await site.servers().ask("may", ask)
    assert site.asked == [URLS[place] for place in order_of("may")]


async def test_a_server_that_has_answered_is_waited_for() -> None:
    """As one is whose process died: it is back after some seconds, and no frame is lost."""
    site = Site(URLS[0])
    servers = site.servers(RetryPolicy())
    await servers.ask("may", ask)
    site.failing, site.back_at_s = {URLS[0]: unavailable}, 15.0
    assert await servers.ask("may", ask) == URLS[0]
    assert 15 <= site.now_s < 17


async def test_one_that_never_answered_is_given_up_soon() -> None:
    site = Site(URLS[0])
    site.failing[URLS[0]] = unavailable
    with pytest.raises(ServerUnavailableError):
        await site.servers(RetryPolicy()).ask("may", ask)
    assert 1 < site.now_s < 3


async def test_a_busy_site_says_so_soon() -> None:
    site = Site(*URLS)
    servers = site.servers(RetryPolicy())
    await servers.ask("may", ask)
    site.failing = dict.fromkeys(URLS, busy)
    with pytest.raises(ServerBusyError):
        await servers.ask("may", ask)
    assert site.now_s < 1
