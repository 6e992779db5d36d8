"""A network of full width, asked for as many rows as a request may have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from compositor_backend.contract import LIPSYNC_MODEL, MAX_FRAMES
from export.avatar import AvatarSettings, NetworkSource, build_avatar
from export.networks.unet import LipSyncUNet
from export.onnx_export import write_unet
from perf.processes import processes_by_role
from tests.functional.chain.wire import ask
from tests.support import golden
from tests.support.triton import running_triton

pytestmark = [pytest.mark.functional, pytest.mark.slow]

MOST_MB = 600


def test_lipsync_stays_small(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = tmp_path / "n.onnx"
    write_unet(LipSyncUNet().eval(), "0123456789abcdef" * 4, network)
    settings = AvatarSettings("wide", tmp_path / "avatars", NetworkSource(network), encoder=None)
    build_avatar(settings, golden.GoldenFrames(), golden.boxes("328"))
    inputs = {
        "AVATAR": np.array([b"wide"], object),
        "FRAME_INDEX": np.arange(MAX_FRAMES, dtype=np.int32),
        "AUDIO": np.ones((MAX_FRAMES, 32, 16, 16), np.float32),
    }
    with running_triton(tmp_path / "avatars") as server:
        for _ in range(3):
            assert len(ask(server.grpc_url, "avatar_from_features", inputs)["JPEG"]) == MAX_FRAMES
        (process,) = processes_by_role(server.pid)[LIPSYNC_MODEL.name]
        assert isinstance(process, psutil.Process)
        found_mb = process.memory_full_info().pss / 1e6
    assert found_mb <= MOST_MB
