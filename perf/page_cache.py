"""Which of a file's pages are in memory, and how they are put out of it."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]


def drop(files: Iterable[Path]) -> None:
    """Ask the system to put the files' pages out of memory; it keeps those that are mapped or not yet written."""
    for path in files:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def resident_share(files: Iterable[Path]) -> float:
    """The share of the files' pages that is in memory, 0 to 1."""
    found = [_residency(path) for path in files]
    return sum(resident for resident, _ in found) / max(1, sum(pages for _, pages in found))


def _residency(path: Path) -> tuple[int, int]:
    """Pages of the file in memory, and all of them, by mincore(2); to look at a mapping reads nothing in."""
    size = path.stat().st_size
    if size == 0:
        return 0, 0
    pages = np.zeros(-(-size // mmap.PAGESIZE), np.uint8)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapping:
        # A view, so that the address can be had of a mapping that is not to be written to.
        view = np.frombuffer(mapping, np.uint8)
        failed = _libc.mincore(view.ctypes.data, size, pages.ctypes.data)
        del view
    if failed:
        raise OSError(ctypes.get_errno(), "mincore", str(path))
    return int((pages & 1).sum()), len(pages)
