"""How many streams a server has at a time, and when the next one may be expected to end."""

from __future__ import annotations

from collections import deque

from client._pool_figures import PoolFigures

_REMEMBERED = 32
_UNKNOWN_RETRY_S = 10.0
"""Before any stream has ended."""
_SOONEST_RETRY_S = 1.0
_LATEST_RETRY_S = 60.0


class Streams:
    """The leases on one server, and how long recent ones took."""

    def __init__(self, most: int | None, figures: PoolFigures) -> None:
        """`most` at a time; None for no limit."""
        self._most = most
        self._figures = figures
        self._now = 0
        self._lengths_s: deque[float] = deque(maxlen=_REMEMBERED)

    @property
    def full(self) -> bool:
        """Whether another one would take frames from those that run."""
        return self._most is not None and self._now >= self._most

    @property
    def retry_after_s(self) -> float:
        """Expected time until the next one ends, 1 to 60 s."""
        if not self._lengths_s:
            return _UNKNOWN_RETRY_S
        mean_s = sum(self._lengths_s) / len(self._lengths_s)
        return min(max(mean_s / max(self._now, 1), _SOONEST_RETRY_S), _LATEST_RETRY_S)

    def begin(self) -> None:
        """One more, from before its avatar is loaded, lest too many wait for that."""
        self._now += 1
        self._figures.streams.inc()

    def end(self, length_s: float | None = None) -> None:
        """One less; `length_s` is how long it took, None if nothing came of it."""
        self._now -= 1
        self._figures.streams.dec()
        if length_s is not None:
            self._lengths_s.append(length_s)
