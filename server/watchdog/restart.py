"""Starting a Triton again, and how long to wait if that does not help."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from server.errors import ServerError

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
"""Between starts that fail, or that do not hold for long."""
HOLDS_S = 15.0


class Restartable(Protocol):
    """A `server.launcher.TritonServer`, as far as this is concerned."""

    def restart(self, cancelled: threading.Event, on_wait: Callable[[], None]) -> None:
        """Start it again, calling `on_wait` meanwhile; `ServerError` or `OSError` if it does not come up."""


class Restarts:
    """Starts a Triton again: at once, but later and later if it breaks soon after."""

    def __init__(
        self,
        server: Restartable,
        *,
        clock: Callable[[], float],
        on_wait: Callable[[], None],
        report: Callable[[str], None],
    ) -> None:
        """`on_wait` is called meanwhile; `report` is told why a start fails."""
        self._server = server
        self._clock = clock
        self._on_wait = on_wait
        self._report = report
        self._started_s = clock()
        self._starts = 0
        """How many in a row have failed, or have not held."""

    def restart(self, stop: threading.Event) -> bool:
        """Return True when Triton serves again, False if `stop` is set before that."""
        if self._clock() - self._started_s >= HOLDS_S:
            self._starts = 0
        while not stop.wait(self._pause_s()):
            self._starts += 1
            self._on_wait()
            try:
                self._server.restart(stop, self._on_wait)
            # `OSError`: there is no memory, file or process to be had just now.
            except (ServerError, OSError) as error:
                self._report(str(error))
                continue
            self._started_s = self._clock()
            return True
        return False

    def _pause_s(self) -> float:
        return min(FIRST_PAUSE_S * 2.0 ** (self._starts - 1), LONGEST_PAUSE_S) if self._starts else 0.0
