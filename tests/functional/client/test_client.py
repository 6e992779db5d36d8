"""The client against a real Triton: what gRPC, ensembles and model control really do."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import pytest

from client import (
    AvatarNotFoundError,
    AvatarNotLoadedError,
    AvatarPool,
    AvatarState,
    Frame,
    Keepalive,
    LipstreamClient,
    NullSink,
    RequestCancelledError,
    RequestRefusedError,
    RetryPolicy,
    ServerError,
    ServerFaultError,
    ServerUnavailableError,
    speak_to_sinks,
)
from client._triton import TritonTransport
from server.launcher import TritonServer
from server.settings import ROOT
from tests.functional.client.fake_avatars import write_repository
from tests.support.triton import running_triton
from tests.unit.client.speaker import FRAME, box, frames_of, noise

pytestmark = pytest.mark.functional

WAIT_S = 60


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    write_repository(folder)
    return folder


@pytest.fixture(scope="module")
def triton(repository: Path) -> Iterator[TritonServer]:
    with running_triton([repository], models=("avatar_demo", "avatar_slow")) as server:
        yield server


@pytest.fixture
def gate(repository: Path) -> Iterator[Path]:
    """The gate that the avatar `slow` waits behind, closed until the test, or its end, opens it."""
    gate = repository / "gate"
    for path in (gate, waiting_at(gate)):
        path.unlink(missing_ok=True)
    yield gate
    gate.touch()


@pytest.fixture
async def client(triton: TritonServer) -> AsyncIterator[LipstreamClient]:
    async with LipstreamClient(triton.grpc_url) as client:
        yield client


async def collect(frames: AsyncIterator[Frame], into: list[Frame] | None = None) -> list[Frame]:
    got = [] if into is None else into
    async for frame in frames:
        got.append(frame)
    return got


def waiting_at(gate: Path) -> Path:
    return gate.with_name("gate.waiting")


async def until_waiting(gate: Path) -> None:
    while not waiting_at(gate).exists():
        await asyncio.sleep(0.01)


async def until_ready(client: LipstreamClient) -> None:
    while not await client.is_ready():
        await asyncio.sleep(0.02)


async def requests_of(client: LipstreamClient, model: str) -> int:
    return {reading.model: reading.requests for reading in await client.statistics()}.get(model, 0)


def pid_of(server: TritonServer) -> int:
    port = f"--grpc-port={server.grpc_url.rsplit(':', 1)[1]}"
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        words = path.read_bytes().decode(errors="replace").split("\0")
        if words[0].endswith("/tritonserver") and port in words:
            return int(path.parent.name)
    raise AssertionError(f"no tritonserver with {port}")


@pytest.mark.parametrize("chunk", [5, 10, 25, 30])
async def test_frames_do_not_depend_on_how_the_utterance_was_cut(client: LipstreamClient, chunk: int) -> None:
    pcm = noise(93 * FRAME - 17)
    frames = client.speak("demo", pcm, chunk_frames=chunk, first_chunk_frames=5, first_frame=11)
    assert [frame async for frame in frames] == frames_of(pcm, first_frame=11)


async def test_face_boxes(client: LipstreamClient) -> None:
    frames = [frame async for frame in client.speak("demo", noise(7 * FRAME), rects=True)]
    assert [frame.rect for frame in frames] == [box(index) for index in range(7)]


async def test_a_server_without_idle_frames_draws_them(
    client: LipstreamClient, caplog: pytest.LogCaptureFixture
) -> None:
    pcm = np.zeros(20 * FRAME, np.int16)
    with caplog.at_level(logging.INFO, "client"):
        assert [frame async for frame in client.speak("demo", pcm, first_chunk_frames=None)] == frames_of(pcm)
        async with client.session("demo", idle=True) as session:
            idle = [await anext(session) for _ in range(7)]
    assert [frame.jpeg for frame in idle] == [frame.jpeg for frame in frames_of(pcm)[:7]]
    (record,) = caplog.records
    assert "demo is asked for its silent frames by its ensemble" in record.getMessage()


async def test_six_clients_at_once_get_what_each_gets_alone(triton: TritonServer) -> None:
    async def speak(seed: int) -> list[Frame]:
        async with LipstreamClient(triton.grpc_url) as client:
            return [
                frame
                async for frame in client.speak(
                    "demo", noise(60 * FRAME, seed), chunk_frames=10, first_chunk_frames=None
                )
            ]

    said = await asyncio.gather(*(speak(seed) for seed in range(6)))
    assert said == [frames_of(noise(60 * FRAME, seed)) for seed in range(6)]


async def test_live_audio_gives_the_same_frames(client: LipstreamClient) -> None:
    pcm, got = noise(50 * FRAME), []
    async with client.session("demo") as session:

        async def talk() -> None:
            for start in range(0, len(pcm), 333):
                session.push_audio(pcm[start : start + 333])
                await asyncio.sleep(0)
            session.end()

        talking = asyncio.create_task(talk())
        async for frame in session:
            got.append(frame)
        await talking
    assert got == frames_of(pcm)


async def test_clear_cancels_on_the_server_what_is_under_way(client: LipstreamClient, gate: Path) -> None:
    heard, drawn = await requests_of(client, "ears"), await requests_of(client, "lipsync_slow")
    second = noise(3 * FRAME, 2)
    async with client.session("slow", chunk_frames=10, first_chunk_frames=None, in_flight=3) as session:
        session.push_audio(noise(60 * FRAME, 1))
        await asyncio.wait_for(until_waiting(gate), WAIT_S)
        session.clear()
        session.push_audio(second)
        session.end()
        await asyncio.sleep(0.5)  # for the cancellation to reach it
        gate.touch()
        got = await asyncio.wait_for(collect(session), WAIT_S)
    assert got == frames_of(second, "slow")
    # Triton drops a cancelled request where it would queue for a batch: the first step, which had it already,
    # goes on with it, the network never sees it.
    assert await requests_of(client, "ears") - heard <= 4
    assert await requests_of(client, "lipsync_slow") - drawn == 1


async def test_unloading_answers_what_is_under_way_first(client: LipstreamClient, gate: Path) -> None:
    pcm = noise(3 * FRAME)
    speaking = asyncio.create_task(anext(client.speak("slow", pcm)))
    await asyncio.wait_for(until_waiting(gate), WAIT_S)
    unloading = asyncio.create_task(client.unload("slow"))
    await asyncio.sleep(0.5)  # the longer, the harder for the request
    gate.touch()
    assert await speaking == frames_of(pcm, "slow")[0]
    await unloading
    with pytest.raises(AvatarNotLoadedError, match="avatar 'slow' is not loaded"):
        await anext(client.speak("slow", pcm))
    assert AvatarState("slow", "not loaded") in await client.avatars()
    assert not await client.is_ready("slow")
    await client.load("slow")
    assert await anext(client.speak("slow", pcm)) == frames_of(pcm, "slow")[0]


async def test_unloading_one_avatar_leaves_the_others_and_what_they_share(client: LipstreamClient) -> None:
    await client.unload("slow")
    pcm = noise(FRAME)
    assert [frame async for frame in client.speak("demo", pcm)] == frames_of(pcm)
    states = {model.name: model.state for model in await _transport(client).index(WAIT_S)}
    assert (states["ears"], states["lipsync_demo"]) == ("READY", "READY")
    assert states["lipsync_slow"] != "READY"
    await client.unload("slow")
    await client.load("slow")


async def test_avatars_and_their_states(client: LipstreamClient) -> None:
    with pytest.raises(ServerFaultError, match="broken"):
        await client.load("broken")
    with pytest.raises(AvatarNotFoundError, match="no avatar 'nobody'; it has: broken, demo, slow"):
        await client.load("nobody")
    states = {state.avatar: state for state in await client.avatars()}
    assert set(states) == {"broken", "demo", "slow"}
    assert states["demo"] == AvatarState("demo", "ready")
    assert states["broken"].state in ("failed", "not loaded")
    assert await client.is_ready()
    assert await client.is_ready("demo")
    assert not await client.is_ready("nobody")


async def test_an_avatar_that_is_nowhere_is_one_sentence(client: LipstreamClient) -> None:
    with pytest.raises(
        AvatarNotLoadedError, match=r"avatar 'nobody' is not loaded on Triton at 127\.0\.0\.1:\d+"
    ):
        await anext(client.speak("nobody", noise(FRAME)))


def _transport(client: LipstreamClient) -> TritonTransport:
    return TritonTransport(client.url, Keepalive())


async def test_what_the_model_refuses_is_the_servers_own_sentence(client: LipstreamClient) -> None:
    inputs = {
        "AVATAR": np.array([b"demo"], dtype=object),
        "FRAME_INDEX": np.arange(3, dtype=np.int32),
        "PCM": np.zeros(640, np.int16),
    }
    with pytest.raises(RequestRefusedError) as caught:
        await _transport(client).infer("avatar_demo", inputs, ["JPEG"], WAIT_S)
    assert str(caught.value).startswith("PCM has shape [640]; [16000] is wanted for 3 frames")


async def test_what_triton_itself_refuses_is_refused_too(client: LipstreamClient) -> None:
    inputs = {"AVATAR": np.array([b"demo"], dtype=object), "FRAME_INDEX": np.zeros(1, np.int64)}
    with pytest.raises(RequestRefusedError, match=r"(expected 3 inputs|unexpected)"):
        await _transport(client).infer("avatar_demo", inputs, ["JPEG"], WAIT_S)


async def test_the_report_has_each_steps_times_on_the_server(client: LipstreamClient) -> None:
    report = await speak_to_sinks(
        client, "demo", noise(60 * FRAME), [NullSink()], chunk_frames=10, first_chunk_frames=None
    )
    steps = {step.model: step for step in report.steps}
    assert {"avatar_demo", "ears", "lipsync_demo", "pen"} <= set(steps)
    assert steps["ears"].requests == steps["lipsync_demo"].requests == 6
    assert steps["ears"].infer_ms > 0


class TestServerThatDies:
    async def test_a_session_goes_on_when_the_server_is_back(self, repository: Path) -> None:
        pcm, got = noise(100 * FRAME), []
        with running_triton([repository], models=("avatar_demo",)) as server:
            port = int(server.grpc_url.rsplit(":", 1)[1])
            client = LipstreamClient(server.grpc_url, retry=RetryPolicy(attempts=2, first_delay_s=0.05))
            session = client.session("demo", chunk_frames=10, first_chunk_frames=None, in_flight=2)
            session.push_audio(pcm)
            session.end()
            for _ in range(25):
                got.append(await anext(session))
            os.kill(pid_of(server), signal.SIGKILL)
            with pytest.raises(ServerUnavailableError, match="frames had been delivered") as caught:
                await collect(session, got)
            assert caught.value.frames_delivered == len(got) < 100
            assert caught.value.url in str(caught.value)
        with running_triton([repository], models=("avatar_demo",), grpc_port=port):
            await asyncio.wait_for(until_ready(client), WAIT_S)
            await asyncio.wait_for(collect(session, got), WAIT_S)
        await session.aclose()
        await client.close()
        assert got == frames_of(pcm)

    async def test_a_server_that_stops_in_good_order_is_an_error_too(
        self, repository: Path, gate: Path
    ) -> None:
        with running_triton([repository], models=("avatar_slow",), stop_timeout_s=6) as server:
            client = LipstreamClient(server.grpc_url, retry=RetryPolicy(attempts=1))
            speaking = asyncio.create_task(anext(client.speak("slow", noise(FRAME))))
            await asyncio.sleep(
                0.5
            )  # for the request to reach the server; too short, and the error is the same
            await asyncio.to_thread(server.stop)
            with pytest.raises(ServerError) as caught:
                await asyncio.wait_for(speaking, WAIT_S)
            await client.close()
        assert isinstance(caught.value, ServerUnavailableError | RequestCancelledError)
        assert caught.value.frames_delivered == 0


async def test_a_server_with_an_admin_key_still_speaks_and_obeys_who_has_it(repository: Path) -> None:
    with running_triton([repository], models=("avatar_demo",), admin_key="secret") as server:
        async with LipstreamClient(server.grpc_url) as client:
            with pytest.raises(RequestRefusedError, match="wants a key"):
                await client.avatars()
            report = await speak_to_sinks(client, "demo", noise(9 * FRAME), [NullSink()])
            assert (report.frames, report.steps) == (9, ())
        async with LipstreamClient(server.grpc_url, admin_key="secret") as client:
            await client.unload("demo")
            assert {state.state for state in await client.avatars()} == {"not loaded"}
            assert await client.statistics()
        async with AvatarPool([server.grpc_url], admin_key="secret") as pool, pool.lease("demo") as lease:
            pcm = noise(FRAME)
            assert [frame async for frame in lease.client.speak("demo", pcm)] == frames_of(pcm)
        line = [sys.executable, "-m", "client", "unload", "demo", "--url", server.grpc_url]
        for key, status in (("", 4), ("secret", 0)):
            environment = {**os.environ, "LIPSTREAM_ADMIN_KEY": key}
            assert subprocess.run(line, cwd=ROOT, env=environment, capture_output=True).returncode == status


@pytest.mark.slow
async def test_pings_as_often_as_the_server_of_this_project_bears_them(
    triton: TritonServer, gate: Path
) -> None:
    often = Keepalive(time_ms=5500, timeout_ms=2000, permit_without_calls=True, max_pings_without_data=0)
    pcm = noise(FRAME)
    async with LipstreamClient(triton.grpc_url, keepalive=often) as client:
        speaking = asyncio.create_task(anext(client.speak("slow", pcm)))
        await asyncio.sleep(20)  # three pings
        gate.touch()
        assert await speaking == frames_of(pcm, "slow")[0]
