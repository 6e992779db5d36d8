"""Processes that are killed or stopped while eight streams on eight avatars run: a pause, and not a frame less."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from client import LipstreamClient, RetryPolicy
from export.avatar import AvatarSettings, NetworkSource, build_avatar
from tests.functional.chain.wire import counts
from tests.support import golden
from tests.support.served import Served, serving

pytestmark = [pytest.mark.functional, pytest.mark.slow]

AVATARS = [f"face-{number}" for number in range(8)]
BACK_S = 15.0 * float(os.environ.get("LIPSTREAM_PATIENCE", "4"))
"""In `make faults` nothing else runs; elsewhere the machine may be busy."""
LONG = np.tile(golden.speech(), 4)
"""So that no stream is over before the last one has begun."""
MODELS = ("audio_features", "audio_encoder", "audio_windows", "lipsync", "compositor")


@pytest.fixture(scope="module")
def avatars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight faces: frames and networks of their own."""
    folder = tmp_path_factory.mktemp("faces")
    encoder = golden.write_encoder(folder / "e.onnx")
    for number, avatar_id in enumerate(AVATARS):
        network = golden.write_network(folder / "n.onnx", "328", key=number, shade=8 * number)
        settings = AvatarSettings(
            avatar_id, folder / "avatars", NetworkSource(network), encoder=encoder, quality=60 + number
        )
        build_avatar(settings, golden.GoldenFrames(), golden.boxes("328"))
    return folder / "avatars"


@pytest.fixture
def served(avatars: Path, tmp_path: Path) -> Iterator[Served]:
    """A server of the test's own: one whose processes die again and again is started later and later."""
    with serving(avatars, "--cache", str(tmp_path / "graphs"), log=tmp_path / "triton.log") as server:
        yield server


async def speak(url: str, avatar: str, begun: asyncio.Event | None = None) -> list[bytes]:
    """The frames of an utterance; `begun` is set when the first one is there."""
    retry, jpegs = RetryPolicy(unavailable_s=120), []
    async with LipstreamClient(url, idle_frames=False, retry=retry) as client:
        async for frame in client.speak(avatar, LONG, chunk_frames=5, in_flight=1):
            jpegs.append(frame.jpeg)
            if begun is not None:
                begun.set()
    return jpegs


def victim(served: Served, name: str) -> int:
    return served.triton if name == "triton" else served.stubs(name)[0]


async def test_eight_avatars_share_runs_and_get_what_each_gets_alone(served: Served) -> None:
    alone = [await speak(served.url, avatar) for avatar in AVATARS]
    assert len({frames[0] for frames in alone}) == len(AVATARS)
    before = counts(served.url, "lipsync")
    assert await asyncio.gather(*(speak(served.url, avatar) for avatar in AVATARS)) == alone
    requests, _, executions = np.subtract(counts(served.url, "lipsync"), before)
    assert executions < requests


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("lipsync", signal.SIGKILL),
        ("triton", signal.SIGKILL),
        ("compositor", signal.SIGSTOP),
        *(
            pytest.param(name, how, marks=pytest.mark.faults)
            for name in (*MODELS, "triton")
            for how in (signal.SIGKILL, signal.SIGSTOP)
        ),
    ],
)
async def test_no_viewer_loses_a_frame(served: Served, name: str, how: signal.Signals) -> None:
    alone = [await speak(served.url, avatar) for avatar in AVATARS]
    assert len({frames[0] for frames in alone}) == len(AVATARS), "a wrong face would be seen"
    before, begun = served.health()["restarts"], [asyncio.Event() for _ in AVATARS]
    watching = [
        asyncio.create_task(speak(served.url, avatar, event))
        for avatar, event in zip(AVATARS, begun, strict=True)
    ]
    await asyncio.gather(*(event.wait() for event in begun))
    assert not any(stream.done() for stream in watching)
    os.kill(victim(served, name), how)
    struck_s = time.monotonic()
    while served.health()["restarts"] == before or not served.health()["ready"]:
        assert time.monotonic() - struck_s < BACK_S
        await asyncio.sleep(0.1)
    assert await asyncio.gather(*watching) == alone
