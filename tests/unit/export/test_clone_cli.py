from __future__ import annotations

from pathlib import Path

import pytest

from export.avatar import build_avatar
from export.check import check_avatars
from export.cli import main
from export.frames import open_frames
from tests.support.avatar_sources import BOXES, Sources


@pytest.fixture
def avatars(tmp_path: Path) -> Path:
    sources = Sources.write(tmp_path / "sources")
    build_avatar(sources.settings(), open_frames(sources.frames), BOXES)
    return sources.avatars


def cloned(avatars: Path) -> list[str]:
    return sorted(path.name for path in avatars.glob("*-*") if path.name[0] != ".")


def is_recoloured(folder: Path) -> bool:
    return folder.name.encode() in (folder / "jpeg_header.npy").read_bytes()


def test_clones_are_made_and_numbered(avatars: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["clone", "--from", "ann", "--count", "2", "--avatars", str(avatars)]) == 0
    out = capsys.readouterr().out
    assert "2/2" in out
    assert "2 of ann are ready: ann-00001 to ann-00002" in out
    assert f"python -m server --avatars {avatars}" in out
    more = ["--prefix", "cast", "--first", "7", "--recolour"]
    assert main(["clone", "--from", "ann", "--count", "1", "--avatars", str(avatars), *more]) == 0
    assert cloned(avatars) == ["ann-00001", "ann-00002", "cast-00007"]
    assert [is_recoloured(avatars / name) for name in cloned(avatars)] == [False, False, True]
    assert all(finding.good for finding in check_avatars(avatars))


def test_the_folder_is_avatars_by_default(avatars: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert avatars.name == "avatars"
    monkeypatch.chdir(avatars.parent)
    assert main(["clone", "--from", "ann", "--count", "1"]) == 0
    assert cloned(avatars) == ["ann-00001"]


def test_what_is_wrong_is_one_sentence(avatars: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["clone", "--from", "ann", "--count", "2", "--avatars", str(avatars)]
    assert main(call) == 0
    capsys.readouterr()
    assert main(call) == 1
    assert capsys.readouterr().err.startswith(f"error: {avatars}/ann-00001 is there already")
    assert main([*call, "--prefix", "Ann"]) == 1
    assert "is not an avatar id" in capsys.readouterr().err
    assert cloned(avatars) == ["ann-00001", "ann-00002"]


@pytest.mark.parametrize("missing", ["--from", "--count"])
def test_a_call_that_lacks_something_is_exit_code_2(avatars: Path, missing: str) -> None:
    call = ["clone", "--from", "ann", "--count", "2"]
    at = call.index(missing)
    with pytest.raises(SystemExit) as caught:
        main(call[:at] + call[at + 2 :])
    assert caught.value.code == 2
