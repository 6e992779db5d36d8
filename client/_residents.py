"""Which avatars of one server are loaded, and who leaves when another comes."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

from client._pool_figures import PoolFigures
from client._settings import PoolSettings
from client.errors import PoolFullError, ServerError, ServerUnavailableError, SessionError

_log = logging.getLogger(__name__)

Call = Callable[[str], Awaitable[None]]
"""Does something with the avatar of that id; may raise a `ServerError`."""


@dataclass
class _Resident:
    """An avatar that has a place, or waits for one; `ready` is the task that loads it.

    `leaving` is the task that unloads it; until that is done it has its place.
    """

    avatar: str
    ready: asyncio.Task[None] = field(init=False)
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
    """The avatars that a pool holds on one server, least recently used first.

    Two rules keep it honest. A place is taken before a load begins and given back after an unload has ended, so the
    server never holds more than `settings.most`. And places go to who has waited longest: an avatar whose last lease
    ends while others wait leaves at once, however soon it may be wanted again, so nobody waits for ever.
    """

    def __init__(
        self, url: str, load: Call, unload: Call, settings: PoolSettings, figures: PoolFigures
    ) -> None:
        """`load` returns when the avatar has given a frame; `url` is for messages."""
        self.url = url
        self._load = load
        self._unload = unload
        self._settings = settings
        self._figures = figures
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
    def loaded(self) -> list[str]:
        """Ids of the avatars that are loaded, least recently used first."""
        return [
            name
            for name, resident in self._residents.items()
            if resident.leaving is None and _succeeded(resident.ready)
        ]

    # --- leases ---
    async def take(self, avatar: str) -> None:
        """Have the avatar loaded, and keep it so until `give`; a `ServerError` or `PoolFullError` if it cannot be."""
        self._figures.asked(hit=self.holds(avatar))
        resident = self._residents.get(avatar)
        while resident is not None and resident.leaving is not None:
            await asyncio.wait([resident.leaving])
            resident = self._residents.get(avatar)
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
        resident = self._residents[avatar]
        if resident.ready.done():
            self._load_anew(resident)
        await self._until_ready(resident)

    async def close(self) -> None:
        """Give up what is under way. What is loaded stays so."""
        for resident in self._residents.values():
            resident.stay()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _give(self, resident: _Resident) -> None:
        resident.leases -= 1
        if resident.leases > 0:
            return
        if self._residents.get(resident.avatar) is resident and resident.ready.done():
            if not _succeeded(resident.ready):
                self._vacate(resident)
                return
            self._residents.move_to_end(resident.avatar)
        self._settle(resident)

    def _settle(self, resident: _Resident) -> None:
        """An avatar that nobody uses any more leaves at its hour, or now if others wait for its place."""
        if self._settings.idle_s is not None and resident.rests and resident.expiry is None:
            loop = asyncio.get_running_loop()
            resident.expiry = loop.call_later(self._settings.idle_s, self._expire, resident)
        self._assign_places()

    # --- loading ---
    async def _bring_in(self, resident: _Resident) -> None:
        with self._figures.waiting():
            await self._place(resident.avatar)
        try:
            await self._load_within_bounds(resident)
        except BaseException:
            self._vacate(resident)
            raise
        # In case that all who wanted it have given up; not before this task has ended.
        asyncio.get_running_loop().call_soon(self._settle, resident)

    def _load_anew(self, resident: _Resident) -> None:
        self._refuse_failed(resident.avatar)
        self._figures.reloads.inc()
        resident.ready = self._start(self._load_within_bounds(resident))

    async def _until_ready(self, resident: _Resident) -> None:
        ready = resident.ready
        try:
            # Shielded: who gives up waiting must not end the load that others wait for.
            await asyncio.shield(ready)
        except asyncio.CancelledError:
            if ready.cancelled():
                raise SessionError("the pool was closed while an avatar was loaded") from None
            raise

    async def _load_within_bounds(self, resident: _Resident) -> None:
        async with self._loads:
            try:
                with self._figures.loading():
                    await self._load(resident.avatar)
            except ServerUnavailableError:
                raise  # that says nothing about the avatar
            except ServerError as error:
                self._remember(resident.avatar, error)
                raise

    def _remember(self, avatar: str, error: ServerError) -> None:
        """For a while nobody tries again what has just failed."""
        until_s = asyncio.get_running_loop().time() + self._settings.failed_s
        self._failed[avatar] = (until_s, error)
        while len(self._failed) > self._settings.failures_kept:
            self._failed.popitem(last=False)

    def _refuse_failed(self, avatar: str) -> None:
        until_s, error = self._failed.get(avatar, (0.0, None))
        if error is None:
            return
        if asyncio.get_running_loop().time() < until_s:
            raise error
        del self._failed[avatar]

    # --- places ---
    async def _place(self, avatar: str) -> None:
        """Return when a place is this caller's; `PoolFullError` if none gets free in time."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._assign_places()
        try:
            await asyncio.wait_for(asyncio.shield(turn), self._settings.wait_s)
        except BaseException as error:
            if turn.done():  # just now: somebody else's then
                self._places += 1
            else:
                self._waiting.remove(turn)
            self._residents.pop(avatar, None)
            self._assign_places()
            if isinstance(error, asyncio.TimeoutError):
                raise PoolFullError(
                    f"{avatar!r} waited {self._settings.wait_s:g} s for a place on {self.url}: "
                    f"all {self._settings.most} avatars there are in use; try again later",
                    url=self.url,
                ) from None
            raise

    def _assign_places(self) -> None:
        """Give free places to who has waited longest, and have as many avatars leave as others wait."""
        while self._waiting and self._places > 0:
            self._places -= 1
            self._waiting.popleft().set_result(None)
        leaving = sum(resident.leaving is not None for resident in self._residents.values())
        resting = [resident for resident in self._residents.values() if resident.rests]
        for resident in resting[: max(0, len(self._waiting) - leaving)]:
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
        finally:
            self._vacate(resident)

    def _vacate(self, resident: _Resident) -> None:
        if self._residents.get(resident.avatar) is resident:
            del self._residents[resident.avatar]
            self._places += 1
            self._assign_places()

    def _start(self, work: Awaitable[None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(_run(work))
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # who waits for the task is told; where nobody does, nobody is to be


async def _run(work: Awaitable[None]) -> None:
    await work


def _succeeded(task: asyncio.Task[None]) -> bool:
    with suppress(asyncio.CancelledError):
        return task.done() and task.exception() is None
    return False
