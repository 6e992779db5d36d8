from __future__ import annotations

import subprocess
import sys
import threading
import weakref

import pytest

from compositor_backend.memory import Rest

PATIENCE_S = 20.0


class Counter:
    """Stands for `give_back`: says how often it was called, and lets a test wait for it."""

    def __init__(self) -> None:
        self.calls = 0
        self._changed = threading.Condition()

    def __call__(self) -> None:
        with self._changed:
            self.calls += 1
            self._changed.notify_all()

    def wait(self, calls: int) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self.calls >= calls, PATIENCE_S)


def test_memory_is_given_back_once_after_each_time_of_work() -> None:
    given = Counter()
    rest = Rest(0.01, given)
    for time in (1, 2, 3):
        rest.worked()
        assert given.wait(time)
    assert given.calls == 3


def test_nothing_is_given_back_before_the_rest_is_over() -> None:
    given = Counter()
    rest = Rest(3600, given)
    for _ in range(1000):
        rest.worked()
    assert given.calls == 0


def test_who_never_works_has_no_thread() -> None:
    before = threading.active_count()
    Rest()
    assert threading.active_count() == before


class Owner:
    """Has memory of its own to give back."""

    def __init__(self) -> None:
        self.given = Counter()
        self.rest = Rest(0.01, self.give_back)

    def give_back(self) -> None:
        self.given()


def test_an_owner_is_called_and_not_kept() -> None:
    owner = Owner()
    owner.rest.worked()
    assert owner.given.wait(1)
    rest, gone = owner.rest, threading.Event()
    weakref.finalize(owner, gone.set)
    del owner
    assert gone.wait(PATIENCE_S)
    rest.worked()
    rest._thread.join(PATIENCE_S)
    assert not rest._thread.is_alive()


HEAP = """
import ctypes, os
from compositor_backend.memory import give_back
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
blocks = [libc.malloc(100_000) for _ in range(600)]
for block in blocks:
    ctypes.memset(block, 1, 100_000)
kept = blocks.pop()  # at the heap's end: what lies before it is not given back by `free`
for block in blocks:
    libc.free(block)
before = resident()
give_back()
print(before - resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_freed_memory_goes_back_to_the_system() -> None:
    done = subprocess.run([sys.executable, "-c", HEAP], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 50e6
