"""Which avatars of one server are loaded, and who leaves when another comes."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from client._admission import Streams
from client._pool_figures import PoolFigures
from client._server_memory import MemoryBudget
from client._settings import PoolSettings
from client.errors import (
    AvatarNotFoundError,
    AvatarNotLoadedError,
    PoolFullError,
    RequestCancelledError,
    RequestTimeoutError,
    ServerBusyError,
    ServerError,
    ServerUnavailableError,
    SessionError,
)

_STRANDED_S = 5.0
"""How long a pool that is closed waits for a server to unload what nobody has any more."""
_MEMORY_CHECK_S = 1.0
"""How often a server is asked again whose memory others may give back."""

PASSING_ERRORS = (
    ServerUnavailableError,
    ServerBusyError,
    RequestTimeoutError,
    RequestCancelledError,
    AvatarNotLoadedError,  # another pool's doing
)
"""Errors of a load that say nothing about the avatar: it may be loaded the next moment."""

_log = logging.getLogger(__name__)

Call = Callable[[str], Awaitable[None]]
"""Does something with the avatar of that id; may raise a `ServerError`."""


@dataclass
class _Resident:
    """An avatar that has a place, or waits for one; `ready` is the task that loads it.

    `placed` is whether it has its place. `leaving` is the task that unloads it; until that is done it has its place.
    """

    avatar: str
    ready: asyncio.Task[None] = field(init=False)
    placed: bool = False
    leases: int = 0
    leaving: asyncio.Task[None] | None = None
    expiry: asyncio.TimerHandle | None = None

    @property
    def rests(self) -> bool:
        """Whether it is loaded, and nobody has a lease on it."""
        return self.leases == 0 and self.ready.done() and self.leaving is None

    def stay(self) -> None:
        """Take back the hour at which it was to leave."""
        if self.expiry is not None:
            self.expiry.cancel()
            self.expiry = None


class Residents:
    """The avatars that a pool holds on one server, in the order in which they were last asked for.

    Two rules keep it honest. A place is taken before a load begins and given back after an unload has ended, so the
    server never holds more than `settings.most`. And places go to who has waited longest: an avatar whose last lease
    ends while others wait leaves at once, however soon it may be wanted again, so nobody waits for ever.
    """

    def __init__(
        self,
        url: str,
        load: Call,
        unload: Call,
        unload_once: Call,
        settings: PoolSettings,
        figures: PoolFigures,
        streams: Streams,
        memory: MemoryBudget | None = None,
    ) -> None:
        """`load` returns when the avatar has given a frame; `unload_once` does not wait for a server that is away.

        `url` is for messages, `streams` for when to try again.
        """
        self.url = url
        self._load = load
        self._unload = unload
        self._unload_once = unload_once
        self._stranded: set[str] = set()
        """Avatars that may be loaded though they have no place: a load or an unload of theirs has failed."""
        self._unloading_stranded = asyncio.Lock()
        self._closed = False
        self._settings = settings
        self._figures = figures
        self._streams = streams
        self._memory = memory
        self._memory_turn = asyncio.Lock()
        self._short: asyncio.Future[None] | None = None
        self._residents: OrderedDict[str, _Resident] = OrderedDict()
        self._places = settings.most
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._loads = asyncio.Semaphore(settings.loads_at_a_time)
        self._failed: OrderedDict[str, tuple[float, ServerError]] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()

    # --- what a pool asks ---
    def holds(self, avatar: str) -> bool:
        """Whether the avatar is loaded here, or about to be."""
        resident = self._residents.get(avatar)
        return resident is not None and resident.leaving is None

    @property
    def leases(self) -> int:
        """Of all avatars."""
        return sum(resident.leases for resident in self._residents.values())

    @property
    def crowd(self) -> tuple[int, int]:
        """How little room there is: who waits for a place, and who cannot be sent away."""
        return len(self._waiting), sum(not resident.rests for resident in self._residents.values())

    @property
    def has_room(self) -> bool:
        """Whether an avatar that comes now gets a place at once, or as soon as another is unloaded."""
        residents = self._residents.values()
        free = sum(resident.rests or resident.leaving is not None for resident in residents)
        return len(self._waiting) < self._places + free

    @property
    def loaded(self) -> list[str]:
        """Ids of the avatars that are loaded, first who was asked for longest ago."""
        return [
            name
            for name, resident in self._residents.items()
            if resident.leaving is None and _succeeded(resident.ready)
        ]

    # --- leases ---
    async def take(self, avatar: str) -> None:
        """Have the avatar loaded, and keep it so until `give`; a `ServerError` or `PoolFullError` if it cannot be."""
        resident = self._residents.get(avatar)
        while resident is not None and resident.leaving is not None:
            await self._until_left(resident, resident.leaving)
            resident = self._residents.get(avatar)
        if self._closed:
            raise SessionError("the pool is closed; make a new one")
        if resident is None:
            self._refuse_failed(avatar)
            resident = self._residents[avatar] = _Resident(avatar)
            resident.ready = self._start(self._bring_in(resident))
        elif resident.ready.done() and not _succeeded(resident.ready):
            self._load_anew(resident)
        resident.leases += 1
        resident.stay()
        self._residents.move_to_end(avatar)
        try:
            await self._until_ready(resident)
        except BaseException:
            self._give(resident)
            raise

    def give(self, avatar: str) -> None:
        """End a lease."""
        self._give(self._residents[avatar])

    async def again(self, avatar: str) -> None:
        """Load an avatar anew that the server no longer has, though there is a lease on it; once for all who ask."""
        resident = self._residents.get(avatar)
        if resident is None or resident.leases == 0:
            raise SessionError(f"the lease on {avatar!r} has ended; take another")
        if resident.ready.done():
            self._load_anew(resident)
        await self._until_ready(resident)

    async def close(self) -> None:
        """Give up what is under way, and unload what that leaves behind. What is loaded stays so."""
        self._closed = True
        for resident in self._residents.values():
            resident.stay()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._unload_stranded(), _STRANDED_S)

    def _give(self, resident: _Resident) -> None:
        resident.leases -= 1
        if resident.leases > 0:
            return
        if not resident.placed:
            # Nobody wants it any more: whoever does from now on starts anew, at the end of the queue.
            self._forget(resident)
            resident.ready.cancel()
            return
        self._settle(resident)

    def _settle(self, resident: _Resident) -> None:
        """An avatar that nobody uses any more leaves at its hour, or now if others wait for its place."""
        if resident.leases == 0 and resident.ready.done() and not _succeeded(resident.ready):
            self._vacate(resident)
            return
        if self._settings.idle_s is not None and resident.rests and resident.expiry is None:
            loop = asyncio.get_running_loop()
            resident.expiry = loop.call_later(self._settings.idle_s, self._expire, resident)
        self._assign_places()

    # --- loading ---
    async def _bring_in(self, resident: _Resident) -> None:
        with self._figures.waiting():
            await self._place(resident)
        try:
            await self._load_within_bounds(resident)
        except BaseException:
            self._vacate(resident)
            raise

    def _load_anew(self, resident: _Resident) -> None:
        self._refuse_failed(resident.avatar)
        self._figures.reloads.inc()
        resident.ready = self._start(self._load_within_bounds(resident))

    async def _until_ready(self, resident: _Resident) -> None:
        ready = resident.ready
        # Not awaited itself: who gives up waiting must not end the load that others wait for.
        await asyncio.wait([ready])
        if ready.cancelled():
            raise SessionError("the pool was closed while an avatar was loaded")
        error = ready.exception()
        if isinstance(error, ServerError):
            raise error.again() from error.__cause__
        if error is not None:
            raise error

    async def _load_within_bounds(self, resident: _Resident) -> None:
        async with self._loads:
            try:
                await self._unload_stranded()
                # Until it has succeeded: a load that fails may have come half the way.
                self._stranded.add(resident.avatar)
                with self._figures.loading():
                    await self._load(resident.avatar)
                self._stranded.discard(resident.avatar)
            except ServerError as error:
                if isinstance(error, AvatarNotFoundError):
                    self._stranded.discard(resident.avatar)
                if not isinstance(error, PASSING_ERRORS):
                    self._remember(resident.avatar, error)
                raise
            finally:
                # In case that all who wanted it have given up; not before this task has ended.
                asyncio.get_running_loop().call_soon(self._settle, resident)

    def _remember(self, avatar: str, error: ServerError) -> None:
        """For a while nobody tries again what has just failed."""
        until_s = asyncio.get_running_loop().time() + self._settings.failed_s
        self._failed[avatar] = (until_s, error.again())
        while len(self._failed) > self._settings.failures_kept:
            self._failed.popitem(last=False)

    def _refuse_failed(self, avatar: str) -> None:
        until_s, error = self._failed.get(avatar, (0.0, None))
        if error is None:
            return
        if asyncio.get_running_loop().time() < until_s:
            raise error.again() from error.__cause__
        del self._failed[avatar]

    # --- stranded avatars ---
    async def _unload_stranded(self) -> None:
        """Unload what a load or an unload that failed may have left: before each load, and at once if that works."""
        async with self._unloading_stranded:
            for avatar in sorted(self._stranded - self._residents.keys()):
                if avatar in self._residents:  # by now, and its load waits for this
                    continue
                try:
                    await self._unload_once(avatar)
                except ServerError as error:
                    _log.warning("%s may still be loaded on %s: %s", avatar, self.url, error)
                    if isinstance(error, ServerUnavailableError):
                        return
                else:
                    self._stranded.discard(avatar)

    # --- places ---
    async def _place(self, resident: _Resident) -> None:
        """Return when a place is this avatar's, and memory; `PoolFullError` if none gets free in time."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + self._settings.wait_s
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append(turn)
        self._assign_places()
        try:
            # Not `wait_for`, which now and then forgets that it was cancelled.
            await asyncio.wait([turn], timeout=self._settings.wait_s)
            if not turn.done():
                reason = f"all {self._settings.most} avatars there are in use"
                raise self._refusal(resident, "places", reason)
            if self._memory is not None:
                async with self._memory_turn:  # one by one, lest each send somebody away for the same bytes
                    await self._find_memory(resident, self._memory, until_s)
        except BaseException:
            if turn.done():  # just now: somebody else's then
                self._places += 1
            else:
                self._waiting.remove(turn)
            self._forget(resident)
            self._assign_places()
            raise
        resident.placed = True

    async def _find_memory(self, resident: _Resident, memory: MemoryBudget, until_s: float) -> None:
        """Have avatars leave, one after another, until the server's memory is within its budget."""
        loop = asyncio.get_running_loop()
        while excess := await memory.excess():
            left_s = until_s - loop.time()
            if left_s <= 0:
                raise self._refusal(resident, "memory", f"{excess}, and no avatar there can leave")
            self._short = loop.create_future()
            self._assign_places()
            try:
                done, _ = await asyncio.wait([self._short], timeout=min(left_s, _MEMORY_CHECK_S))
            finally:
                self._short = None
            if done:
                await memory.refreshed()

    async def _until_left(self, resident: _Resident, leaving: asyncio.Task[None]) -> None:
        await asyncio.wait([leaving], timeout=self._settings.wait_s)
        if not leaving.done():
            raise self._refusal(resident, "places", "it is still being unloaded")

    def _refusal(self, resident: _Resident, full: str, reason: str) -> PoolFullError:
        return PoolFullError(
            f"{resident.avatar!r} waited {self._settings.wait_s:g} s for room on {self.url}: {reason}",
            url=self.url,
            retry_after_s=self._streams.retry_after_s,
            full=full,
        )

    def _assign_places(self) -> None:
        """Give free places to who has waited longest, and have as many avatars leave as others wait."""
        while self._waiting and self._places > 0:
            self._places -= 1
            self._waiting.popleft().set_result(None)
        leaving = sum(resident.leaving is not None for resident in self._residents.values())
        resting = [resident for resident in self._residents.values() if resident.rests]
        wanted = len(self._waiting) + (self._short is not None and not self._short.done())
        for resident in resting[: max(0, wanted - leaving)]:
            self._send_away(resident, "room")

    def _expire(self, resident: _Resident) -> None:
        resident.expiry = None
        if resident.rests and self._residents.get(resident.avatar) is resident:
            self._send_away(resident, "idle")

    def _send_away(self, resident: _Resident, why: str) -> None:
        resident.stay()
        self._figures.evictions.labels(why).inc()
        resident.leaving = self._start(self._leave(resident))

    async def _leave(self, resident: _Resident) -> None:
        try:
            await self._unload(resident.avatar)
        except ServerError as error:
            _log.warning("%s could not be unloaded on %s: %s", resident.avatar, self.url, error)
            self._stranded.add(resident.avatar)
        finally:
            self._vacate(resident)

    def _vacate(self, resident: _Resident) -> None:
        if self._forget(resident):
            self._places += 1
            if resident.avatar in self._stranded and not self._closed:
                self._start(self._unload_stranded())
            if self._short is not None and not self._short.done():
                self._short.set_result(None)
            self._assign_places()

    def _forget(self, resident: _Resident) -> bool:
        """Whether it was still known; another one of the same name stays."""
        known = self._residents.get(resident.avatar) is resident
        if known:
            del self._residents[resident.avatar]
        return known

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # who waits for the task is told; where nobody does, nobody is to be


def _succeeded(task: asyncio.Task[None]) -> bool:
    with suppress(asyncio.CancelledError):
        return task.done() and task.exception() is None
    return False
