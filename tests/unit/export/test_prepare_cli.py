from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from compositor_backend.manifest import Manifest
from compositor_backend.pack import AvatarPack
from export.cli import main
from export.frames import Pixels
from tests.support.avatar_sources import encoder_graph
from tests.support.networks import random_unet, random_wav2lip, save
from tests.support.videos import face_frame, no_face, two_faces, write_video

NARROW = (4, 4, 8, 8, 16)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_video(tmp_path / "some body.mp4", [face_frame()] * 6)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return save(random_unet("328", "ave", NARROW).state_dict(), tmp_path / "u.pth")


def call(video: Path, *more: str) -> list[str]:
    places = ("--out", str(video.with_name("out")), "--avatars", str(video.with_name("avatars")))
    return ["prepare", str(video), "--id", "ann", *places, *more]


def words(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.split())


def test_with_networks_the_avatar_is_built(
    video: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = video.with_name("e.onnx")
    onnx.save(encoder_graph(), str(encoder))
    networks = ("--checkpoint", str(checkpoint), "--encoder", str(encoder))
    assert main(call(video, *networks)) == 0
    out = words(capsys)
    assert "6 faces in" in out
    assert f"python -m server --avatars {video.with_name('avatars')}" in out
    folder = video.with_name("avatars") / "ann"
    boxes = json.loads((video.with_name("out") / "ann" / "crop_rects.json").read_text())
    with AvatarPack(folder) as pack:
        assert pack.rects.tolist() == boxes
    assert main(["check", str(folder)]) == 0
    assert Manifest.load(folder).audio_mode == "ave"


def test_without_a_network_the_user_can_go_on_from_what_is_printed(
    video: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(call(video)) == 0
    command = words(capsys).split("then: ")[1].replace("--checkpoint P", f"--checkpoint {checkpoint}")
    assert not video.with_name("avatars").exists()
    assert main([*shlex.split(command)[3:], "--audio", "ave"]) == 0
    assert main(["check", str(video.with_name("avatars"))]) == 0


def test_boxes_are_those_of_the_networks_family(video: Path) -> None:
    network = save(random_wav2lip().state_dict(), video.with_name("w.pth"))
    assert main(call(video, "--checkpoint", str(network), "--family", "wav2lip-96")) == 0
    x1, y1, x2, y2 = json.loads((video.with_name("out") / "ann" / "crop_rects.json").read_text())[0]
    assert y2 - y1 > 1.2 * (x2 - x1), "the whole face is higher than wide"
    assert main(["check", str(video.with_name("avatars") / "ann")]) == 0


@pytest.mark.parametrize(
    ("frame", "message"),
    [(no_face, "frame 0: no face was found"), (two_faces, "frame 0: 2 faces were found; one is wanted")],
)
def test_a_video_without_one_face_leaves_nothing(
    tmp_path: Path,
    checkpoint: Path,
    frame: Callable[[], Pixels],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    video = write_video(tmp_path / "v.mp4", [frame()] * 3)
    assert main(call(video, "--checkpoint", str(checkpoint), "--audio", "ave")) == 1
    assert capsys.readouterr().err == f"error: {message}\n"
    assert {path.name for path in tmp_path.iterdir()} == {"v.mp4", "u.pth"}


def test_what_cannot_become_an_avatar_is_refused_before_faces_are_sought(
    video: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(call(video, "--checkpoint", str(checkpoint))) == 1
    captured = capsys.readouterr()
    assert "does not tell its audio mode: say whether it is ave or hubert" in captured.err
    assert "faces" not in captured.out
    for option in ("--encoder",):
        assert main(call(video, option, "e")) == 1
        assert f"{option} was said without a network" in capsys.readouterr().err
    (video.with_name("avatars") / "ann").mkdir(parents=True)
    assert main(call(video, "--checkpoint", str(checkpoint), "--audio", "ave")) == 1
    assert "ann is there already; say --replace" in capsys.readouterr().err


def test_a_second_run_wants_replace(video: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(call(video)) == 0
    assert main(call(video)) == 1
    assert "is there already; say --replace to prepare it anew" in capsys.readouterr().err
    assert main(call(video, "--replace")) == 0
