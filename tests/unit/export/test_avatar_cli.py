from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from compositor_backend.manifest import Manifest
from export.avatar_cli import stretched_note
from export.cli import main
from tests.support.avatar_sources import BOXES, Sources

ROOT = Path(__file__).parents[3]


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    return Sources.write(tmp_path / "sources")


def arguments(sources: Sources, *more: str) -> list[str]:
    return [
        *("avatar", "--id", "ann", "--frames", str(sources.frames), "--boxes", str(sources.boxes)),
        *("--onnx", str(sources.network), "--encoder", str(sources.encoder)),
        *("--avatars", str(sources.avatars), *more),
    ]


def test_import_and_check(sources: Sources, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(sources, "--quality", "60", "--blend", "feather")) == 0
    out = capsys.readouterr().out
    assert "4/4" in out
    assert f"{sources.avatars}/ann is ready" in out
    assert f"python -m server --avatars {sources.avatars}" in out
    manifest = Manifest.load(sources.avatars / "ann")
    assert (manifest.quality, manifest.blend) == (60, "feather")
    assert main(["check", str(sources.avatars)]) == 0
    table = capsys.readouterr().out
    for word in ("ann", "pack", "test frame", "network", "audio encoder", "files", "key and checksum"):
        assert word in table


@pytest.mark.parametrize(
    ("family", "boxes", "said"),
    [
        ("328", [(0, 0, 40, 40), (0, 0, 40, 42)], ""),
        ("328", [(0, 0, 40, 40), (0, 0, 40, 50)], "1 of 2 face boxes are not square, by up to 25%"),
        ("wav2lip-96", [(0, 0, 40, 50)], ""),
    ],
)
def test_boxes_that_a_network_sees_stretched_are_spoken_of(
    family: str, boxes: list[tuple[int, int, int, int]], said: str
) -> None:
    note = stretched_note(family, boxes)
    assert note.startswith(said)
    assert bool(note) == bool(said)


def test_a_broken_avatar_is_exit_code_1(sources: Sources, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(sources)) == 0
    (sources.avatars / "ann" / "network.onnx").unlink()
    capsys.readouterr()
    assert main(["check", str(sources.avatars / "ann")]) == 1
    table = "".join(c for c in capsys.readouterr().out if c not in "│ \n")
    assert "network.onnxisnotthere" in table


def test_what_is_wrong_with_an_import_is_one_sentence(
    sources: Sources, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(sources)) == 0
    capsys.readouterr()
    assert main(arguments(sources)) == 1
    expected = f"error: {sources.avatars}/ann is there already; say --replace to build it anew\n"
    assert capsys.readouterr().err == expected
    assert main(arguments(sources, "--replace")) == 0


def test_check_of_a_folder_without_avatars(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(tmp_path)]) == 1
    assert "is no avatar's folder and holds none" in capsys.readouterr().err


def test_check_where_one_stands(
    sources: Sources, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(sources)) == 0
    monkeypatch.chdir(sources.avatars / "ann")
    assert main(["check", "."]) == 0, capsys.readouterr()


@pytest.mark.parametrize(
    "missing", ["--id", "--frames", "--boxes", "--onnx", "--avatars"], ids=lambda name: name[2:]
)
def test_a_call_that_lacks_something_is_exit_code_2(sources: Sources, missing: str) -> None:
    call = arguments(sources)
    at = call.index(missing)
    with pytest.raises(SystemExit) as caught:
        main(call[:at] + call[at + 2 :])
    assert caught.value.code == 2


def test_a_checkpoint_and_a_graph_exclude_each_other(sources: Sources) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments(sources, "--checkpoint", "u.pth"))
    assert caught.value.code == 2


def test_a_change_of_frame_rate_is_said(sources: Sources, capsys: pytest.CaptureFixture[str]) -> None:
    video = sources.frames.with_name("body.mp4")
    with av.open(str(video), "w") as container:
        stream = container.add_stream("mpeg4", rate=50)
        stream.width, stream.height = 120, 90
        for level in range(8):
            pixels = np.full((90, 120, 3), 20 * level, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
        container.mux(stream.encode())
    sources.boxes.write_text(json.dumps(BOXES * 2))
    call = arguments(sources)
    call[call.index("--frames") + 1] = str(video)
    assert main(call) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "body.mp4 has 50.00 frames a second" in out
    assert "4 at 25 a second" in out
    assert Manifest.load(sources.avatars / "ann").frames == 4


def test_graphs_are_imported_and_checked_without_torch(sources: Sources) -> None:
    code = (
        "import sys; sys.modules['torch'] = None; from export.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    for call in (arguments(sources), ["check", str(sources.avatars)]):
        run = subprocess.run(
            [sys.executable, "-c", code, *call],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert run.returncode == 0, run.stderr
