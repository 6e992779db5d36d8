from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from compositor_backend.pack import AvatarPack
from export.errors import ExportError
from export.idle import BATCH, silent_audio, silent_mouths
from tests.support.avatar_sources import KEY, drawn_mouth, encoder_graph, network_graph
from tests.support.scenes import textured, write_avatar

FRAMES = 3
SILENCE_MEL = -4.0
"""The least that a mel band can be."""


@pytest.fixture
def graphs(tmp_path: Path) -> tuple[Path, Path]:
    """A network and an encoder whose answers numpy can tell."""
    network, encoder = tmp_path / "network.onnx", tmp_path / "encoder.onnx"
    onnx.save(network_graph(), str(network))
    onnx.save(encoder_graph(scale=0.5), str(encoder))
    return network, encoder


@pytest.fixture
def pack(tmp_path: Path) -> AvatarPack:
    frames = [textured(64, 48, seed) for seed in range(FRAMES)]
    return AvatarPack(write_avatar(tmp_path, frames, [(10, 8, 40, 38)] * FRAMES, network_key=KEY))


def test_silence_sounds_the_same_to_every_frame(graphs: tuple[Path, Path]) -> None:
    audio = silent_audio(graphs[1], (32, 16, 16))
    assert np.array_equal(audio, np.full((BATCH, 32, 16, 16), 0.5 * SILENCE_MEL, np.float32))


def test_every_template_frame_is_drawn_once_to_silence(graphs: tuple[Path, Path], pack: AvatarPack) -> None:
    told: list[int] = []
    batches = list(silent_mouths(pack, *graphs, told.append))
    assert {len(batch) for batch in batches} == {BATCH}
    silence = np.full((FRAMES, 32, 16, 16), 0.5 * SILENCE_MEL, np.float32)
    assert np.array_equal(np.concatenate(batches), drawn_mouth(pack.faces, silence))
    assert told == [1, 2, 3]


def test_another_networks_faces_are_refused(graphs: tuple[Path, Path], pack: AvatarPack) -> None:
    onnx.save(network_graph(5), str(graphs[0]))
    with pytest.raises(ExportError, match=rf"network.onnx gives AVATAR_KEY \[\[5\]\]; {KEY} is wanted"):
        next(silent_mouths(pack, *graphs))
