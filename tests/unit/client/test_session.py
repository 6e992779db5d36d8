"""Sessions against a desk where the test itself answers each request."""

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from client import (
    NO_RETRY,
    AudioError,
    Frame,
    LipstreamClient,
    MemoryTransport,
    RequestRefusedError,
    ServerUnavailableError,
    Session,
    SessionError,
)
from tests.unit.client.speaker import FRAME, Desk, answer_at_once, frames_of, noise, settle


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
async def client(desk: Desk) -> AsyncIterator[LipstreamClient]:
    transport = MemoryTransport(desk)
    async with LipstreamClient(transport=transport, retry=NO_RETRY) as client:
        yield client


async def collect(frames: AsyncIterator[Frame], into: list[Frame]) -> None:
    async for frame in frames:
        into.append(frame)


def gone() -> ServerUnavailableError:
    return ServerUnavailableError("gone", url="h:1")


async def test_frames_come_in_order_whatever_order_the_answers_have(
    client: LipstreamClient, desk: Desk
) -> None:
    pcm, got = noise(52 * FRAME), list[Frame]()
    async with client.session("demo", chunk_frames=10, first_chunk_frames=None) as session:
        session.push_audio(pcm)
        session.end()
        reading = asyncio.create_task(collect(session, got))
        await settle()
        assert [call.first for call in desk.open] == [0, 10, 20, 30]
        for call in reversed(desk.open):
            assert got == [], "delivered before the frames before it"
            call.answer()
            await settle()
        assert len(got) == 40
        await desk.answer_until(reading)
    assert got == frames_of(pcm)


async def test_no_more_requests_are_under_way_than_allowed(client: LipstreamClient, desk: Desk) -> None:
    got: list[Frame] = []
    async with client.session("demo", chunk_frames=5, first_chunk_frames=None, in_flight=3) as session:
        session.push_audio(noise(100 * FRAME))
        session.end()
        reading = asyncio.create_task(collect(session, got))
        await desk.answer_until(reading, last_first=True)
    assert desk.most_open == 3
    assert len(got) == 100


async def test_a_consumer_that_stops_reading_stops_the_requests(client: LipstreamClient, desk: Desk) -> None:
    async with client.session("demo", chunk_frames=5, first_chunk_frames=None, in_flight=3) as session:
        session.push_audio(noise(1000 * FRAME))
        session.end()
        await settle()
        while desk.open:
            desk.open[0].answer()
            await settle()
        assert len(desk.calls) == 3
        await anext(session)
        await settle()
        assert len(desk.calls) == 4


async def test_live_audio_is_requested_as_soon_as_its_look_ahead_is_there(
    client: LipstreamClient, desk: Desk
) -> None:
    async with client.session("demo", chunk_frames=25, first_chunk_frames=None, in_flight=99) as session:
        requested = []
        for frame in range(40):
            session.push_audio(noise(FRAME, frame))
            await settle()
            requested.append(sum(call.frames for call in desk.calls))
    assert requested == [max(0, (frame + 1 - 12) // 5 * 5) for frame in range(40)]
    assert {call.frames for call in desk.calls} == {5}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.integers(0, 9000), min_size=1, max_size=10),
    st.sampled_from([5, 15, 30]),
    st.sampled_from([None, 5, 20]),
    st.integers(1, 4),
)
async def test_pushes_of_any_length_give_the_frames_of_the_whole(
    pushes: list[int], chunk: int, first: int | None, in_flight: int
) -> None:
    pcm, got, at = noise(sum(pushes)), list[Frame](), 0
    transport = MemoryTransport(answer_at_once)
    client = LipstreamClient(transport=transport)
    async with client.session(
        "demo", chunk_frames=chunk, first_chunk_frames=first, first_frame=7, in_flight=in_flight
    ) as session:
        reading = asyncio.create_task(collect(session, got))
        for size in pushes:
            session.push_audio(pcm[at : at + size])
            at += size
            await asyncio.sleep(0)
        session.end()
        await reading
    assert [(frame.index, frame.jpeg) for frame in got] == [
        (frame.index, frame.jpeg) for frame in frames_of(pcm, first_frame=7)
    ]
    assert [frame.timestamp_s for frame in got] == pytest.approx([n / 25 for n in range(len(got))])


class TestClear:
    async def test_it_cancels_what_is_under_way_and_drops_what_was_received(
        self, client: LipstreamClient, desk: Desk
    ) -> None:
        async with client.session("demo", chunk_frames=5, first_chunk_frames=None) as session:
            session.push_audio(noise(60 * FRAME))
            await settle()
            desk.calls[0].answer()
            desk.calls[1].answer()
            assert (await anext(session)).index == 0
            await settle()
            session.clear()
            await settle()
            assert desk.open == []
            assert sorted(desk.cancelled) == [10, 15, 20]
            assert session.next_index == 1

    async def test_the_timeline_goes_on_after_the_last_delivered_frame_with_silence_before(
        self, client: LipstreamClient, desk: Desk
    ) -> None:
        first, second, got = noise(60 * FRAME, 1), noise(7 * FRAME, 2), list[Frame]()
        async with client.session("demo", chunk_frames=10, first_chunk_frames=None) as session:
            session.push_audio(first)
            await settle()
            desk.calls[0].answer()
            for _ in range(3):
                got.append(await anext(session))
            session.clear()
            session.push_audio(second)
            session.end()
            await desk.answer_until(asyncio.create_task(collect(session, got)))
        assert got == frames_of(first)[:3] + frames_of(second, first_frame=3)

    async def test_a_reader_that_waits_gets_the_next_utterance(
        self, client: LipstreamClient, desk: Desk
    ) -> None:
        async with client.session("demo", chunk_frames=10, first_chunk_frames=None) as session:
            session.push_audio(noise(30 * FRAME, 1))
            reading = asyncio.create_task(anext(session))
            await settle()
            session.clear()
            await settle()
            assert not reading.done()
            second = noise(FRAME, 2)
            session.push_audio(second)
            session.end()
            await settle()
            desk.open[0].answer()
            assert await reading == frames_of(second)[0]

    async def test_a_late_failure_of_a_dropped_request_reaches_nobody(
        self, client: LipstreamClient, desk: Desk
    ) -> None:
        async with client.session("demo") as session:
            session.push_audio(noise(60 * FRAME))
            await settle()
            desk.calls[0].fail(gone())
            await settle()
            session.clear()
            session.push_audio(noise(FRAME))
            session.end()
            await settle()
            desk.open[0].answer()
            assert (await anext(session)).index == 0

    async def test_after_end_it_takes_the_end_back(self, client: LipstreamClient, desk: Desk) -> None:
        async with client.session("demo") as session:
            session.push_audio(noise(60 * FRAME))
            session.end()
            session.clear()
            session.push_audio(noise(17 * FRAME))
            await settle()
            assert [call.frames for call in desk.open] == [5]


class TestFailure:
    async def test_the_error_knows_how_many_frames_were_delivered(
        self, client: LipstreamClient, desk: Desk
    ) -> None:
        got: list[Frame] = []
        async with client.session("demo", chunk_frames=10, first_chunk_frames=None) as session:
            session.push_audio(noise(52 * FRAME))
            await settle()
            for call, fails in zip(desk.calls, [False, True, False, True], strict=True):
                call.fail(gone()) if fails else call.answer()
            with pytest.raises(
                ServerUnavailableError, match=r"gone \(10 frames had been delivered\)"
            ) as caught:
                await collect(session, got)
        assert caught.value.frames_delivered == len(got) == 10

    async def test_iterating_again_sends_only_what_failed_and_loses_nothing(
        self, client: LipstreamClient, desk: Desk
    ) -> None:
        pcm, got = noise(52 * FRAME), list[Frame]()
        async with client.session("demo", chunk_frames=10, first_chunk_frames=None, in_flight=4) as session:
            session.push_audio(pcm)
            session.end()
            await settle()
            for call, fails in zip(desk.calls, [False, True, False, True], strict=True):
                call.fail(gone()) if fails else call.answer()
            with pytest.raises(ServerUnavailableError):
                await collect(session, got)
            await desk.answer_until(asyncio.create_task(collect(session, got)))
        assert got == frames_of(pcm)
        assert sorted(call.first for call in desk.calls) == [0, 10, 10, 20, 30, 30, 40, 50]

    async def test_audio_pushed_while_the_server_is_away_is_not_lost(
        self, client: LipstreamClient, desk: Desk
    ) -> None:
        pcm, got = noise(60 * FRAME), list[Frame]()
        async with client.session("demo", chunk_frames=30, first_chunk_frames=None, in_flight=1) as session:
            session.push_audio(pcm[: 42 * FRAME])
            await settle()
            desk.calls[0].fail(gone())
            with pytest.raises(ServerUnavailableError):
                await anext(session)
            session.push_audio(pcm[42 * FRAME :])
            session.end()
            await settle()
            assert len(desk.calls) == 1, "nothing is sent before somebody asks for it again"
            await desk.answer_until(asyncio.create_task(collect(session, got)))
        assert got == frames_of(pcm)

    async def test_it_may_fail_again_and_again(self, client: LipstreamClient, desk: Desk) -> None:
        async with client.session("demo") as session:
            session.push_audio(noise(FRAME))
            session.end()
            for attempt in range(3):
                reading = asyncio.create_task(anext(session))
                await settle()
                assert len(desk.calls) == attempt + 1
                desk.open[0].fail(gone())
                with pytest.raises(ServerUnavailableError):
                    await reading

    async def test_a_refusal_passes_on_the_servers_sentence(
        self, client: LipstreamClient, desk: Desk
    ) -> None:
        async with client.session("demo") as session:
            session.push_audio(noise(FRAME))
            session.end()
            await settle()
            desk.calls[0].fail(RequestRefusedError("PCM has shape [3]; [14720] is wanted", url="h:1"))
            with pytest.raises(RequestRefusedError, match=r"PCM has shape \[3\]; \[14720\] is wanted"):
                await anext(session)


class TestStates:
    async def test_utterances_follow_one_another_on_one_timeline(self) -> None:
        transport = MemoryTransport(answer_at_once)
        first, second, got = noise(7 * FRAME, 1), noise(3 * FRAME, 2), list[Frame]()
        async with LipstreamClient(transport=transport).session("demo") as session:
            for pcm in (first, second):
                session.push_audio(pcm)
                session.end()
                await collect(session, got)
        assert got == frames_of(first) + frames_of(second, first_frame=7)

    async def test_an_ended_utterance_stays_ended(self) -> None:
        transport = MemoryTransport(answer_at_once)
        async with LipstreamClient(transport=transport).session("demo") as session:
            session.push_audio(noise(FRAME))
            session.end()
            assert len([frame async for frame in session]) == 1
            assert [frame async for frame in session] == []

    async def test_ending_without_audio_ends_the_iteration(self, client: LipstreamClient) -> None:
        async with client.session("demo") as session:
            session.end()
            assert [frame async for frame in session] == []

    async def test_audio_after_the_end_is_refused_until_the_frames_are_taken(
        self, client: LipstreamClient
    ) -> None:
        async with client.session("demo") as session:
            session.push_audio(noise(FRAME))
            session.end()
            with pytest.raises(SessionError, match=r"take its last frame or clear\(\)"):
                session.push_audio(noise(FRAME))

    async def test_closing_cancels_everything_and_ends_the_iteration(
        self, client: LipstreamClient, desk: Desk
    ) -> None:
        session = client.session("demo", chunk_frames=5, first_chunk_frames=None)
        session.push_audio(noise(30 * FRAME))
        reading = asyncio.create_task(collect(session, []))
        await settle()
        await session.aclose()
        assert desk.open == []
        await reading

    @pytest.mark.parametrize(
        "use", [lambda s: s.push_audio(noise(1)), Session.end, Session.clear], ids=["push", "end", "clear"]
    )
    async def test_a_closed_session_says_so(self, client: LipstreamClient, use: object) -> None:
        session = client.session("demo")
        await session.aclose()
        await session.aclose()
        with pytest.raises(SessionError, match="closed"):
            use(session)  # type: ignore[operator]

    @pytest.mark.parametrize("pcm", [np.zeros(3, np.float32), np.zeros((3, 2), np.int16)])
    async def test_other_audio_than_the_servers_is_refused_and_nothing_is_lost(
        self, client: LipstreamClient, desk: Desk, pcm: NDArray[np.int16]
    ) -> None:
        good = noise(FRAME)
        async with client.session("demo") as session:
            session.push_audio(good)
            with pytest.raises(AudioError, match="expected PCM"):
                session.push_audio(pcm)
            session.end()
            await settle()
            desk.calls[0].answer()
            assert [frame async for frame in session] == frames_of(good)

    async def test_waiting_audio_is_bounded(self, client: LipstreamClient) -> None:
        minute = np.zeros(60 * 16000, np.int16)
        async with client.session("demo", in_flight=1) as session:
            for _ in range(10):
                session.push_audio(minute)
            with pytest.raises(AudioError, match="600 s"):
                session.push_audio(minute)
