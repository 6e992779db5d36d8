"""Avatars that move: copied to another folder, or packed and unpacked, Triton serves the same bytes from there."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tritonclient.grpc as grpcclient
from numpy.typing import NDArray
from tritonclient.grpc import InferenceServerClient

from compositor_backend import contract
from export.archive import UnpackSettings, pack_avatar, unpack_avatar
from export.avatar import NetworkSource, build_avatar
from export.check import check_avatars
from export.deep_check import SPEECH, check_avatar_deeply, read_speech
from export.frames import open_frames
from export.onnx_export import write_encoder, write_unet
from tests.support.avatar_sources import BOXES, Sources, network_graph
from tests.support.networks import random_encoder, random_unet
from tests.support.triton import running_triton

pytestmark = pytest.mark.functional

FRAMES = np.arange(5, 13, dtype=np.int32)
HUBERT = (16, 32, 32)


@pytest.fixture(scope="module")
def avatars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The avatar ``ann``, with narrow networks of the real kind, and ``bob``, of the 160 family without encoder."""
    sources = Sources.write(tmp_path_factory.mktemp("sources"))
    write_unet(random_unet("328", "ave"), "1" * 64, sources.network)
    write_encoder(random_encoder(), "2" * 64, sources.encoder)
    build_avatar(sources.settings("ann"), open_frames(sources.frames), BOXES)
    onnx.save(network_graph(7, 160, HUBERT), str(sources.network))
    settings = sources.settings("bob", network=NetworkSource(sources.network), encoder=None)
    build_avatar(settings, open_frames(sources.frames), BOXES)
    return sources.avatars


def ask(client: InferenceServerClient, model: str, **inputs: NDArray[Any]) -> list[bytes]:
    tensors = []
    for name, array in inputs.items():
        kind = {"object": "BYTES", "int32": "INT32", "int16": "INT16", "float32": "FP32"}[array.dtype.name]
        tensors.append(grpcclient.InferInput(name, list(array.shape), kind))
        tensors[-1].set_data_from_numpy(array)
    outputs = [grpcclient.InferRequestedOutput("JPEG")]
    return list(client.infer(model, tensors, outputs=outputs).as_numpy("JPEG"))


def served(avatars: Path, *pairs: tuple[str, str]) -> list[list[list[bytes]]]:
    """What a Triton gives from that folder for each pair: one to speech and to silence, the other to features."""
    speech = read_speech(SPEECH)[32_000:][: contract.pcm_samples(len(FRAMES))]
    features = np.random.default_rng(0).uniform(-2, 8, (len(FRAMES), *HUBERT)).astype(np.float32)
    given = []
    with (
        running_triton(avatars) as server,
        InferenceServerClient(server.grpc_url) as client,
    ):
        for pair in pairs:
            ann, bob = (np.array([name.encode()], object) for name in pair)
            given.append(
                [
                    ask(client, "avatar", AVATAR=ann, FRAME_INDEX=FRAMES, PCM=speech),
                    ask(client, "idle_frames", AVATAR=ann, FRAME_INDEX=FRAMES),
                    ask(client, "avatar_from_features", AVATAR=bob, FRAME_INDEX=FRAMES, AUDIO=features),
                ]
            )
    return given


def test_avatars_are_served_from_wherever_they_are_brought(avatars: Path, tmp_path: Path) -> None:
    """From a copy of the folders, and, beside it, from archives unpacked under other ids."""
    there = tmp_path / "another-root" / "avatars"
    shutil.copytree(avatars, there)
    for old, new in (("ann", "eve"), ("bob", "dan")):
        pack_avatar(avatars / old, tmp_path / f"{old}.tar.gz")
        unpack_avatar(tmp_path / f"{old}.tar.gz", UnpackSettings(there, avatar_id=new))
    (first,) = served(avatars, ("ann", "bob"))
    shutil.move(avatars, tmp_path / "gone")  # nothing may be read from where they were
    findings = list(check_avatars(there, check_avatar_deeply))
    assert {finding.avatar for finding in findings} == {"ann", "bob", "eve", "dan"}
    assert all(finding.good for finding in findings), findings
    assert served(there, ("ann", "bob"), ("eve", "dan")) == [first, first]
    spoken, silent, features = first
    assert len(spoken) == len(silent) == len(features) == len(FRAMES)
    assert spoken != silent
