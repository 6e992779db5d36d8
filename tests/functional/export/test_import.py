"""Folders of every format, imported with one command each, served by one Triton, beside a rendering of the facts."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
import tritonclient.grpc as grpcclient
from numpy.typing import NDArray
from PIL import Image
from tritonclient.grpc import InferenceServerClient

from compositor_backend.manifest import Manifest
from tests.support.rendering import psnr_db, render
from tests.support.triton import running_triton
from tests.support.user_folders import MAKERS, UserFolder

pytestmark = pytest.mark.functional

ROOT = Path(__file__).parents[3]
QUALITY = 95
"""Libraries that resize differ by a step here and there; below this, a step may change a whole block by several."""
LEAST_DB = 40.0
ASKED = np.array([1, 2, 5], np.int32)


@dataclass(frozen=True)
class Imported:
    """The folders, by the ids of their avatars, what the commands said, and the repository that they made."""

    folders: dict[str, UserFolder]
    said: dict[str, str]
    avatars: Path


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Imported:
    """One command a folder, two of them at a time."""
    root = tmp_path_factory.mktemp("imported")
    folders = {name: maker(root / name) for name, maker in MAKERS.items()}
    with ThreadPoolExecutor(2) as pool:
        said = pool.map(lambda name: _import(folders[name], name, root / "avatars"), folders)
        return Imported(folders, dict(zip(folders, said, strict=True)), root / "avatars")


def _import(folder: UserFolder, avatar_id: str, avatars: Path) -> str:
    command = [sys.executable, "-m", "export", "import", str(folder.path), "--id", avatar_id]
    command += ["--avatars", str(avatars), "--quality", str(QUALITY), *folder.options]
    # Two run at a time; as many threads of each as there are cores would wait for one another.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def client(imported: Imported) -> Iterator[InferenceServerClient]:
    with (
        running_triton(imported.avatars) as server,
        InferenceServerClient(server.grpc_url) as client,
    ):
        yield client


@pytest.mark.parametrize("avatar_id", MAKERS)
def test_the_command_says_what_it_is_and_how_to_serve_it(imported: Imported, avatar_id: str) -> None:
    said, folder = imported.said[avatar_id], imported.folders[avatar_id]
    assert f"({folder.format})" in said.splitlines()[0]
    assert "6 frames of 320x240 px" in said
    assert f"python -m server --avatars {imported.avatars}" in said.splitlines()[-1]
    assert "frames: 6 of 6" in said


@pytest.mark.parametrize("avatar_id", MAKERS)
def test_served_frames_are_those_of_the_facts(
    client: InferenceServerClient, imported: Imported, avatar_id: str
) -> None:
    folder = imported.folders[avatar_id]
    audio = _random_audio(folder.network.mode.shape)
    served = _ask(client, avatar_id, audio)
    subsampling = Manifest.load(imported.avatars / avatar_id).subsampling
    unet = folder.network
    for number, jpeg, heard in zip(ASKED, served, audio, strict=True):
        frame, box = folder.frames[number], folder.boxes[number]
        expected = render(unet.state_dict(), unet.family.name, unet.mode.name, frame, box, heard)
        found = _decoded(jpeg)
        x1, y1, x2, y2 = box
        face = (slice(y1, y2), slice(x1, x2))
        assert psnr_db(_through_jpeg(expected, subsampling)[face], found[face]) >= LEAST_DB
        # The mouth is another picture than the template's: a frame that was left as it was would be seen.
        assert psnr_db(_through_jpeg(frame, subsampling)[face], found[face]) < LEAST_DB - 10
        _assert_same_beside(_through_jpeg(frame, subsampling), found, box)


def _assert_same_beside(template: NDArray[np.uint8], found: NDArray[np.uint8], box: tuple[int, ...]) -> None:
    """Beside the blocks of 16 px that the box touches, and the pixel by which chroma reaches over, nothing changed."""
    x1, y1, x2, y2 = box
    beside = np.ones(template.shape[:2], bool)
    beside[y1 // 16 * 16 - 1 : -(-y2 // 16) * 16 + 1, x1 // 16 * 16 - 1 : -(-x2 // 16) * 16 + 1] = False
    assert beside.mean() > 0.7
    assert np.array_equal(template[beside], found[beside])


def _random_audio(shape: tuple[int, ...]) -> NDArray[np.float32]:
    return np.random.default_rng(11).uniform(0, 2, (len(ASKED), *shape)).astype(np.float32)


def _through_jpeg(pixels: NDArray[np.uint8], subsampling: str) -> NDArray[np.uint8]:
    """What is left of a picture in a JPEG of the avatar's settings, by Pillow's encoder."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=QUALITY, subsampling=":".join(subsampling))
    return _decoded(file.getvalue())


def _decoded(jpeg: bytes) -> NDArray[np.uint8]:
    return simplejpeg.decode_jpeg(jpeg)


def _ask(client: InferenceServerClient, avatar_id: str, audio: NDArray[np.float32]) -> list[bytes]:
    inputs: list[Any] = [
        grpcclient.InferInput("AVATAR", [1], "BYTES"),
        grpcclient.InferInput("FRAME_INDEX", [len(ASKED)], "INT32"),
        grpcclient.InferInput("AUDIO", list(audio.shape), "FP32"),
    ]
    for tensor, array in zip(inputs, (np.array([avatar_id.encode()], object), ASKED, audio), strict=True):
        tensor.set_data_from_numpy(array)
    outputs = [grpcclient.InferRequestedOutput("JPEG")]
    return list(client.infer("avatar_from_features", inputs, outputs=outputs).as_numpy("JPEG"))
