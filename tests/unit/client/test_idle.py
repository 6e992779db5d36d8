"""Silent chunks and idle sessions against a desk where the test itself answers each request."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from client import (
    NO_RETRY,
    AvatarNotFoundError,
    Frame,
    LipstreamClient,
    MemoryTransport,
    RequestRefusedError,
    ServerFaultError,
)
from client._transport import Tensors
from tests.unit.client.speaker import FRAME, Desk, answer, frames_of, noise, settle

SILENCE = np.zeros((10 + 5 + 12) * FRAME, np.int16)


class Server:
    """Answers at once, notes which models were asked, and refuses idle frames if told to."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []
        self.refusal: Exception | None = None

    async def __call__(self, model: str, inputs: Tensors) -> dict[str, NDArray[Any]]:
        self.asked.append((model, int(inputs["FRAME_INDEX"][0])))
        if model != "idle_frames":
            return answer(inputs)
        assert set(inputs) == {"AVATAR", "FRAME_INDEX"}
        if self.refusal is not None:
            raise self.refusal
        pcm = np.zeros((10 + len(inputs["FRAME_INDEX"]) + 12) * FRAME, np.int16)
        return answer({**inputs, "PCM": pcm})

    @property
    def models(self) -> list[str]:
        return [model for model, _ in self.asked]


@pytest.fixture
def server() -> Server:
    return Server()


def connect(server: Server, idle_frames: bool = True) -> LipstreamClient:
    return LipstreamClient(transport=MemoryTransport(server), retry=NO_RETRY, idle_frames=idle_frames)


@pytest.fixture
async def client(server: Server) -> AsyncIterator[LipstreamClient]:
    async with connect(server) as client:
        yield client


async def speak(client: LipstreamClient, pcm: NDArray[np.int16]) -> list[Frame]:
    return [f async for f in client.speak("demo", pcm, chunk_frames=5, in_flight=1)]


# --- silent chunks ---
async def test_chunks_that_hear_nothing_are_asked_of_idle_frames(
    client: LipstreamClient, server: Server
) -> None:
    pcm = np.concatenate([noise(5 * FRAME), np.zeros(40 * FRAME, np.int16), noise(5 * FRAME)])
    assert await speak(client, pcm) == frames_of(pcm)
    # Speech is heard 10 frames after it and 12 before it.
    heard = [0, 5, 10, 30, 35, 40, 45]
    assert [first for model, first in server.asked if model == "avatar"] == heard
    assert [first for model, first in server.asked if model == "idle_frames"] == [15, 20, 25]


async def test_the_faintest_sound_is_sound(client: LipstreamClient, server: Server) -> None:
    pcm = np.zeros(5 * FRAME, np.int16)
    pcm[1000] = 1
    assert await speak(client, pcm) == frames_of(pcm)
    assert server.models == ["avatar"]


async def test_a_client_may_do_without(server: Server) -> None:
    async with connect(server, idle_frames=False) as client:
        assert await speak(client, SILENCE[: 5 * FRAME]) == frames_of(SILENCE[: 5 * FRAME])
    assert server.models == ["avatar"]


async def test_an_avatar_without_idle_frames_is_asked_for_them_once(
    client: LipstreamClient, server: Server
) -> None:
    server.refusal = RequestRefusedError("AVATAR 'demo' has no idle frames", url="memory:1")
    pcm = np.zeros(15 * FRAME, np.int16)
    assert await speak(client, pcm) == frames_of(pcm)
    assert server.models == ["idle_frames", *["avatar"] * 3]


async def test_until_a_minute_has_gone_by(
    client: LipstreamClient, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client._client.IDLE_FRAMES_AGAIN_S", 0)
    server.refusal = RequestRefusedError("AVATAR 'demo' has no idle frames", url="memory:1")
    await speak(client, SILENCE[: 5 * FRAME])
    server.refusal = None
    server.asked.clear()
    await speak(client, SILENCE[: 5 * FRAME])
    assert server.models == ["idle_frames"]


async def test_an_avatar_that_is_not_there_is_not_asked_for_twice(
    client: LipstreamClient, server: Server
) -> None:
    server.refusal = AvatarNotFoundError("AVATAR 'demo' is not on this server", url="memory:1")
    with pytest.raises(AvatarNotFoundError, match="demo"):
        await speak(client, SILENCE[: 5 * FRAME])
    assert server.models == ["idle_frames"]


async def test_several_requests_that_are_refused_are_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk()

    async def without_idle(model: str, inputs: Tensors) -> dict[str, NDArray[Any]]:
        if model == "idle_frames":
            raise RequestRefusedError("AVATAR 'demo' has no idle frames", url="memory:1")
        return await desk(model, inputs)

    async with LipstreamClient(transport=MemoryTransport(without_idle), retry=NO_RETRY) as client:
        with caplog.at_level(logging.INFO):
            pcm = np.zeros(15 * FRAME, np.int16)
            stream = client.speak("demo", pcm, chunk_frames=5, in_flight=3)
            reading = asyncio.create_task(collect(stream))
            await settle()
            assert len(desk.open) == 3
            await desk.answer_until(reading)
    assert reading.result() == frames_of(pcm)
    assert len(caplog.records) == 1


async def test_a_fault_of_the_model_is_no_reason_to_run_a_network(
    client: LipstreamClient, server: Server
) -> None:
    server.refusal = ServerFaultError("fault 1", url="memory:1")
    with pytest.raises(ServerFaultError, match="fault 1"):
        await speak(client, SILENCE[: 5 * FRAME])
    assert server.models == ["idle_frames"]


# --- idle sessions ---
async def collect(frames: AsyncIterator[Frame]) -> list[Frame]:
    return [frame async for frame in frames]


def jpegs(frames: Iterable[Frame]) -> list[bytes]:
    return [frame.jpeg for frame in frames]


def at_rest(count: int, first_frame: int) -> list[bytes]:
    return jpegs(frames_of(np.zeros(count * FRAME, np.int16), first_frame=first_frame))


async def take(session: AsyncIterator[Frame], count: int) -> list[Frame]:
    return [await anext(session) for _ in range(count)]


async def test_a_session_idles_as_long_as_it_is_asked(client: LipstreamClient, server: Server) -> None:
    async with client.session("demo", idle=True, first_frame=100) as session:
        frames = await take(session, 12)
        assert session.next_index == 112
    assert [frame.index for frame in frames] == list(range(100, 112))
    assert all(frame.idle and frame.timestamp_s == 0 for frame in frames)
    # Not more than are wanted, lest speech has to wait for them.
    assert server.asked == [("idle_frames", 100), ("idle_frames", 105), ("idle_frames", 110)]


async def test_speech_follows_on_the_idle_frames_requested_before_it(client: LipstreamClient) -> None:
    pcm = noise(12 * FRAME)
    async with client.session("demo", idle=True) as session:
        frames = await take(session, 3)
        session.push_audio(pcm)
        session.end()
        assert session.next_index == 3
        frames += await take(session, 20)
        assert session.frames_delivered == 12
        assert session.next_index == 23
    assert [frame.index for frame in frames] == list(range(23))
    said = [frame for frame in frames if not frame.idle]
    assert said == frames_of(pcm, first_frame=5)
    assert [frame.index for frame in frames if frame.idle] == [*range(5), *range(17, 23)]


@pytest.mark.parametrize("length", [1, 5, 12, 30, 33])
async def test_the_mouth_comes_to_rest_as_in_one_long_recording(
    client: LipstreamClient, server: Server, length: int
) -> None:
    pcm = noise(length * FRAME - 7)
    long = np.concatenate([pcm, np.zeros(30 * FRAME, np.int16)])
    async with client.session("demo", idle=True) as session:
        session.push_audio(pcm)
        session.end()
        frames = await take(session, length + 25)
    assert jpegs(frames) == jpegs(frames_of(long)[: length + 25])
    assert [frame.idle for frame in frames] == [False] * length + [True] * 25
    assert all(frame.timestamp_s == 0 for frame in frames[length:])
    # Ten frames after its end the utterance is not heard any more.
    assert next(first for model, first in server.asked if model == "idle_frames") == length + 10


async def test_the_last_words_do_not_wait_for_the_network_to_come_to_rest() -> None:
    desk = Desk()
    transport = MemoryTransport(desk)
    async with LipstreamClient(transport=transport) as client, client.session("demo", idle=True) as session:
        session.push_audio(noise(12 * FRAME))
        session.end()
        await settle()
        assert [(call.first, call.frames) for call in desk.calls] == [(0, 5), (5, 10), (15, 7)]
        for call in desk.calls[:2]:
            call.answer()
        assert len(await take(session, 15)) == 15


async def test_one_utterance_after_another_without_idling_between(client: LipstreamClient) -> None:
    first, second = noise(10 * FRAME, 1), noise(6 * FRAME, 2)
    async with client.session("demo", idle=True) as session:
        session.push_audio(first)
        session.end()
        frames = await take(session, 10)
        session.push_audio(second)
        session.end()
        frames += await take(session, 11)
    said = [frame for frame in frames if not frame.idle]
    # Of the frames in which the first one fades, those that were to be shown next.
    assert [frame.index for frame in frames if frame.idle] == [10, 11, 12, 13, 14]
    assert said == frames_of(first) + frames_of(second, first_frame=15)


@pytest.mark.parametrize("answered", [False, True])
async def test_frames_given_up_leave_no_gap(answered: bool) -> None:
    """Ten frames fade out; five are shown before the next utterance, whether they are there or under way."""
    desk = Desk()
    transport = MemoryTransport(desk)
    first, second = noise(5 * FRAME, 1), noise(7 * FRAME, 2)
    async with LipstreamClient(transport=transport) as client, client.session("demo", idle=True) as session:
        session.push_audio(first)
        session.end()
        await settle()
        assert [(call.first, call.frames) for call in desk.calls] == [(0, 5), (5, 10)]
        for call in desk.calls[: 1 + answered]:
            call.answer()
        frames = await take(session, 5)
        if answered:
            frames += await take(session, 2)
        session.push_audio(second)
        session.end()
        reading = asyncio.create_task(take(session, 5 + 7 + 3))
        await desk.answer_until(reading)
    frames += reading.result()
    start = 12 if answered else 10
    assert [frame.index for frame in frames] == list(range(len(frames)))
    assert [frame for frame in frames if not frame.idle] == frames_of(first) + frames_of(
        second, first_frame=start
    )


async def test_while_the_first_sound_gathers_the_avatar_idles(
    client: LipstreamClient, server: Server
) -> None:
    """Live, an utterance's first request waits for 680 ms of sound."""
    pcm = noise(30 * FRAME)
    frames = []
    async with client.session("demo", idle=True) as session:
        for start in range(0, len(pcm), FRAME):
            session.push_audio(pcm[start : start + FRAME])
            frames += await take(session, 1)
        session.end()
        frames += await take(session, 30)
    begun = next(number for number, frame in enumerate(frames) if not frame.idle)
    assert begun == 20  # the first border of idle chunks after the 17th frame of sound
    assert jpegs(frames[:begun]) == at_rest(begun, 0)
    assert frames[begun : begun + 30] == frames_of(pcm, first_frame=begun)
    assert [frame.index for frame in frames] == list(range(60))


async def test_an_open_utterance_is_awaited(client: LipstreamClient, server: Server) -> None:
    async with client.session("demo", idle=True) as session:
        session.push_audio(noise(17 * FRAME))
        assert not any(frame.idle for frame in await take(session, 5))
        waiting = asyncio.create_task(anext(session))
        await settle()
        assert not waiting.done()
        assert server.models == ["avatar"]
        session.end()
        assert not (await waiting).idle


async def test_an_idle_session_goes_on_where_the_server_went_away(
    client: LipstreamClient, server: Server
) -> None:
    async with client.session("demo", idle=True) as session:
        frames = await take(session, 5)
        server.refusal = ServerFaultError("fault 1", url="memory:1")
        with pytest.raises(ServerFaultError, match="fault 1"):
            await anext(session)
        server.refusal = None
        pcm = noise(3 * FRAME)
        session.push_audio(pcm)
        session.end()
        frames += await take(session, 8)
    # What was requested in vain is sent again; the utterance follows on it.
    assert jpegs(frames[:10]) == at_rest(10, 0)
    assert frames[10:] == frames_of(pcm, first_frame=10)


async def test_an_interruption_shows_the_avatar_at_rest(client: LipstreamClient) -> None:
    async with client.session("demo", idle=True) as session:
        session.push_audio(noise(20 * FRAME))
        await take(session, 4)
        session.clear()
        assert jpegs(await take(session, 7)) == at_rest(7, 4)


async def test_with_one_request_at_a_time(client: LipstreamClient) -> None:
    pcm = noise(13 * FRAME)
    async with client.session("demo", idle=True, in_flight=1) as session:
        frames = await take(session, 6)
        session.push_audio(pcm)
        session.end()
        frames += await take(session, 40)
    assert [frame.index for frame in frames] == list(range(46))
    assert [frame for frame in frames if not frame.idle] == frames_of(pcm, first_frame=10)


async def test_an_interruption_drops_idle_frames_to_come(client: LipstreamClient) -> None:
    async with client.session("demo", idle=True) as session:
        await take(session, 2)
        session.clear()
        assert session.next_index == 2
        assert [frame.index for frame in await take(session, 4)] == [2, 3, 4, 5]


async def test_closing_ends_the_iteration(client: LipstreamClient) -> None:
    async with client.session("demo", idle=True) as session:
        await take(session, 5)
        await session.aclose()
        assert [frame async for frame in session] == []


async def test_a_session_that_does_not_idle_ends_as_ever(client: LipstreamClient, server: Server) -> None:
    async with client.session("demo") as session:
        session.push_audio(SILENCE[: 5 * FRAME])
        session.end()
        assert [frame.idle async for frame in session] == [False] * 5
    assert server.models == ["idle_frames"]
