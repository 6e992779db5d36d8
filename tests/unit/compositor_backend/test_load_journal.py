from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from compositor_backend.errors import RefusedNetworkError
from compositor_backend.load_journal import MAX_DEATHS, REFUSE_S, LoadJournal

SHA256 = "ab" * 32
_DIES = """
import os, sys
from pathlib import Path
from compositor_backend.load_journal import LoadJournal
with LoadJournal(Path(sys.argv[1])).opening(sys.argv[2]):
    os.abort()
"""


def die_opening(folder: Path, sha256: str = SHA256) -> None:
    """A process that opens the graph and does not survive it."""
    result = subprocess.run(
        [sys.executable, "-c", _DIES, str(folder), sha256], check=False, stderr=subprocess.PIPE
    )
    assert result.returncode < 0, result.stderr


def open_once(journal: LoadJournal, sha256: str = SHA256) -> bool:
    with journal.opening(sha256):
        return True


def test_an_opening_leaves_nothing_behind(tmp_path: Path) -> None:
    journal = LoadJournal(tmp_path)
    assert open_once(journal)
    assert list(tmp_path.iterdir()) == []


def test_an_error_in_the_opening_is_no_death(tmp_path: Path) -> None:
    journal = LoadJournal(tmp_path)
    for _ in range(MAX_DEATHS + 1):
        with pytest.raises(ValueError, match="broken"), journal.opening(SHA256):
            raise ValueError("broken")


def test_a_graph_that_ends_processes_is_refused_alone_and_for_a_while(tmp_path: Path) -> None:
    for _ in range(MAX_DEATHS):
        die_opening(tmp_path)
    with pytest.raises(RefusedNetworkError, match="refused"):
        open_once(LoadJournal(tmp_path))
    assert open_once(LoadJournal(tmp_path), "cd" * 32)
    died_s = (tmp_path / SHA256).stat().st_mtime
    later = LoadJournal(tmp_path, clock=lambda: died_s + REFUSE_S + 1)
    assert open_once(later)
    assert open_once(LoadJournal(tmp_path))


def test_one_death_may_have_had_another_reason(tmp_path: Path) -> None:
    for _ in range(MAX_DEATHS - 1):
        die_opening(tmp_path)
    assert open_once(LoadJournal(tmp_path))
    die_opening(tmp_path)  # counted anew
    assert open_once(LoadJournal(tmp_path))


def test_after_the_while_it_is_counted_anew(tmp_path: Path) -> None:
    for _ in range(MAX_DEATHS):
        die_opening(tmp_path)
    died_s = (tmp_path / SHA256).stat().st_mtime
    with LoadJournal(tmp_path, clock=lambda: died_s + REFUSE_S + 1).opening(SHA256):
        assert (tmp_path / SHA256).stat().st_size == 1


def test_two_instances_may_open_a_graph_at_the_same_time(tmp_path: Path) -> None:
    with LoadJournal(tmp_path).opening(SHA256):
        for _ in range(MAX_DEATHS + 1):
            assert open_once(LoadJournal(tmp_path))
        assert (tmp_path / SHA256).exists()
    assert list(tmp_path.iterdir()) == []
