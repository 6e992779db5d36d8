import asyncio
import json
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import client as room
from client import (
    NO_RETRY,
    AudioError,
    AvatarIdError,
    AvatarInfo,
    AvatarNotFoundError,
    LipstreamClient,
    MemoryTransport,
    RequestRefusedError,
    RequestTimeoutError,
    RetryPolicy,
    ServerFaultError,
    ServerUnavailableError,
    SessionError,
    SettingsError,
)
from compositor_backend import contract
from tests.unit.client.speaker import (
    FRAME,
    Desk,
    answer,
    answer_at_once,
    box,
    frames_of,
    noise,
    settle,
)

QUICK = RetryPolicy(first_delay_s=0)


async def make_client(answering: Any = answer_at_once, retry: RetryPolicy = QUICK) -> LipstreamClient:
    return LipstreamClient(transport=MemoryTransport(answering), retry=retry)


class Flaky:
    """Unavailable for the first tries of every request."""

    def __init__(self, failures: int, error: Exception | None = None) -> None:
        self.failures = failures
        self.error = error or ServerUnavailableError("gone", url="h:1")
        self.tries: dict[int, int] = {}

    async def __call__(self, model: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        first = int(inputs["FRAME_INDEX"][0])
        self.tries[first] = self.tries.get(first, 0) + 1
        if self.tries[first] <= self.failures:
            raise self.error
        return answer(inputs)


@pytest.mark.parametrize("samples", [1, 639, 640, 641, 30 * 640, 77_777])
@pytest.mark.parametrize(("chunk", "first"), [(5, None), (25, 5), (30, 10)])
async def test_speaking_gives_every_frame_of_the_utterance(
    samples: int, chunk: int, first: int | None
) -> None:
    pcm, client = noise(samples), await make_client()
    frames = client.speak("demo", pcm, chunk_frames=chunk, first_chunk_frames=first, first_frame=3)
    got = [frame async for frame in frames]
    assert [frame.jpeg for frame in got] == [frame.jpeg for frame in frames_of(pcm, first_frame=3)]
    assert [frame.index for frame in got] == list(range(3, 3 + len(got)))
    assert [frame.timestamp_s for frame in got] == pytest.approx([n / 25 for n in range(len(got))])


async def test_face_boxes_come_if_asked_for() -> None:
    client = await make_client()
    with_boxes = [frame.rect async for frame in client.speak("demo", noise(3 * FRAME), rects=True)]
    without = [frame.rect async for frame in client.speak("demo", noise(3 * FRAME))]
    assert with_boxes == [box(0), box(1), box(2)]
    assert without == [None, None, None]


async def test_the_first_request_is_the_short_one() -> None:
    desk = Desk()
    client = await make_client(desk)
    async with aclosing(
        client.speak("demo", noise(60 * FRAME), chunk_frames=25, first_chunk_frames=5)
    ) as frames:
        reading = asyncio.create_task(anext(frames))
        await settle()
        assert [(call.first, call.frames) for call in desk.calls] == [(0, 5), (5, 25), (30, 25), (55, 5)]
        desk.calls[0].answer()
        await reading


async def test_leaving_the_iteration_cancels_what_is_under_way() -> None:
    desk = Desk()
    client = await make_client(desk)
    async with aclosing(
        client.speak("demo", noise(40 * FRAME), chunk_frames=10, first_chunk_frames=None)
    ) as frames:
        reading = asyncio.create_task(anext(frames))
        await settle()
        desk.calls[0].answer()
        await reading
    assert sorted(desk.cancelled) == [10, 20, 30]


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ({"avatar": "../x"}, AvatarIdError),
        ({"avatar": ""}, AvatarIdError),
        ({"avatar": "x" * 300}, AvatarIdError),
        ({"pcm": np.zeros(0, np.int16)}, AudioError),
        ({"pcm": np.zeros(9, np.float64)}, AudioError),
        ({"chunk_frames": 12}, SettingsError),
        ({"in_flight": 0}, SettingsError),
    ],
)
async def test_bad_arguments_are_refused_before_anything_is_sent(
    arguments: dict[str, Any], kind: type[Exception]
) -> None:
    client = await make_client()
    with pytest.raises(kind):
        client.speak(**{"avatar": "demo", "pcm": noise(FRAME), **arguments})


async def test_a_server_that_is_away_for_a_moment_is_not_noticed() -> None:
    flaky, pcm = Flaky(failures=2), noise(60 * FRAME)
    client = await make_client(flaky)
    assert [frame async for frame in client.speak("demo", pcm)] == frames_of(pcm)
    assert set(flaky.tries.values()) == {3}


async def test_a_server_that_stays_away_is_an_error_with_its_count() -> None:
    client = await make_client(Flaky(failures=1), NO_RETRY)
    with pytest.raises(ServerUnavailableError) as caught:
        [frame async for frame in client.speak("demo", noise(FRAME))]
    assert caught.value.frames_delivered == 0


async def test_what_the_server_refuses_is_not_sent_again() -> None:
    flaky = Flaky(failures=1, error=RequestRefusedError("no", url="h:1"))
    client = await make_client(flaky)
    with pytest.raises(RequestRefusedError):
        [frame async for frame in client.speak("demo", noise(FRAME))]
    assert flaky.tries == {0: 1}


class Catalog:
    """A server with so many avatars, as the model `catalog` tells of them."""

    def __init__(self, count: int) -> None:
        self.ids = [f"a{number:05d}" for number in range(count)]
        self.pages: list[tuple[int, int]] = []

    async def __call__(self, model: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        assert model == "catalog"
        if "AVATAR" in inputs:
            avatar = contract.parse_avatar(inputs["AVATAR"])
            if avatar not in self.ids:
                raise AvatarNotFoundError(f"AVATAR {avatar!r} is not on this server", url="h:1")
            return self._manifests([avatar])
        offset, limit = int(inputs["OFFSET"][0]), int(inputs["LIMIT"][0])
        self.pages.append((offset, limit))
        return self._manifests(self.ids[offset : offset + limit])

    def _manifests(self, ids: list[str]) -> dict[str, NDArray[Any]]:
        found = np.empty(len(ids), object)
        found[:] = [json.dumps({**asdict(info(avatar)), "newer": "unknown"}).encode() for avatar in ids]
        return {"MANIFEST": found}


def info(avatar: str) -> AvatarInfo:
    return AvatarInfo(avatar, 1280, 720, 25, 523, "328", "ave", (32, 16, 16), True, True)


@pytest.mark.parametrize("count", [0, 1, 999, 1000, 1001, 2500])
async def test_every_avatar_is_listed_page_by_page(count: int) -> None:
    catalog = Catalog(count)
    found = await LipstreamClient(transport=MemoryTransport(catalog)).avatars()
    assert found == [info(avatar) for avatar in catalog.ids]
    assert all(limit == 1000 for _, limit in catalog.pages)


async def test_avatars_between_pages_that_overlap_are_listed_once() -> None:
    """As pages do where an avatar is added meanwhile, or where one is damaged and left out."""

    class Growing(Catalog):
        async def __call__(self, model: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
            page = await super().__call__(model, inputs)
            self.ids.insert(0, f"a-{len(self.pages)}")
            return page

    catalog = Growing(2500)
    there = list(catalog.ids)
    found = await LipstreamClient(transport=MemoryTransport(catalog)).avatars()
    assert [each.id for each in found] == there


async def test_a_catalog_of_another_version_is_the_servers_fault() -> None:
    async def other(model: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return {"MANIFEST": np.array([b'{"id": "may"}'], object)}

    with pytest.raises(ServerFaultError, match="width"):
        await LipstreamClient(transport=MemoryTransport(other)).avatars()


def test_an_avatar_knows_which_template_frame_is_shown() -> None:
    shown = [replace(info("may"), frames=4).template_index(index) for index in range(14)]
    assert shown == [0, 1, 2, 3, 2, 1, 0, 1, 2, 3, 2, 1, 0, 1]
    assert replace(info("may"), frames=1).template_index(2**31 - 1) == 0


async def test_one_avatar_can_be_asked_for() -> None:
    client = LipstreamClient(transport=MemoryTransport(Catalog(3)))
    assert await client.avatar("a00002") == info("a00002")
    with pytest.raises(AvatarNotFoundError):
        await client.avatar("a00003")
    with pytest.raises(AvatarIdError):
        await client.avatar("../x")


async def test_warming_needs_the_network_of_that_avatar() -> None:
    seen: list[tuple[str, str, bool, list[str]]] = []

    async def note(model: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        avatar = contract.parse_avatar(inputs["AVATAR"])
        seen.append((model, avatar, bool(contract.check_pcm(inputs["PCM"], 1).any()), sorted(inputs)))
        return answer(inputs)

    await LipstreamClient(transport=MemoryTransport(note)).warm("may")
    # Nobody would hear it, but it is no silence, for which idle frames would do.
    assert seen == [("avatar", "may", True, ["AVATAR", "FRAME_INDEX", "PCM"])]


async def test_warming_waits_for_a_server_that_comes_back() -> None:
    flaky = Flaky(failures=3)
    await (await make_client(flaky)).warm("may")
    assert flaky.tries == {0: 4}


async def test_warming_what_is_not_there_says_so() -> None:
    client = await make_client(Flaky(1, AvatarNotFoundError("avatar 'may' is not on this server", url="h:1")))
    with pytest.raises(AvatarNotFoundError, match="may"):
        await client.warm("may")
    with pytest.raises(AvatarIdError):
        await client.warm("../x")


class Noting(MemoryTransport):
    """Writes down what is asked for, and about whom."""

    def __init__(self) -> None:
        super().__init__(self._silent_or_not)
        self.asked: list[tuple[str, list[str], str | None]] = []

    async def infer(
        self,
        model: str,
        inputs: Mapping[str, NDArray[Any]],
        outputs: Sequence[str],
        timeout_s: float,
        avatar: str | None = None,
    ) -> dict[str, NDArray[Any]]:
        self.asked.append((model, list(outputs), avatar))
        return await super().infer(model, inputs, outputs, timeout_s, avatar)

    async def _silent_or_not(self, model: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        if model == "catalog":
            return await Catalog(1)(model, inputs)
        silence = np.zeros(contract.pcm_samples(len(inputs["FRAME_INDEX"])), np.int16)
        return answer({"PCM": silence, **inputs})


async def test_nothing_is_asked_for_that_is_not_needed_and_every_call_names_its_avatar() -> None:
    transport, speech, silence = Noting(), noise(FRAME), np.zeros(FRAME, np.int16)
    client = LipstreamClient(transport=transport)
    for pcm in (speech, silence):
        [frame async for frame in client.speak("may", pcm)]
        [frame async for frame in client.speak("may", pcm, regions=True, rects=True)]
    await client.warm("may")
    await client.avatar("a00000")
    await client.avatars()
    assert transport.asked == [
        ("avatar", ["JPEG"], "may"),
        ("avatar", ["REGION", "REGION_RECT", "RECT"], "may"),
        ("idle_frames", ["JPEG"], "may"),
        ("idle_frames", ["REGION", "REGION_RECT", "RECT"], "may"),
        ("avatar", ["REGION", "REGION_RECT"], "may"),
        ("catalog", ["MANIFEST"], "a00000"),
        ("catalog", ["MANIFEST"], None),
    ]


async def test_an_idle_session_gives_regions_too() -> None:
    client = LipstreamClient(transport=Noting())
    async with client.session("may", idle=True, regions=True) as session:
        frames = [await anext(session) for _ in range(7)]
    assert [(frame.idle, frame.jpeg, frame.region_rect) for frame in frames] == [
        (True, b"", box(index)) for index in range(7)
    ]
    assert all(frame.region for frame in frames)


async def test_regions_come_in_place_of_whole_frames() -> None:
    client = await make_client()
    frames = [frame async for frame in client.speak("demo", noise(3 * FRAME), regions=True)]
    whole = [frame async for frame in client.speak("demo", noise(3 * FRAME))]
    assert [frame.jpeg for frame in frames] == [b""] * 3
    assert [frame.region for frame in frames] == [b"region of " + frame.jpeg for frame in whole]
    assert [frame.region_rect for frame in frames] == [box(0), box(1), box(2)]
    assert [(frame.region, frame.region_rect) for frame in whole] == [(None, None)] * 3


async def test_a_server_that_does_not_answer_is_not_ready() -> None:
    class Away(MemoryTransport):
        async def is_ready(self, timeout_s: float) -> bool:
            raise ServerUnavailableError("gone", url="h:1")

    assert not await LipstreamClient(transport=Away(answer_at_once)).is_ready()


async def test_one_server_that_is_ready_is_enough() -> None:
    class Late(MemoryTransport):
        async def is_ready(self, timeout_s: float) -> bool:
            raise RequestTimeoutError("late", url="h:1")

    class Starting(MemoryTransport):
        async def is_ready(self, timeout_s: float) -> bool:
            return False

    servers = [Late(answer_at_once, url="h:1"), Starting(answer_at_once, url="h:2")]
    assert not await LipstreamClient(transport=servers).is_ready()
    servers.append(MemoryTransport(answer_at_once, url="h:3"))
    assert await LipstreamClient(transport=servers).is_ready()


async def test_a_closed_client_says_so() -> None:
    client = await make_client()
    await client.close()
    await client.close()
    with pytest.raises(SessionError, match="closed"):
        await client.avatars()


@pytest.mark.parametrize("url", ["http://h:8001", "h", "h:port", "", "h:8001/v2", "two words:1", "h:8001\n"])
def test_a_malformed_address_is_refused_in_one_sentence(url: str) -> None:
    with pytest.raises(SettingsError, match="host:port"):
        LipstreamClient(url)


def test_several_addresses_may_be_given() -> None:
    assert LipstreamClient(["h:1", "i:1"]).url == "h:1,i:1"
    with pytest.raises(SettingsError):
        LipstreamClient([])
    with pytest.raises(SettingsError, match="host:port"):
        LipstreamClient(["h:1", "i"])


@pytest.mark.parametrize("url", ["h:1", "10.0.0.1:8001", "[::1]:8001", "triton.example.org:443"])
def test_addresses_are_host_and_port(url: str) -> None:
    assert LipstreamClient(url).url == url


def test_the_public_list_is_sorted_and_complete() -> None:
    assert room.__all__ == sorted(
        room.__all__, key=lambda name: (not name.isupper(), name[0].islower(), name)
    )
    assert all(hasattr(room, name) for name in room.__all__)
