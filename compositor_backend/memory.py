"""Gives a process's freed memory back to the system.

The C library keeps what was freed. While a server is at work that is well: giving memory back and taking it again costs
more than all the pasting. At rest it is in the way of others, and of a model's many instances most rest.
"""

from __future__ import annotations

import ctypes
import threading
import time
import weakref
from collections.abc import Callable
from types import MethodType

REST_S = 1.0
"""Many times the pause between the chunks of a live stream."""


def give_back() -> None:
    """Return freed memory to the system. Only glibc has a function for it; elsewhere this does nothing."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


class Rest:
    """Gives memory back, or whatever `give_back` is, each time that nothing was done for `rest_s` seconds.

    `give_back` is called in a thread of its own, which the first call of `worked` starts. If it is a method, this does
    not keep its object alive: once that is gone, nothing is left to give back.
    """

    def __init__(self, rest_s: float = REST_S, give_back: Callable[[], None] = give_back) -> None:
        self._rest_s = rest_s
        self._give_back = (
            weakref.WeakMethod(give_back) if isinstance(give_back, MethodType) else lambda: give_back
        )
        self._awake = threading.Event()
        self._worked_s = 0.0
        self._thread = threading.Thread(target=self._watch, name="rest", daemon=True)

    def worked(self) -> None:
        """Say that something has just been done; not from several threads at once. Costs less than a microsecond."""
        self._worked_s = time.monotonic()
        if not self._awake.is_set():
            self._awake.set()
            if self._thread.ident is None:
                self._thread.start()

    def _watch(self) -> None:
        while True:
            self._awake.wait()
            while (left_s := self._left_s()) > 0:
                time.sleep(left_s)
            self._awake.clear()
            if self._left_s() > 0:  # work was done between looking and clearing
                self._awake.set()
                continue
            give_back = self._give_back()
            if give_back is None:
                return
            give_back()
            del give_back  # or its object would be kept while this waits

    def _left_s(self) -> float:
        return self._worked_s + self._rest_s - time.monotonic()
