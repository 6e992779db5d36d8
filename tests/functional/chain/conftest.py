"""A Triton for the tests of the chain, with two avatars: the demo, cut short, and one with other weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from client import read_audio
from export.avatar import AvatarSettings, NetworkSource, build_avatar
from export.demo import avatar as demo
from export.demo import presenter
from export.networks.unet import LipSyncUNet
from export.onnx_export import write_unet
from server.launcher import TritonServer
from tests.support.triton import running_triton

SPEECH = Path(demo.__file__).parent / "speech" / "hello.flac"
TEMPLATE_FRAMES = 12
OTHER_KEY = "0123456789abcdef" * 4


@dataclass(frozen=True)
class Chain:
    """A server with the avatars ``demo`` and ``other``, and where they lie."""

    server: TritonServer
    avatars: Path

    @property
    def url(self) -> str:
        return self.server.grpc_url


def build(avatars: Path, avatar_id: str, network: Path, blend: str) -> None:
    settings = AvatarSettings(
        avatar_id=avatar_id,
        avatars=avatars,
        network=NetworkSource(network),
        encoder=demo.WEIGHTS / demo.ENCODER_FILE,
        blend=blend,
    )
    boxes = [presenter.face_box(index) for index in range(TEMPLATE_FRAMES)]
    build_avatar(settings, demo.PresenterFrames(count=TEMPLATE_FRAMES), boxes)


@pytest.fixture(scope="session")
def avatars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of both avatars."""
    folder = tmp_path_factory.mktemp("chain") / "avatars"
    other = folder.parent / "other.onnx"
    torch.manual_seed(0)
    write_unet(LipSyncUNet(widths=(4, 8, 16, 32, 64)).eval(), OTHER_KEY, other)
    build(folder, "demo", demo.WEIGHTS / demo.UNET_FILE, "hard")
    build(folder, "other", other, "feather")
    return folder


# Not for the whole session: tests of the launcher look whether any server has left something behind.
@pytest.fixture(scope="module")
def chain(avatars: Path) -> Iterator[Chain]:
    with running_triton(avatars) as server:
        yield Chain(server, avatars)


@pytest.fixture(scope="session")
def speech() -> NDArray[np.int16]:
    """The demo's sentence, int16 16 kHz."""
    return read_audio(SPEECH).pcm()
