"""Which networks are in memory: an LRU of bytes, filled by threads of its own.

Whoever computes asks `get`; what is resident is there at once, and moves to the young end. What is not is asked for by
`load`, which returns at once and calls back from a loader thread, so a network that is slow to open holds up nobody
who wants another one. Networks are known by the SHA-256 of their graph's file: avatars that share a file share a
session.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

LOADERS = 2
"""Networks opened at a time: one that hangs leaves the other thread to everybody else."""


class Sized(Protocol):
    """What can be cached: `nbytes` is what it counts for in the budget."""

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        ...


_Network = TypeVar("_Network", bound=Sized)
Loaded = Callable[[_Network | Exception], None]
"""Called in a loader thread with the network, which is in use until this returns, or with what went wrong."""


@dataclass
class CacheCounts:
    """Counts since the process started, and what is resident now."""

    hits: int = 0
    misses: int = 0
    loads: int = 0
    failures: int = 0
    evictions: int = 0
    load_seconds: float = 0.0
    resident: int = 0
    resident_bytes: int = 0


@dataclass
class _Entry(Generic[_Network]):
    network: _Network
    users: int = 0


@dataclass
class _Load(Generic[_Network]):
    key: str
    nbytes: int
    open: Callable[[], _Network]
    waiting: list[Loaded[_Network]] = field(default_factory=list)


class NetworkCache(Generic[_Network]):
    """At most `budget_bytes` of networks, the least recently used out first, never one that is in use.

    Room is made before a network is opened, so the budget is not exceeded by the one that comes. A network that is
    larger than the whole budget is opened all the same, and stays alone until another one is wanted. Safe to use from
    several threads.
    """

    def __init__(self, budget_bytes: int, loaders: int = LOADERS) -> None:
        self._budget_bytes = budget_bytes
        self._loaders = loaders
        self._lock = threading.Condition()
        self._entries: OrderedDict[str, _Entry[_Network]] = OrderedDict()
        self._loads: dict[str, _Load[_Network]] = {}
        self._queue: deque[_Load[_Network]] = deque()
        self._opening_bytes = 0
        self._counts = CacheCounts()
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._closed = False

    @property
    def counts(self) -> CacheCounts:
        """A copy of the counts as they are now."""
        with self._lock:
            self._counts.resident = len(self._entries)
            self._counts.resident_bytes = self._resident_bytes()
            return CacheCounts(**vars(self._counts))

    def acquire(self, key: str, requests: int = 1) -> _Network | None:
        """The network for so many requests, in use until `release`; None if it has to be loaded."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            self._counts.hits += requests
            self._entries.move_to_end(key)
            entry.users += 1
            return entry.network

    def release(self, key: str) -> None:
        """End what `acquire` began."""
        with self._lock:
            self._entries[key].users -= 1

    def load(
        self,
        key: str,
        nbytes: int,
        open_network: Callable[[], _Network],
        loaded: Loaded[_Network],
        requests: int = 1,
    ) -> None:
        """Have the network opened in a loader thread, once however many ask; `loaded` is called there.

        One that has become resident since `acquire` is handed over likewise. `nbytes` is the room that it will take,
        `requests` how many wait for it here.
        """
        with self._lock:
            self._counts.misses += requests
            load = self._loads.get(key)
            if load is None:
                load = self._loads[key] = _Load(key, nbytes, open_network)
                self._queue.append(load)
                if not self._idle and len(self._threads) < self._loaders:
                    self._start_loader()
            load.waiting.append(loaded)
            self._lock.notify()

    def close(self) -> None:
        """End the loader threads and drop all networks; loads that have not begun are forgotten."""
        with self._lock:
            self._closed = True
            self._queue.clear()
            self._lock.notify_all()
        for thread in self._threads:
            thread.join()
        self._entries.clear()

    def _start_loader(self) -> None:
        thread = threading.Thread(target=self._work, name=f"loader-{len(self._threads)}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self) -> None:
        while (load := self._next()) is not None:
            self._finish(load, self._open(load))

    def _next(self) -> _Load[_Network] | None:
        with self._lock:
            self._idle += 1
            while not self._queue and not self._closed:
                self._lock.wait()
            self._idle -= 1
            if self._closed:
                return None
            load = self._queue.popleft()
            if load.key not in self._entries:
                self._make_room(load.nbytes)
            self._opening_bytes += load.nbytes
            return load

    def _open(self, load: _Load[_Network]) -> _Network | Exception:
        with self._lock:
            # Loaded between `acquire` and `load`.
            if (entry := self._entries.get(load.key)) is not None:
                self._entries.move_to_end(load.key)
                return entry.network
        started_s = time.monotonic()
        try:
            return load.open()
        except Exception as error:  # noqa: BLE001 - handed to those who wait, whatever it is
            return error
        finally:
            with self._lock:
                self._counts.load_seconds += time.monotonic() - started_s

    def _finish(self, load: _Load[_Network], found: _Network | Exception) -> None:
        """Hand the network to all who wait, those who come meanwhile included."""
        with self._lock:
            self._opening_bytes -= load.nbytes
            if isinstance(found, Exception):
                self._counts.failures += 1
            else:
                self._entry(load.key, found).users += 1
        while True:
            with self._lock:
                waiting, load.waiting = load.waiting, []
                if not waiting:
                    del self._loads[load.key]
                    break
            for loaded in waiting:
                loaded(found)
        if not isinstance(found, Exception):
            self.release(load.key)

    def _entry(self, key: str, network: _Network) -> _Entry[_Network]:
        entry = self._entries.get(key)
        if entry is None:
            self._counts.loads += 1
            entry = self._entries[key] = _Entry(network)
        return entry

    def _resident_bytes(self) -> int:
        return sum(entry.network.nbytes for entry in self._entries.values())

    def _make_room(self, nbytes: int) -> None:
        while self._resident_bytes() + self._opening_bytes + nbytes > self._budget_bytes:
            key = next((key for key, entry in self._entries.items() if not entry.users), None)
            if key is None:
                return
            del self._entries[key]
            self._counts.evictions += 1
