from __future__ import annotations

import mmap
import os
from pathlib import Path

import numpy as np
import pytest

from perf.page_cache import drop, resident_share


def written(path: Path, pages: int) -> Path:
    with path.open("wb") as file:
        file.write(b"\1" * (pages * mmap.PAGESIZE - 10))
        file.flush()
        os.fsync(file.fileno())
    return path


def test_a_file_just_written_is_in_memory_and_leaves_it(tmp_path: Path) -> None:
    files = [written(tmp_path / "a", 300), written(tmp_path / "b", 100)]
    assert resident_share(files) == 1
    drop(files)
    if resident_share(files) == 1:
        pytest.skip("this file system keeps its pages")
    assert resident_share(files) == 0
    assert files[1].read_bytes() == b"\1" * (100 * mmap.PAGESIZE - 10)
    # Both were measured, and the larger counts for more.
    assert resident_share(files) == pytest.approx(1 / 4)


def test_mapped_pages_stay(tmp_path: Path) -> None:
    path = written(tmp_path / "a", 20)
    mapped = np.memmap(path, np.uint8, "r")
    assert mapped.sum() == mapped.size
    drop([path])
    assert resident_share([path]) == 1


def test_an_empty_file_has_no_pages(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert resident_share([tmp_path / "empty"]) == 0
