import asyncio
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import client as room
from client import (
    AudioError,
    AvatarIdError,
    AvatarNotFoundError,
    AvatarNotLoadedError,
    AvatarState,
    LipstreamClient,
    MemoryTransport,
    ModelState,
    RequestRefusedError,
    RetryPolicy,
    ServerFaultError,
    ServerUnavailableError,
    SessionError,
    SettingsError,
)
from tests.unit.client.speaker import (
    FRAME,
    Desk,
    answer,
    answer_at_once,
    box,
    frames_of,
    noise,
    serving,
    settle,
)

QUICK = RetryPolicy(attempts=3, first_delay_s=0)


async def make_client(answering: Any = answer_at_once) -> LipstreamClient:
    transport = await serving(MemoryTransport(answering, models=["avatar_demo"]), "demo")
    return LipstreamClient(transport=transport, retry=QUICK)


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
    client = await make_client(Flaky(failures=9))
    with pytest.raises(ServerUnavailableError) as caught:
        [frame async for frame in client.speak("demo", noise(FRAME))]
    assert caught.value.frames_delivered == 0


async def test_what_the_server_refuses_is_not_sent_again() -> None:
    flaky = Flaky(failures=1, error=RequestRefusedError("no", url="h:1"))
    client = await make_client(flaky)
    with pytest.raises(RequestRefusedError):
        [frame async for frame in client.speak("demo", noise(FRAME))]
    assert flaky.tries == {0: 1}


async def test_an_avatar_that_is_not_loaded_is_named() -> None:
    transport = MemoryTransport(answer_at_once, models=["avatar_demo"])
    client = LipstreamClient(transport=transport)
    with pytest.raises(AvatarNotLoadedError, match="demo"):
        [frame async for frame in client.speak("demo", noise(FRAME))]


class Repository(MemoryTransport):
    """Shows an index of the test's making and notes what is unloaded."""

    def __init__(self, *states: ModelState) -> None:
        super().__init__(answer_at_once, models=[state.name for state in states])
        self.shown = list(states)
        self.unloaded: list[str] = []

    async def index(self, timeout_s: float) -> list[ModelState]:
        return self.shown

    async def unload(self, model: str, timeout_s: float) -> None:
        self.unloaded.append(model)


async def test_avatars_are_listed_with_their_state_and_nothing_else_is() -> None:
    transport = Repository(
        ModelState("compositor", "READY"),
        ModelState("avatar_zoe", "READY"),
        ModelState("avatar_ann"),
        ModelState("avatar_bob", "UNAVAILABLE", "unloaded"),
        ModelState("avatar_cat", "UNAVAILABLE", "no such file"),
        ModelState("avatar_dan", "LOADING"),
        ModelState("avatar_frames", "READY"),
        ModelState("avatar_NotAnId", "READY"),
        ModelState("lipsync_zoe", "READY"),
    )
    assert await LipstreamClient(transport=transport).avatars() == [
        AvatarState("ann", "not loaded"),
        AvatarState("bob", "not loaded"),
        AvatarState("cat", "failed", "no such file"),
        AvatarState("dan", "loading"),
        AvatarState("zoe", "ready"),
    ]


async def test_unloading_leaves_what_avatars_share() -> None:
    transport = Repository()
    await LipstreamClient(transport=transport).unload("zoe")
    assert transport.unloaded == ["avatar_zoe", "features_zoe", "lipsync_zoe"]


async def test_an_unload_does_not_get_lost_while_the_server_is_away() -> None:
    class Restarting(Repository):
        away = 2

        async def unload(self, model: str, timeout_s: float) -> None:
            if model == "features_zoe" and self.away > 0:
                self.away -= 1
                raise ServerUnavailableError("restarting", url=self.url)
            await super().unload(model, timeout_s)

    transport = Restarting()
    await LipstreamClient(transport=transport, retry=QUICK).unload("zoe")
    assert transport.unloaded == ["avatar_zoe", "features_zoe", "lipsync_zoe"]


async def test_load_and_unload_change_readiness() -> None:
    client = LipstreamClient(transport=MemoryTransport(answer_at_once, models=["avatar_demo"]))
    assert not await client.is_ready("demo")
    await client.load("demo")
    assert await client.is_ready("demo")
    await client.unload("demo")
    assert not await client.is_ready("demo")
    assert await client.is_ready()


async def test_loading_an_avatar_that_is_not_there_says_which_are() -> None:
    client = LipstreamClient(transport=MemoryTransport(answer_at_once, models=["avatar_ann", "avatar_bob"]))
    with pytest.raises(AvatarNotFoundError, match=r"no avatar 'zoe'; it has: ann, bob$") as caught:
        await client.load("zoe")
    assert isinstance(caught.value.__cause__, ServerFaultError)


@pytest.mark.parametrize("kind", [ServerFaultError, RequestRefusedError])
async def test_loading_an_avatar_that_is_there_but_broken_passes_on_the_reason(kind: Any) -> None:
    class Broken(MemoryTransport):
        async def load(self, model: str, timeout_s: float) -> None:
            raise kind("failed to load 'avatar_demo', no such backend", url="h:1")

    client = LipstreamClient(transport=Broken(answer_at_once, models=["avatar_demo"]))
    with pytest.raises(ServerFaultError, match="no such backend"):
        await client.load("demo")


@pytest.mark.parametrize("call", ["load", "unload", "is_ready"])
async def test_no_name_reaches_the_server_unchecked(call: str) -> None:
    client = LipstreamClient(transport=MemoryTransport(answer_at_once))
    with pytest.raises(AvatarIdError):
        await getattr(client, call)("../x")


async def test_a_server_that_does_not_answer_is_not_ready() -> None:
    class Away(MemoryTransport):
        async def is_ready(self, model: str | None, timeout_s: float) -> bool:
            raise ServerUnavailableError("gone", url="h:1")

    assert not await LipstreamClient(transport=Away(answer_at_once)).is_ready()


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


@pytest.mark.parametrize("url", ["h:1", "10.0.0.1:8001", "[::1]:8001", "triton.example.org:443"])
def test_addresses_are_host_and_port(url: str) -> None:
    assert LipstreamClient(url).url == url


def test_the_public_list_is_sorted_and_complete() -> None:
    assert room.__all__ == sorted(
        room.__all__, key=lambda name: (not name.isupper(), name[0].islower(), name)
    )
    assert all(hasattr(room, name) for name in room.__all__)
