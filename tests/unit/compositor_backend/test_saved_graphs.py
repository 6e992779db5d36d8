from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from compositor_backend.saved_graphs import SavedGraphs

ONE, TWO = "ab" * 32, "cd" * 32


def write(data: bytes) -> Callable[[Path], None]:
    def to(path: Path) -> None:
        path.write_bytes(data)

    return to


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_what_was_saved_is_found(tmp_path: Path) -> None:
    saved = SavedGraphs(tmp_path, "1.32 CPU", 1000)
    assert saved.find(ONE) is None
    saved.save(ONE, write(b"graph"))
    assert saved.find(ONE) == b"graph"
    assert saved.find(TWO) is None


def test_another_runtime_has_its_own(tmp_path: Path) -> None:
    SavedGraphs(tmp_path, "1.32 CPU", 1000).save(ONE, write(b"graph"))
    assert SavedGraphs(tmp_path, "1.33 CPU", 1000).find(ONE) is None


@pytest.mark.parametrize("damage", [b"", b"grapH", b"graph and more"])
def test_a_damaged_one_counts_as_absent_and_is_replaced(tmp_path: Path, damage: bytes) -> None:
    saved = SavedGraphs(tmp_path, "1.32 CPU", 1000)
    saved.save(ONE, write(b"graph"))
    (path,) = files(tmp_path)
    path.write_bytes(damage)
    assert saved.find(ONE) is None
    saved.save(ONE, write(b"graph"))
    assert saved.find(ONE) == b"graph"


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        path.write_bytes(b"gra")
        raise OSError("disk full")

    saved = SavedGraphs(tmp_path, "1.32 CPU", 1000)
    with pytest.raises(OSError, match="disk full"):
        saved.save(ONE, fail)
    assert files(tmp_path) == []


def test_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    saved = SavedGraphs(tmp_path, "1.32 CPU", 250)
    keys = ["aa" * 32, "bb" * 32, "cc" * 32]
    for number, key in enumerate(keys[:2]):
        saved.save(key, write(bytes(100)))
        for path in files(tmp_path):
            if path.parent.name == key:
                os.utime(path, (number, number))
    assert saved.find(keys[0]) is not None  # used now: later than the second
    saved.save(keys[2], write(bytes(100)))
    assert [saved.find(key) is not None for key in keys] == [True, False, True]


def test_one_that_is_larger_than_the_limit_is_kept_alone(tmp_path: Path) -> None:
    saved = SavedGraphs(tmp_path, "1.32 CPU", 10)
    saved.save(ONE, write(bytes(5)))
    saved.save(TWO, write(bytes(100)))
    assert saved.find(ONE) is None
    assert saved.find(TWO) is not None


def test_what_others_are_writing_is_left_alone(tmp_path: Path) -> None:
    saved = SavedGraphs(tmp_path, "1.32 CPU", 10)
    saved.save(ONE, write(bytes(5)))
    draft = files(tmp_path)[0].parent.parent / ".saving-x" / "graph.onnx"
    draft.parent.mkdir()
    draft.write_bytes(bytes(100))
    (tmp_path / "graphs" / "README").write_text("not a folder")
    saved.save(TWO, write(bytes(100)))
    assert draft.stat().st_size == 100
    assert saved.find(TWO) is not None


def test_all_are_looked_at_now_and_then_only(tmp_path: Path) -> None:
    """Another process fills the folder: the limit is kept to within the part of it after which one looks again."""
    saved, other = (SavedGraphs(tmp_path, "1.32 CPU", 64_000) for _ in range(2))
    for number in range(200):
        for cache in (saved, other):
            cache.save(f"{number:032x}{id(cache):032x}", write(bytes(400)))
        assert sum(path.stat().st_size for path in files(tmp_path)) <= 64_000 + 2 * 1_000
