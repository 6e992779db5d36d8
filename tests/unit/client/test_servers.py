from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest
from numpy.typing import NDArray

from client import LipstreamClient, MemoryTransport, RetryPolicy
from client._servers import Servers, rendezvous_order
from client.errors import (
    AvatarNotFoundError,
    RequestTimeoutError,
    ServerBusyError,
    ServerError,
    ServerUnavailableError,
)
from tests.unit.client.speaker import answer, frames_of, noise

URLS = [f"10.0.0.{n}:8001" for n in range(4)]
AVATARS = [f"avatar-{n}" for n in range(10_000)]
ONCE = RetryPolicy(attempts=1, patience_s=0)
AT_ONCE = RetryPolicy(first_delay_s=0, longest_delay_s=0)
Failure = Callable[[str], ServerError]


def unavailable(url: str) -> ServerError:
    return ServerUnavailableError(f"nobody at {url}", url=url)


def busy(url: str) -> ServerError:
    return ServerBusyError("too much", url=url, retry_after_s=1)


def silent(url: str) -> ServerError:
    return RequestTimeoutError("late", url=url)


class Site:
    """Some servers, of which some fail; who was asked is written down."""

    def __init__(self, *urls: str) -> None:
        self.failing: dict[str, Failure] = {}
        self.asked: list[str] = []
        self.transports = [MemoryTransport(self._answering(url), url=url) for url in urls]

    def _answering(self, url: str) -> Callable[[str, Any], Awaitable[dict[str, NDArray[Any]]]]:
        async def answering(model: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
            self.asked.append(url)
            if url in self.failing:
                raise self.failing[url](url)
            return answer(inputs)

        return answering


def test_the_order_is_the_same_for_everybody_and_holds_each_server_once() -> None:
    order = rendezvous_order(URLS, "may")
    assert sorted(order) == [0, 1, 2, 3]
    assert rendezvous_order(list(URLS), "may") == order
    backwards = [URLS[::-1][place] for place in rendezvous_order(URLS[::-1], "may")]
    assert backwards == [URLS[place] for place in order]


def test_every_server_has_its_share() -> None:
    firsts = Counter(rendezvous_order(URLS, avatar)[0] for avatar in AVATARS)
    share = len(AVATARS) / len(URLS)
    assert all(abs(count - share) < 0.1 * share for count in firsts.values())


def test_a_server_that_goes_leaves_only_its_own_to_others() -> None:
    fewer = URLS[:3]
    for avatar in AVATARS[:2000]:
        before = [URLS[place] for place in rendezvous_order(URLS, avatar)]
        after = [fewer[place] for place in rendezvous_order(fewer, avatar)]
        assert after == [url for url in before if url in fewer]


@pytest.mark.parametrize("failure", [unavailable, busy, silent])
async def test_the_next_in_order_stands_in_and_no_frame_is_lost(failure: Failure) -> None:
    site = Site(*URLS)
    first, second = (URLS[place] for place in rendezvous_order(URLS, "may")[:2])
    site.failing[first] = failure
    pcm = noise(30 * 640)
    async with LipstreamClient(transport=site.transports, retry=ONCE) as client:
        frames = [frame async for frame in client.speak("may", pcm, chunk_frames=5, in_flight=1)]
    assert frames == frames_of(pcm, "may")
    # The one that failed is not asked again at once; the third is never needed.
    assert site.asked.count(first) == 1
    assert set(site.asked) == {first, second}


async def test_a_server_that_rests_is_asked_where_nobody_else_answers() -> None:
    site = Site(*URLS[:2])
    site.failing = dict.fromkeys(URLS[:2], unavailable)
    servers = Servers(site.transports, ONCE)
    with pytest.raises(ServerUnavailableError):
        await servers.ask("may", lambda server: server.infer("avatar", {}, [], 1))
    del site.failing[rendezvous_first(site, "may")]
    frames = await speak(site, servers_policy=ONCE)
    assert frames == 5


def rendezvous_first(site: Site, avatar: str) -> str:
    return URLS[:2][rendezvous_order(URLS[:2], avatar)[0]]


async def speak(site: Site, servers_policy: RetryPolicy) -> int:
    async with LipstreamClient(transport=site.transports, retry=servers_policy) as client:
        return len([frame async for frame in client.speak("may", noise(5 * 640))])


async def test_what_is_wrong_with_a_request_is_wrong_everywhere() -> None:
    site = Site(*URLS)
    site.failing = dict.fromkeys(URLS, lambda url: AvatarNotFoundError("no may", url=url))
    with pytest.raises(AvatarNotFoundError):
        await speak(site, AT_ONCE)
    assert len(site.asked) == 1


async def test_where_all_fail_the_busy_one_is_heard() -> None:
    site = Site(*URLS)
    site.failing = dict.fromkeys(URLS, unavailable)
    site.failing[URLS[rendezvous_order(URLS, "may")[2]]] = busy
    with pytest.raises(ServerBusyError):
        await speak(site, ONCE)


async def test_a_server_that_has_answered_is_waited_for() -> None:
    """As one is whose process died: it is back after some seconds, and no frame is lost."""
    site = Site(URLS[0])
    pcm = noise(20 * 640)
    async with LipstreamClient(transport=site.transports, retry=AT_ONCE) as client:
        stream = client.speak("may", pcm, chunk_frames=5, in_flight=1)
        frames = [await anext(stream) for _ in range(5)]
        site.failing[URLS[0]] = unavailable
        rest = asyncio.create_task(collect(stream))
        while len(site.asked) < 30:  # many more than the policy's attempts
            await asyncio.sleep(0)
        del site.failing[URLS[0]]
        assert frames + await rest == frames_of(pcm, "may")


async def collect(stream: Any) -> list[Any]:
    return [frame async for frame in stream]


async def test_one_that_never_answered_is_given_up_soon() -> None:
    site = Site(URLS[0])
    site.failing[URLS[0]] = unavailable
    with pytest.raises(ServerUnavailableError):
        await speak(site, AT_ONCE)
    assert len(site.asked) == AT_ONCE.attempts
