"""The frames of the first edition, byte for byte: recorded before anything was changed (`tests/data/golden.json`)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.core._multiarray_umath import __cpu_features__
from numpy.typing import NDArray

from client import LipstreamClient, read_audio
from export.avatar import AvatarSettings, NetworkSource, build_avatar
from export.demo.avatar import build_demo_avatar
from server.launcher import TritonServer
from server.settings import ROOT
from tests.functional.chain.wire import ask
from tests.support import golden
from tests.support.triton import running_triton

pytestmark = pytest.mark.functional

RECORDED: dict[str, Any] = json.loads((ROOT / "tests" / "data" / "golden.json").read_text())
SPEECH = ROOT / "export" / "demo" / "speech" / "hello.flac"


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """A server with the avatars that were recorded."""
    folder = tmp_path_factory.mktemp("golden")
    for avatar_id in RECORDED["families"]:
        family, _, blend = avatar_id.rpartition("-")
        encoder = golden.write_encoder(folder / "e.onnx") if family in golden.ENCODED else None
        network = golden.write_network(folder / "n.onnx", family)
        settings = AvatarSettings(
            avatar_id, folder / "avatars", NetworkSource(network), encoder=encoder, blend=blend
        )
        build_avatar(settings, golden.GoldenFrames(), golden.boxes(family))
    build_demo_avatar(folder / "avatars")
    with running_triton(folder / "avatars") as server:
        yield server


async def spoken(url: str, avatar: str, pcm: NDArray[np.int16], chunk_frames: int) -> list[str]:
    async with LipstreamClient(url, idle_frames=False) as client:
        stream = client.speak(avatar, pcm, chunk_frames=chunk_frames)
        return golden.digests([frame.jpeg async for frame in stream])


def asked(url: str, model: str, avatar: str, count: int, **more: NDArray[Any]) -> dict[str, NDArray[Any]]:
    inputs = {"AVATAR": np.array([avatar.encode()], object), "FRAME_INDEX": np.arange(count, dtype=np.int32)}
    return ask(url, model, {**inputs, **more}, ("JPEG", "RECT"))


def idle(url: str, avatar: str, count: int) -> list[str]:
    jpegs: list[bytes] = []
    for first in range(0, count, 25):
        index = np.arange(first, min(first + 25, count), dtype=np.int32)
        inputs = {"AVATAR": np.array([avatar.encode()], object), "FRAME_INDEX": index}
        jpegs += list(ask(url, "idle_frames", inputs)["JPEG"])
    return golden.digests(jpegs)


@pytest.mark.parametrize("avatar_id", RECORDED["families"])
async def test_every_family_is_served_as_before(triton: TritonServer, avatar_id: str) -> None:
    recorded = RECORDED["families"][avatar_id]
    family = avatar_id.rpartition("-")[0]
    if recorded["speech"]:
        for chunk_frames in (25, 5):
            found = await spoken(triton.grpc_url, avatar_id, golden.speech(), chunk_frames)
            assert found == recorded["speech"]
    features = golden.features(family, len(recorded["features"]))
    answer = asked(triton.grpc_url, "avatar_from_features", avatar_id, len(features), AUDIO=features)
    assert golden.digests(list(answer["JPEG"])) == recorded["features"]
    assert answer["RECT"].tolist()[: golden.FRAMES] == recorded["rects"]
    if recorded["idle"]:
        assert idle(triton.grpc_url, avatar_id, len(recorded["idle"])) == recorded["idle"]


async def test_the_demo_says_its_sentence_as_before(triton: TritonServer) -> None:
    recorded = RECORDED["demo"]
    here = sorted(name for name, has in __cpu_features__.items() if has)
    if here != recorded["processor"]:
        pytest.skip("recorded on a processor that rounds float32 differently")
    pcm = read_audio(SPEECH).pcm()
    for chunk_frames in (25, 10):
        assert await spoken(triton.grpc_url, "demo", pcm, chunk_frames) == recorded["speech"]
    assert idle(triton.grpc_url, "demo", len(recorded["idle"])) == recorded["idle"]


async def test_clients_of_every_family_get_together_what_each_gets_alone(
    triton: TritonServer,
) -> None:
    """Requests of different avatars are put together at the networks; nobody's frames show it."""
    avatars = [name for name, recorded in RECORDED["families"].items() if recorded["speech"]]
    together = await asyncio.gather(
        *(spoken(triton.grpc_url, avatar, golden.speech(), 5) for avatar in avatars)
    )
    assert together == [RECORDED["families"][avatar]["speech"] for avatar in avatars]


def test_nothing_is_written_into_the_model_repository(triton: TritonServer) -> None:
    repository: Path = triton.settings.model_repository
    written = [path for path in repository.rglob("*") if path.name == "__pycache__"]
    assert written == []
