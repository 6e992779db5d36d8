"""A real Triton of which more is asked than its queues hold."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from client import Frame, LipstreamClient, RetryPolicy, ServerBusyError
from export.model_configs import GPU_QUEUE
from server.launcher import TritonServer
from tests.functional.client.fake_avatars import add_gated_avatar, write_repository
from tests.functional.client.test_client import requests_of
from tests.support.triton import running_triton
from tests.unit.client.speaker import FRAME, frames_of, noise

pytestmark = pytest.mark.functional

QUEUE = 3
FLOOD = 24
FRAMES = 3
WAIT_S = 60


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("busy")
    write_repository(folder, ["demo"])
    add_gated_avatar(folder, "gated", QUEUE)
    add_gated_avatar(folder, "crowded", GPU_QUEUE)
    return folder


@pytest.fixture(scope="module")
def triton(repository: Path) -> Iterator[TritonServer]:
    with running_triton([repository], models=("avatar_demo", "avatar_gated", "avatar_crowded")) as server:
        yield server


@pytest.fixture
def gate(repository: Path) -> Iterator[Path]:
    """Closed until the test, or its end, opens it."""
    gate = repository / "gated.gate"
    gate.unlink(missing_ok=True)
    yield gate
    gate.touch()


async def utterance(client: LipstreamClient, avatar: str, seed: int) -> list[Frame]:
    return [frame async for frame in client.speak(avatar, noise(FRAMES * FRAME, seed), first_frame=seed)]


def wanted(avatar: str, seed: int) -> list[Frame]:
    return frames_of(noise(FRAMES * FRAME, seed), avatar, seed)


async def until_asked(client: LipstreamClient, model: str, requests: int) -> None:
    while await requests_of(client, model) < requests:
        await asyncio.sleep(0.02)


async def test_a_flood_is_refused_beyond_the_queue_and_the_rest_is_answered(
    triton: TritonServer, gate: Path
) -> None:
    async with LipstreamClient(triton.grpc_url, retry=RetryPolicy(attempts=1)) as client:
        flood = [asyncio.create_task(utterance(client, "gated", seed)) for seed in range(FLOOD)]
        # The gate is closed: only refusals can come.
        await asyncio.wait_for(asyncio.wait(flood, return_when=asyncio.FIRST_COMPLETED), WAIT_S)
        # One network's queue is full; nobody else feels it.
        assert await utterance(client, "demo", 1) == wanted("demo", 1)
        gate.touch()
        answers = await asyncio.wait_for(asyncio.gather(*flood, return_exceptions=True), WAIT_S)
        refusals = [answer for answer in answers if isinstance(answer, BaseException)]
        answered = [seed for seed, answer in enumerate(answers) if answer not in refusals]
        assert len(answered) >= QUEUE
        assert [answers[seed] for seed in answered] == [wanted("gated", seed) for seed in answered]
        assert refusals
        for refusal in refusals:
            assert isinstance(refusal, ServerBusyError), refusal
            assert str(refusal).startswith(f"a queue of Triton at {triton.grpc_url} is full")
            assert refusal.retry_after_s > 0
        assert await utterance(client, "gated", 99) == wanted("gated", 99)


async def test_a_networks_queue_holds_32_clients_with_four_requests_each(
    triton: TritonServer, repository: Path
) -> None:
    pcm = noise(20 * FRAME)
    async with LipstreamClient(triton.grpc_url, retry=RetryPolicy(attempts=1)) as client:

        async def speak() -> list[Frame]:
            return [frame async for frame in client.speak("crowded", pcm, chunk_frames=5, in_flight=4)]

        asked = await requests_of(client, "ears") + GPU_QUEUE
        speaking = [asyncio.create_task(speak()) for _ in range(32)]
        # The gate is closed: none has an answer, and all of them are past the step before the network.
        await asyncio.wait_for(until_asked(client, "ears", asked), WAIT_S)
        (repository / "crowded.gate").touch()
        assert await asyncio.wait_for(asyncio.gather(*speaking), WAIT_S) == [frames_of(pcm, "crowded")] * 32


async def test_a_client_that_tries_again_gets_all_of_its_frames(triton: TritonServer, gate: Path) -> None:
    patient = RetryPolicy(attempts=500, longest_delay_s=0.2)
    async with LipstreamClient(triton.grpc_url, retry=patient) as client:
        flood = [asyncio.create_task(utterance(client, "gated", seed)) for seed in range(FLOOD)]
        gate.touch()
        answers = await asyncio.wait_for(asyncio.gather(*flood), WAIT_S)
    assert answers == [wanted("gated", seed) for seed in range(FLOOD)]
