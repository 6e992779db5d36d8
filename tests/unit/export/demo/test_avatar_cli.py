from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from export.cli import main
from export.demo import presenter
from export.demo.contact_sheet import COLUMNS, ROWS


@pytest.mark.parametrize(("built", "state"), [(True, "is ready"), (False, "is up to date")])
def test_demo_avatar_says_whether_it_was_built(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], built: bool, state: str
) -> None:
    calls: list[tuple[Any, ...]] = []

    def build(avatars: Path, replace: bool, progress: Any) -> bool:
        calls.append((avatars, replace))
        progress("frames", 3, 9)
        return built

    monkeypatch.setattr("export.demo.avatar.build_demo_avatar", build)
    assert main(["demo-avatar", "--avatars", "some/avatars", "--replace"]) == 0
    out = capsys.readouterr().out
    assert f"some/avatars/demo {state}" in out
    assert "3/9" in out
    assert calls == [(Path("some/avatars"), True)]


def test_contact_sheet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = presenter.render_frame(0)
    (tmp_path / "frames").mkdir()
    for number in range(COLUMNS * ROWS):
        Image.fromarray(frame).save(tmp_path / "frames" / f"{number:06d}.jpg")
    soundfile.write(tmp_path / "speech.flac", np.zeros(16_000), 16_000)
    call = ["contact-sheet", "--frames", str(tmp_path / "frames"), "--audio", str(tmp_path / "speech.flac")]
    assert main([*call, "--out", str(tmp_path / "sheet.png")]) == 0
    with Image.open(tmp_path / "sheet.png") as picture:
        size = f"{picture.width}x{picture.height} px"
    assert capsys.readouterr().out == f"{tmp_path}/sheet.png: {size}\n"


def test_contact_sheet_without_frames(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["contact-sheet", "--frames", str(tmp_path), "--audio", "a.wav", "--out", "o.png"]
    assert main(call) == 1
    assert "holds no pictures" in capsys.readouterr().err
