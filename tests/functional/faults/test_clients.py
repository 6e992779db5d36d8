"""Clients that leave in the middle, and more of them than can be served."""

from __future__ import annotations

import asyncio
import random
import re
import shutil
import time
import urllib.request
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import psutil
import pytest

from client import LipstreamClient, RetryPolicy, ServerBusyError
from compositor_backend.contract import LIPSYNC_MODEL
from export.avatar import AvatarSettings, NetworkSource, build_avatar
from server.launcher import TritonServer
from server.settings import ROOT
from tests.support import golden
from tests.support.triton import running_triton

pytestmark = pytest.mark.functional

AVATARS = ("ann", "bob", "eve")
STREAMS = 12
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def avatars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clients")
    encoder = golden.write_encoder(folder / "e.onnx")
    for number, avatar_id in enumerate(AVATARS):
        network = golden.write_network(folder / "n.onnx", "328", key=number, shade=20 * number)
        settings = AvatarSettings(avatar_id, folder / "avatars", NetworkSource(network), encoder=encoder)
        build_avatar(settings, golden.GoldenFrames(), golden.boxes("328"))
    return folder / "avatars"


@pytest.fixture(scope="module")
def triton(avatars: Path) -> Iterator[TritonServer]:
    with running_triton(avatars) as server:
        yield server


async def speak(url: str, avatar: str, retry: RetryPolicy | None = None) -> list[bytes]:
    async with LipstreamClient(url, idle_frames=False, retry=retry or RetryPolicy()) as client:
        return [frame.jpeg async for frame in client.speak(avatar, golden.speech(), chunk_frames=5)]


async def leave(url: str, avatar: str, frames: int, politely: bool) -> None:
    """Take some frames of an utterance and go: the stream is closed, or the task cancelled with requests under way."""

    async def listen(client: LipstreamClient, taken: asyncio.Event) -> None:
        async with aclosing(client.speak(avatar, golden.speech(), chunk_frames=5, in_flight=8)) as stream:
            count = 0
            async for _ in stream:
                count += 1
                if count >= frames:
                    taken.set()
                    if politely:
                        return
                    await asyncio.Event().wait()

    async with LipstreamClient(url, idle_frames=False) as client:
        taken = asyncio.Event()
        listening = asyncio.create_task(listen(client, taken))
        await taken.wait()
        listening.cancel()
        await asyncio.wait([listening])


def pending(server: TritonServer) -> float:
    """Requests that wait or are computed, by Triton's metrics."""
    with urllib.request.urlopen(server.metrics_url, timeout=10) as answer:
        found = re.findall(r"nv_inference_pending_request_count\{.*\} (\S+)", answer.read().decode())
    assert found
    return sum(map(float, found))


def held(server: TritonServer) -> tuple[int, int]:
    """Open files of all of the server's processes, and their threads."""
    root = psutil.Process(server.pid)
    processes = [root, *root.children(recursive=True)]
    return sum(process.num_fds() for process in processes), len(processes)


async def settled(server: TritonServer) -> tuple[int, int]:
    """What is held once nothing is under way any more."""
    deadline_s = time.monotonic() + PATIENCE_S
    while await asyncio.to_thread(pending, server):
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.05)
    return held(server)


async def test_clients_that_leave_are_forgotten(triton: TritonServer) -> None:
    alone = {avatar: await speak(triton.grpc_url, avatar) for avatar in AVATARS}
    assert len({frames[0] for frames in alone.values()}) == len(AVATARS)
    rng, seen = random.Random(5), []
    for _ in range(3):
        await asyncio.gather(
            *(
                leave(triton.grpc_url, rng.choice(AVATARS), rng.randint(1, 30), rng.random() < 0.5)
                for _ in range(STREAMS)
            ),
        )
        seen.append(await settled(triton))
        for avatar, frames in alone.items():
            assert await speak(triton.grpc_url, avatar) == frames
    # gRPC lets go of a connection's file a moment after it ended.
    (first, processes), (last, processes_last) = seen[0], seen[-1]
    assert processes_last == processes
    assert last <= first + STREAMS


@pytest.fixture
def short_queue(tmp_path: Path) -> Path:
    """The model repository, with a bound on requests that wait for `lipsync` as in production, but a low one."""
    models = tmp_path / "models"
    shutil.copytree(ROOT / "model_repository", models)
    config = models / LIPSYNC_MODEL.name / "configs" / "embedded.pbtxt"
    bound = "dynamic_batching { default_queue_policy { max_queue_size: 2 } "
    text = config.read_text(encoding="utf-8")
    assert "dynamic_batching { " in text
    config.write_text(text.replace("dynamic_batching { ", bound), encoding="utf-8")
    return models


async def test_more_than_can_be_served_are_refused_and_the_rest_is_right(
    avatars: Path, short_queue: Path
) -> None:
    hasty, patient = RetryPolicy(busy_s=0), RetryPolicy(busy_s=PATIENCE_S)
    with running_triton(avatars, model_repository=short_queue) as server:
        # One viewer alone has more requests under way than this queue holds: he, too, may have to ask again.
        alone = await speak(server.grpc_url, "ann", patient)
        found = await asyncio.gather(
            *(speak(server.grpc_url, "ann", hasty) for _ in range(24)), return_exceptions=True
        )
        refused = [error for error in found if isinstance(error, ServerBusyError)]
        assert refused
        assert all(error.retry_after_s for error in refused)
        assert all(frames == alone for frames in found if not isinstance(frames, ServerBusyError))
        # Who waits and asks again gets every frame.
        assert (
            await asyncio.gather(*(speak(server.grpc_url, "ann", patient) for _ in range(6))) == [alone] * 6
        )
