"""Silent chunks and idle sessions against a desk where the test itself answers each request."""

import asyncio
import logging
from collections.abc import AsyncIterator

import numpy as np
import pytest

from client import Frame, LipstreamClient, MemoryTransport, RequestRefusedError, RetryPolicy, ServerFaultError
from client._transport import Tensors
from tests.unit.client.speaker import FRAME, answer, frames_of, noise

ONCE = RetryPolicy(attempts=1)
SILENCE = np.zeros((10 + 5 + 12) * FRAME, np.int16)


class Server:
    """Answers at once, notes which models were asked, and refuses idle frames if told to."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []
        self.refusal: Exception | None = None

    async def __call__(self, model: str, inputs: Tensors) -> dict[str, np.ndarray]:
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


async def connect(server: Server, *models: str, **options: bool) -> LipstreamClient:
    transport = MemoryTransport(server, models=models)
    for model in models:
        await transport.load(model, 1)
    return LipstreamClient(transport=transport, retry=ONCE, **options)


@pytest.fixture
async def client(server: Server) -> AsyncIterator[LipstreamClient]:
    async with await connect(server, "avatar_demo", "idle_frames") as client:
        yield client


async def speak(client: LipstreamClient, pcm: np.ndarray) -> list[Frame]:
    return [f async for f in client.speak("demo", pcm, chunk_frames=5, in_flight=1)]


# --- silent chunks ---
async def test_chunks_that_hear_nothing_are_asked_of_idle_frames(
    client: LipstreamClient, server: Server
) -> None:
    pcm = np.concatenate([noise(5 * FRAME), np.zeros(40 * FRAME, np.int16), noise(5 * FRAME)])
    assert await speak(client, pcm) == frames_of(pcm)
    # Speech is heard 10 frames after it and 12 before it.
    heard = [0, 5, 10, 30, 35, 40, 45]
    assert [first for model, first in server.asked if model == "avatar_demo"] == heard
    assert [first for model, first in server.asked if model == "idle_frames"] == [15, 20, 25]


async def test_the_faintest_sound_is_sound(client: LipstreamClient, server: Server) -> None:
    pcm = np.zeros(5 * FRAME, np.int16)
    pcm[1000] = 1
    assert await speak(client, pcm) == frames_of(pcm)
    assert server.models == ["avatar_demo"]


async def test_a_client_may_do_without(server: Server) -> None:
    async with await connect(server, "avatar_demo", "idle_frames", idle_frames=False) as client:
        assert await speak(client, SILENCE[: 5 * FRAME]) == frames_of(SILENCE[: 5 * FRAME])
    assert server.models == ["avatar_demo"]


async def test_a_server_without_the_model_is_asked_as_ever(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    pcm = np.zeros(15 * FRAME, np.int16)
    async with await connect(server, "avatar_demo") as client:
        with caplog.at_level(logging.INFO):
            assert await speak(client, pcm) == frames_of(pcm)
    assert server.models == ["avatar_demo"] * 3
    assert len(caplog.records) == 1
    assert caplog.records[0].getMessage().startswith("demo is asked for its silent frames by its ensemble")


async def test_an_avatar_without_idle_frames_is_asked_for_them_once(
    client: LipstreamClient, server: Server
) -> None:
    server.refusal = RequestRefusedError("AVATAR 'demo' has no idle frames", url="memory:1")
    pcm = np.zeros(15 * FRAME, np.int16)
    assert await speak(client, pcm) == frames_of(pcm)
    assert server.models == ["idle_frames", *["avatar_demo"] * 3]


async def test_a_fault_of_the_model_is_no_reason_to_run_a_network(
    client: LipstreamClient, server: Server
) -> None:
    server.refusal = ServerFaultError("fault 1", url="memory:1")
    with pytest.raises(ServerFaultError, match="fault 1"):
        await speak(client, SILENCE[: 5 * FRAME])
    assert server.models == ["idle_frames"]


# --- idle sessions ---
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


async def test_speech_follows_on_the_idle_frames_requested_before_it(
    client: LipstreamClient, server: Server
) -> None:
    pcm = noise(12 * FRAME)
    async with client.session("demo", idle=True) as session:
        frames = await take(session, 3)
        session.push_audio(pcm)
        session.end()
        assert session.next_index == 3
        frames += await take(session, 20)
        assert session.frames_delivered == 0  # of a new utterance that has not begun
    assert [frame.index for frame in frames] == list(range(23))
    said = [frame for frame in frames if not frame.idle]
    assert said == frames_of(pcm, first_frame=5)
    assert [frame.index for frame in frames if frame.idle] == [*range(5), *range(17, 23)]


async def test_one_utterance_after_another_without_idling_between(client: LipstreamClient) -> None:
    first, second = noise(7 * FRAME, 1), noise(6 * FRAME, 2)
    async with client.session("demo", idle=True) as session:
        session.push_audio(first)
        session.end()
        frames = await take(session, 7)
        session.push_audio(second)
        session.end()
        frames += await take(session, 6)
    assert frames == frames_of(first) + frames_of(second, first_frame=7)


async def test_while_speech_is_open_nothing_idles(client: LipstreamClient, server: Server) -> None:
    """Frames of speech that is still to come are awaited: idling now would make the mouth late."""
    async with client.session("demo", idle=True) as session:
        session.push_audio(noise(3 * FRAME))
        waiting = asyncio.create_task(anext(session))
        for _ in range(10):
            await asyncio.sleep(0)
        assert not waiting.done()
        assert server.asked == []
        session.end()
        assert not (await waiting).idle


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
