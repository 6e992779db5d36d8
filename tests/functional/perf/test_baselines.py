from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from client import Keepalive
from client._triton import TritonTransport
from compositor_backend.pack import AvatarPack
from export.demo.avatar import DEMO_ID, PresenterFrames
from perf.baselines.material import Material
from perf.baselines.separated import SeparatedClient, build_separated, separated_name
from perf.baselines.single_process import SingleProcess
from perf.bench import Bench
from perf.subjects import decode, source_frames
from tests.support.scenes import Pixels
from tests.unit.perf.baselines.scene import psnr_db

pytestmark = pytest.mark.functional

TEMPLATE = [0, 5, 11, 3, 3]


def audio(count: int) -> NDArray[np.float32]:
    return np.random.default_rng(3).standard_normal((count, 32, 16, 16), np.float32)


def lipstreams(bench: Bench, avatars: Path, avatar_id: str) -> list[Pixels]:
    """What ``avatar_from_features`` answers, decoded."""

    async def ask(url: str) -> Sequence[bytes]:
        transport = TritonTransport(url, Keepalive())
        inputs = {
            "AVATAR": np.array([avatar_id.encode()], object),
            "FRAME_INDEX": np.array(TEMPLATE, np.int32),
            "AUDIO": audio(len(TEMPLATE)),
        }
        try:
            return list((await transport.infer("avatar_from_features", inputs, ["JPEG"], 60))["JPEG"])
        finally:
            await transport.close()

    with bench.serving(avatars) as server:
        return [decode(bytes(jpeg)) for jpeg in asyncio.run(ask(server.grpc_url))]


def separateds(bench: Bench, avatars: Path, avatar_id: str, material: Material) -> list[Pixels]:
    """The same frames by the separated way, with a server that has only the U-Net."""
    repository = bench.work / "separated"
    build_separated(repository, avatars, avatar_id)

    async def ask(url: str) -> list[bytes]:
        transport = TritonTransport(url, Keepalive())
        async with SeparatedClient(transport, separated_name(avatar_id), material) as client:
            return await client.frames(TEMPLATE, audio(len(TEMPLATE)))

    with bench.serving(avatars, repository) as server:
        return [decode(jpeg) for jpeg in asyncio.run(ask(server.grpc_url))]


def test_with_the_null_network_separated_frames_are_identical(bench: Bench) -> None:
    avatar_id = bench.null_avatar(frames=12)
    with AvatarPack(bench.work_avatars / avatar_id) as pack:
        material = Material.of_pack(pack, frames=source_frames(bench.avatars, "1280x720", 12))
    found = separateds(bench, bench.work_avatars, avatar_id, material)
    for theirs, ours in zip(found, lipstreams(bench, bench.work_avatars, avatar_id), strict=True):
        np.testing.assert_array_equal(theirs, ours)


def test_the_demos_network_draws_the_same_frames_in_every_system(bench: Bench) -> None:
    with AvatarPack(bench.avatars / DEMO_ID) as pack:
        material = Material.of_pack(pack, frames=list(PresenterFrames(count=pack.frames)))
    ours = lipstreams(bench, bench.avatars, DEMO_ID)
    plain = [material.frames[number] for number in TEMPLATE]
    separated = separateds(bench, bench.avatars, DEMO_ID, material)
    served = bench.avatars / DEMO_ID / "network.onnx"
    single = [decode(jpeg) for jpeg in SingleProcess(served, material).frames(TEMPLATE, audio(len(TEMPLATE)))]
    for frame, (reference, theirs, alone) in enumerate(zip(ours, separated, single, strict=True)):
        x1, y1, x2, y2 = material.rects[TEMPLATE[frame]].tolist()
        box = np.s_[y1:y2, x1:x2]
        # The mouth is really drawn: the frame as it was is farther away than what any of them made of it.
        untouched = psnr_db(plain[frame][box], reference[box])
        assert untouched < 37
        assert psnr_db(theirs[box], reference[box]) > 45
        assert psnr_db(alone[box], reference[box]) > untouched + 3
        assert psnr_db(alone, reference) > 45
