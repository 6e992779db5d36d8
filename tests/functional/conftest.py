from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.leftovers import Leftovers


@pytest.fixture
def leftovers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Leftovers]:
    """What the servers started in a test leave behind; their temporary files are in a folder of the test's own."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    yield Leftovers(folder)
    monkeypatch.setattr("tempfile.tempdir", None)
