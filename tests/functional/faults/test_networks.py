"""Networks that hang, or end their process: the server comes back, they are refused, and nobody else loses a frame."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from client import LipstreamClient, RetryPolicy, ServerFaultError
from export.avatar import AvatarSettings, NetworkSource, build_avatar
from tests.support import golden
from tests.support.hostile_networks import crash, hang, replace_network
from tests.support.served import serving

pytestmark = [pytest.mark.functional, pytest.mark.slow]

LOAD_TIMEOUT_S = 10 if os.environ.get("CI") else 5
"""A sound network of a few nodes opens in far less, however busy the machine is."""


def build(avatars: Path, avatar_id: str, spoil: Callable[[onnx.ModelProto], None] | None = None) -> None:
    encoder = golden.write_encoder(avatars.parent / "e.onnx")
    network = golden.write_network(avatars.parent / "n.onnx", "328")
    settings = AvatarSettings(avatar_id, avatars, NetworkSource(network), encoder=encoder)
    build_avatar(settings, golden.GoldenFrames(), golden.boxes("328"))
    if spoil is not None:
        model = onnx.load(str(network))
        spoil(model)
        replace_network(avatars / avatar_id, model)


async def speak(url: str, avatar: str) -> list[bytes]:
    retry = RetryPolicy(unavailable_s=240, connect_s=240)
    async with LipstreamClient(url, idle_frames=False, retry=retry) as client:
        return [frame.jpeg async for frame in client.speak(avatar, golden.speech(), chunk_frames=5)]


@pytest.mark.parametrize("spoil", [hang, crash])
async def test_it_is_refused_and_the_others_go_on(
    spoil: Callable[[onnx.ModelProto], None], tmp_path: Path
) -> None:
    avatars = tmp_path / "avatars"
    build(avatars, "good")
    build(avatars, "bad", spoil)
    settings = {"LIPSTREAM_LOAD_TIMEOUT_S": str(LOAD_TIMEOUT_S)}
    cache = ("--cache", str(tmp_path / "graphs"))
    with serving(avatars, *cache, log=tmp_path / "triton.log", **settings) as served:
        alone = await speak(served.url, "good")
        over = asyncio.Event()

        async def watch() -> int:
            heard = 0
            while not over.is_set():
                assert await speak(served.url, "good") == alone
                heard += 1
            return heard

        watching = asyncio.create_task(watch())
        with pytest.raises(ServerFaultError, match="AVATAR 'bad' is refused on this server"):
            await speak(served.url, "bad")
        assert served.health()["restarts"] == 2  # one death may have had another reason
        with pytest.raises(ServerFaultError, match="is refused"):
            await speak(served.url, "bad")
        over.set()
        assert await watching >= 1
        assert served.health()["restarts"] == 2
