"""Keeps glibc from handing large blocks back to the system whenever they are freed.

glibc maps every block above a few MB anew and unmaps it when it is freed, and the kernel clears each page when it is
first touched. For messages of 61 MB that costs more than all the rest; runtimes that keep their heap, such as Go's,
do not have it. On other C libraries nothing here has an effect.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

# From malloc.h: parameters, and what glibc starts with.
_MMAP_MAX, _TRIM_THRESHOLD, _TOP_PAD = -4, -1, -2
_USUAL = {_MMAP_MAX: 65_536, _TRIM_THRESHOLD: 128 << 10, _TOP_PAD: 128 << 10}
_KEEPING = {_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 16 << 20}
_ENVIRONMENT = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
    "MALLOC_TOP_PAD_": str(16 << 20),
    # What one thread freed another one uses again.
    "MALLOC_ARENA_MAX": "1",
}


@contextmanager
def keeping_freed_memory() -> Iterator[None]:
    """Within, this process uses freed memory again."""
    _tell_allocator(_KEEPING)
    try:
        yield
    finally:
        _tell_allocator(_USUAL)


@contextmanager
def children_keep_freed_memory() -> Iterator[None]:
    """Processes started within use freed memory again, as long as they live."""
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    os.environ.update(_ENVIRONMENT)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _tell_allocator(values: Mapping[int, int]) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in values.items():
            mallopt(ctypes.c_int(parameter), ctypes.c_int(value))
