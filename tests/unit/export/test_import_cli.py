"""The command `import`, as a person calls it."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from compositor_backend.manifest import Manifest
from export.cli import main
from tests.support.user_folders import FRAMES, UserFolder, go_v1, synctalk

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> UserFolder:
    return go_v1(tmp_path_factory.mktemp("import") / "ann")


def arguments(folder: UserFolder, avatars: Path, *more: str) -> list[str]:
    return ["import", str(folder.path), "--id", "ann", "--avatars", str(avatars), *more]


def test_import_and_check(folder: UserFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    avatars = tmp_path / "avatars"
    assert main(arguments(folder, avatars, "--quality", "60", "--blend", "feather")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{folder.path} is a model folder of the Go servers, version 1 (go-v1)")
    assert {line.split(":")[0].strip() for line in lines[1:-3]} == {"found", "assumed", "note"}
    assert lines[-3:-1] == ["network: 1 of 1", f"frames: {FRAMES} of {FRAMES}"]
    ready = f"{avatars}/ann is ready: python -m server --avatars {avatars}"
    assert lines[-1] == ready
    manifest = Manifest.load(avatars / "ann")
    assert (manifest.quality, manifest.blend, manifest.frames) == (60, "feather", FRAMES)
    assert main(["check", str(avatars)]) == 0


def test_a_dry_run_says_the_same_and_writes_nothing(
    folder: UserFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(folder, tmp_path / "avatars", "--dry-run")) == 0
    out = capsys.readouterr().out
    assert "6 frames of 320x240 px" in out
    assert out.splitlines()[-1] == "nothing was built, as --dry-run says"
    assert list(tmp_path.iterdir()) == []


def test_an_avatar_that_is_there_stays_unless_it_is_replaced(
    folder: UserFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    avatars = tmp_path / "avatars"
    assert main(arguments(folder, avatars)) == 0
    assert main(arguments(folder, avatars, "--quality", "40")) == 1
    assert "ann is there already; say --replace" in capsys.readouterr().err
    assert Manifest.load(avatars / "ann").quality == 75
    assert main(arguments(folder, avatars, "--quality", "40", "--replace")) == 0
    assert Manifest.load(avatars / "ann").quality == 40


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--id", "../ann"), "is not an avatar id"),
        (("--format", "movie"), "'movie' is no format; synctalk-2d, ultralight, go-v1, go-v2"),
        (("--format", "go-v2"), "is none of what can be imported"),
        (("--quality", "0"), "JPEG quality: expected 1 to 100, got 0"),
        (("--checkpoint", "gone.onnx"), "gone.onnx is not there"),
        (("--audio", "hubert"), "fits the audio mode ave; --audio hubert was said"),
    ],
)
def test_what_is_wrong_is_one_sentence_and_writes_nothing(
    folder: UserFolder,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: tuple[str, ...],
    message: str,
) -> None:
    assert main(arguments(folder, tmp_path / "avatars", *more)) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_frame_that_fails_late_leaves_nothing(folder: UserFolder, tmp_path: Path) -> None:
    copy = shutil.copytree(folder.path, tmp_path / "copy")
    path = copy / "frames" / "frame_0005.png"
    path.write_bytes(path.read_bytes()[:-9000])
    avatars = tmp_path / "avatars"
    assert main(["import", str(copy), "--id", "ann", "--avatars", str(avatars)]) == 1
    assert [path.name for path in avatars.iterdir()] == [".import.lock"]


def test_graphs_are_imported_without_torch(folder: UserFolder, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None; from export.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, *arguments(folder, tmp_path / "avatars")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


# --- what cannot be known ---
@pytest.fixture(scope="module")
def untold(tmp_path_factory: pytest.TempPathFactory) -> UserFolder:
    """A data set whose audio features nothing tells."""
    made = synctalk(tmp_path_factory.mktemp("untold") / "bob")
    (made.path / "aud_ave.npy").unlink()
    return made


def test_without_a_terminal_the_option_is_named(
    untold: UserFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(untold, tmp_path / "avatars", "--dry-run")) == 1
    assert capsys.readouterr().err.endswith("say --audio ave or --audio hubert\n")
    assert main(arguments(untold, tmp_path / "avatars", "--dry-run", "--audio", "hubert")) == 0


def test_on_a_terminal_it_is_asked_for(untold: UserFolder, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "export", *arguments(untold, tmp_path / "avatars", "--dry-run")]
    environment = {**os.environ, "TERM": "dumb", "COLUMNS": "400"}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        said = _until(ours, "audio [ave/hubert]")
        assert "fit the audio modes ave and hubert alike" in said
        os.write(ours, b"hubert\n")
        rest = _until(ours, "as --dry-run says")
        assert "the avatar takes ready hubert features" in rest
    os.close(ours)
    assert process.returncode == 0
    assert list(tmp_path.iterdir()) == []


def _until(terminal: int, text: str) -> str:
    """What a terminal shows up to `text`."""
    shown = ""
    while text not in shown:
        try:
            shown += os.read(terminal, 4096).decode()
        except OSError:  # nobody writes there any more
            raise AssertionError(f"{text!r} was not shown, but {json.dumps(shown)}") from None
    return shown
