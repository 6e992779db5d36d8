"""Remembers graphs that end the process which opens them, so that a server which comes back does not open them again.

A crash inside onnxruntime cannot be caught, and a hang can only be ended with the process. So a file is written before
a graph is opened, and locked as long as that takes, its first run included: an unlocked file that is still there tells
of a process that did not survive. A process may end for another reason just then, so a graph is tried twice before it
is refused for a while.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from compositor_backend.errors import RefusedNetworkError

MAX_DEATHS = 2
REFUSE_S = 300.0


class LoadJournal:
    """The journal in `folder`, which the processes of a server share; `clock` tells seconds since the epoch.

    A graph's file holds a byte for each opening that has not come to an end.
    """

    def __init__(
        self, folder: Path, refuse_s: float = REFUSE_S, clock: Callable[[], float] = time.time
    ) -> None:
        self._folder = folder
        self._refuse_s = refuse_s
        self._clock = clock

    @contextmanager
    def opening(self, sha256: str) -> Iterator[None]:
        """Around opening the graph of that SHA-256 (hex), and its first run.

        `RefusedNetworkError` if that has ended `MAX_DEATHS` processes, the last one less than `refuse_s` seconds ago.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / sha256
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if not _lock(descriptor):
                # Another instance is opening it at this moment, and writes down what becomes of that.
                yield
                return
            os.pwrite(descriptor, b"\n" * (self._deaths(descriptor, sha256) + 1), 0)
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
        finally:
            os.close(descriptor)

    def _deaths(self, descriptor: int, sha256: str) -> int:
        """Processes that opening it has ended; none if the last one is long ago."""
        status = os.fstat(descriptor)
        wait_s = status.st_mtime + self._refuse_s - self._clock()
        if status.st_size < MAX_DEATHS:
            return status.st_size
        if wait_s > 0:
            raise RefusedNetworkError(
                f"the network {sha256[:16]} is refused for {wait_s:.0f} s more: opening it has ended "
                f"{status.st_size} processes"
            )
        os.ftruncate(descriptor, 0)
        return 0


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
