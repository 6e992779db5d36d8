from __future__ import annotations

from pathlib import Path

import pytest

from export.bounded import read_text
from export.errors import ExportError


def test_text_is_read_up_to_the_limit_and_not_beyond(tmp_path: Path) -> None:
    path = tmp_path / "boxes.json"
    path.write_text("äöü")
    assert read_text(path, 6) == "äöü"
    with pytest.raises(ExportError, match=r"boxes\.json is longer than 5 bytes"):
        read_text(path, 5)


def test_what_never_ends_is_not_waited_for() -> None:
    with pytest.raises(ExportError, match="/dev/zero is longer than 1000 bytes"):
        read_text(Path("/dev/zero"), 1000)


def test_what_is_no_text_of_that_encoding_is_left_to_the_caller(tmp_path: Path) -> None:
    (tmp_path / "0.lms").write_bytes("1 ²".encode())
    with pytest.raises(UnicodeDecodeError):
        read_text(tmp_path / "0.lms", 100, "ascii")
    with pytest.raises(FileNotFoundError):
        read_text(tmp_path / "1.lms", 100)
