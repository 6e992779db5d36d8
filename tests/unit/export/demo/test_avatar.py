from __future__ import annotations

import multiprocessing
import os
import select
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from compositor_backend.manifest import Manifest
from compositor_backend.pack import AvatarPack
from export.check import check_avatars
from export.demo import presenter
from export.demo.avatar import ENCODER_FILE, UNET_FILE, PresenterFrames, build_demo_avatar
from export.errors import ExportError
from tests.support.avatar_sources import encoder_graph, network_graph

ROOT = Path(__file__).parents[4]
FRAMES = PresenterFrames(count=3, workers=1)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Small networks in the place of the trained ones."""
    folder = tmp_path / "weights"
    folder.mkdir()
    onnx.save(network_graph(), str(folder / UNET_FILE))
    onnx.save(encoder_graph(), str(folder / ENCODER_FILE))
    return folder


def build(avatars: Path, weights: Path, replace: bool = False) -> bool:
    return build_demo_avatar(avatars, replace, weights=weights, frames=FRAMES)


def shown(avatars: Path) -> set[str]:
    return {path.name for path in avatars.iterdir() if path.name[0] != "."}


def test_the_demo_is_whole_and_shows_the_presenter(tmp_path: Path, weights: Path) -> None:
    assert build(tmp_path / "avatars", weights)
    assert shown(tmp_path / "avatars") == {"demo"}
    assert [finding for finding in check_avatars(tmp_path / "avatars") if not finding.good] == []
    with AvatarPack(tmp_path / "avatars" / "demo") as pack:
        manifest = pack.manifest
        assert (manifest.width, manifest.height, manifest.frames) == (1280, 720, 3)
        assert set(manifest.graphs) == {"network", "encoder"}
        for number in range(3):
            assert tuple(pack.rects[number]) == presenter.face_box(number)
            region = pack.regions[number]
            drawn = presenter.render_frame(number)[region.y1 : region.y2, region.x1 : region.x2]
            assert np.array_equal(pack.region_pixels(number), drawn)


def test_frames_drawn_by_several_processes_are_the_same_in_the_same_order() -> None:
    frames = list(PresenterFrames(count=7, workers=2))
    assert len(frames) == 7
    for number, frame in enumerate(frames):
        assert np.array_equal(frame, presenter.render_frame(number)), number


def test_processes_end_when_nobody_wants_more_frames() -> None:
    frames = iter(PresenterFrames(workers=2))
    next(frames)
    assert multiprocessing.active_children()
    frames.close()  # type: ignore[attr-defined]
    assert multiprocessing.active_children() == []


def test_processes_end_with_a_parent_that_is_killed() -> None:
    code = (
        "import multiprocessing, sys\n"
        "from export.demo.avatar import PresenterFrames\n"
        "frames = iter(PresenterFrames(workers=2))\n"
        "next(frames)\n"
        "print(*(child.pid for child in multiprocessing.active_children()), flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        ends = [os.pidfd_open(int(pid)) for pid in process.stdout.readline().split()]
        assert ends
        process.kill()
    for end in ends:
        poll = select.poll()  # unlike select(), for descriptors of any number
        poll.register(end, select.POLLIN)
        assert poll.poll(60_000), "a worker outlives its parent"
        os.close(end)


def test_an_avatar_that_is_up_to_date_is_left_alone(tmp_path: Path, weights: Path) -> None:
    avatars = tmp_path / "avatars"
    assert build(avatars, weights)
    manifest = avatars / "demo" / "avatar.json"
    before = manifest.stat()
    assert not build(avatars, weights)
    assert manifest.stat() == before
    assert build(avatars, weights, replace=True)
    assert manifest.stat().st_ino != before.st_ino


def test_new_weights_make_a_new_avatar_and_encoder(tmp_path: Path, weights: Path) -> None:
    avatars = tmp_path / "avatars"
    build(avatars, weights)
    onnx.save(network_graph(key=77), str(weights / UNET_FILE))
    assert build(avatars, weights)
    assert Manifest.load(avatars / "demo").network_key == 77
    onnx.save(encoder_graph(2.0), str(weights / ENCODER_FILE))
    assert build(avatars, weights)
    encoder = avatars / "demo" / "encoder.onnx"
    assert encoder.read_bytes() == (weights / ENCODER_FILE).read_bytes()
    assert not build(avatars, weights)


@pytest.mark.parametrize("lost", ["faces.npy", "stamp.txt", "avatar.json", "network.onnx", "encoder.onnx"])
def test_a_damaged_avatar_is_built_again(tmp_path: Path, weights: Path, lost: str) -> None:
    avatars = tmp_path / "avatars"
    build(avatars, weights)
    (avatars / "demo" / lost).unlink()
    assert build(avatars, weights)
    assert (avatars / "demo" / lost).is_file()
    assert [finding for finding in check_avatars(avatars) if not finding.good] == []


def test_missing_weights_are_named(tmp_path: Path, weights: Path) -> None:
    (weights / UNET_FILE).unlink()
    with pytest.raises(ExportError, match=r"unet\.onnx is not there; `python -m export demo-train`"):
        build(tmp_path / "avatars", weights)
    assert not (tmp_path / "avatars").exists()
