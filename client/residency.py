"""Thousands of avatars, of which a server holds a few: who is loaded, and who makes room."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from threading import Thread
from types import TracebackType
from wsgiref.simple_server import WSGIServer

import numpy as np
from prometheus_client import start_http_server

from client._admission import Streams
from client._client import LipstreamClient
from client._pool_figures import PoolFigures
from client._residents import PASSING_ERRORS, Residents
from client._retry import retrying
from client._server_memory import MemoryBudget, MemoryReader, MetricsReader
from client._settings import DEFAULT_URL, Keepalive, PoolSettings, RetryPolicy, Timeouts
from client._transport import Transport
from client._triton import TritonTransport
from client.errors import (
    AvatarNotLoadedError,
    PoolFullError,
    ServerError,
    SessionError,
    SettingsError,
)
from compositor_backend import contract

POOL_RETRY = RetryPolicy(attempts=10, longest_delay_s=0.7, jitter=0.2)
"""A pool's: 3.9 to 4.9 s in all, since `python -m server` brings a dead Triton back within 1 to 3 s."""

_TRIES = 10
"""Of a load whose avatar another pool unloads before its first frame."""
_HUM = np.tile(np.array([600, -600], np.int16), contract.SAMPLES_PER_FRAME // 2)
"""A frame of sound, and no silence, which no network is asked for."""


@dataclass(frozen=True)
class Lease:
    """An avatar that stays loaded until the lease ends; `client` talks to the server that holds it.

    The avatar of a lease is loaded anew if the server has lost it (another pool unloaded it, or Triton was
    restarted), and what failed of that is sent again.
    """

    avatar: str
    client: LipstreamClient


class AvatarPool:
    """Keeps the avatars that are wanted loaded on one server, or on several that serve the same avatars.

        async with AvatarPool(["127.0.0.1:8001"], PoolSettings(most=16)) as pool:
            async with pool.lease("may") as lease:
                async for frame in lease.client.speak(lease.avatar, pcm):
                    show(frame.jpeg)

    The least recently used avatar makes room for one that is not loaded, and no avatar goes while there is a lease on
    it. However many wait for an avatar, it is loaded once, and has given a frame before any of them gets its lease. A
    load that fails is told to all who wait for it, and for a while to whoever asks again.

    Several pools may use one server: each counts its own avatars, and loads again what another has unloaded. What was
    loaded before the pool came is neither counted nor unloaded. One event loop per pool.
    """

    def __init__(
        self,
        urls: Sequence[str] = (DEFAULT_URL,),
        settings: PoolSettings | None = None,
        *,
        timeouts: Timeouts | None = None,
        retry: RetryPolicy | None = None,
        keepalive: Keepalive | None = None,
        transports: Sequence[Transport] | None = None,
        metrics_urls: Sequence[str] | None = None,
        memory_readers: Sequence[MemoryReader] | None = None,
        figures: PoolFigures | None = None,
        admin_key: str | None = None,
    ) -> None:
        """`urls` are ``host:port`` of gRPC services; `transports` stand in for connections to them.

        `admin_key` is what servers that have one want of who loads avatars.

        `metrics_urls` are the servers' metrics, such as ``http://127.0.0.1:8002/metrics``, one for each in the same
        order: wanted where the settings have a budget of bytes. `memory_readers` stand in for them.

        Requests of leases are sent again for about 4.5 s unless `retry` says otherwise: longer than `python -m server`
        takes to bring a Triton back that has died.
        """
        self.settings = settings or PoolSettings()
        self.figures = figures or PoolFigures()
        links = transports or [TritonTransport(url, keepalive or Keepalive(), admin_key) for url in urls]
        if not links:
            raise SettingsError("a pool has no server; the address of one at least is wanted")
        readers = memory_readers or [MetricsReader(url) for url in metrics_urls or ()]
        self._servers = [
            _Server(link, memory, self.settings, self.figures, timeouts or Timeouts(), retry or POOL_RETRY)
            for link, memory in zip(links, self._budgets(readers, len(links)), strict=True)
        ]
        self._retry = retry or POOL_RETRY
        self._pins: dict[str, _Server] = {}
        self._awaited: Counter[str] = Counter()
        """How many wait for a lease or a pin on an avatar."""
        self._exposition: tuple[WSGIServer, Thread] | None = None

    @asynccontextmanager
    async def lease(self, avatar: str) -> AsyncIterator[Lease]:
        """Have an avatar loaded, and keep it so within the block.

        Raises `AvatarNotFoundError` or `ServerFaultError` where it cannot be loaded, `PoolFullError` at once where
        there are as many leases as may be and where no other avatar makes room in time, `ServerUnavailableError`
        where no server answers.
        """
        server = await self._take(contract.check_avatar_id(avatar), stream=True)
        began_s = time.monotonic()
        try:
            yield Lease(avatar, server.leased)
        finally:
            server.give(avatar, stream=True, length_s=time.monotonic() - began_s)

    async def pin(self, avatar: str) -> None:
        """Load an avatar and keep it loaded until `unpin`; errors as of `lease`."""
        if avatar in self._pins:
            return
        server = await self._take(contract.check_avatar_id(avatar), stream=False)
        if avatar in self._pins:  # by another task, meanwhile
            server.residents.give(avatar)
        else:
            self._pins[avatar] = server

    def unpin(self, avatar: str) -> None:
        """Let a pinned avatar go when its turn comes; no error if it is not pinned."""
        server = self._pins.pop(avatar, None)
        if server is not None:
            server.residents.give(avatar)

    @property
    def resident(self) -> dict[str, list[str]]:
        """Ids of the avatars that are loaded, by server, least recently used first."""
        return {server.residents.url: server.residents.loaded for server in self._servers}

    def serve_figures(self, port: int, host: str = "127.0.0.1") -> int:
        """Serve `figures` for Prometheus at ``http://host:port/metrics`` until `close`; returns the port.

        Port 0 takes one that is free. `SettingsError` if it cannot be had, `SessionError` if they are served already.
        """
        if self._exposition is not None:
            raise SessionError("the pool's figures are served already")
        try:
            self._exposition = start_http_server(port, host, self.figures.registry)
        except (OSError, OverflowError) as error:
            raise SettingsError(f"the pool's figures cannot be served at {host}:{port}: {error}") from error
        return self._exposition[0].server_port

    async def close(self) -> None:
        """Give up loads under way and close the connections; what is loaded by then stays so. May be called twice."""
        exposition, self._exposition = self._exposition, None
        if exposition is not None:
            await asyncio.to_thread(_stop, *exposition)
        for server in self._servers:
            await server.residents.close()
        for server in self._servers:
            await server.control.close()

    async def __aenter__(self) -> AvatarPool:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _budgets(self, readers: Sequence[MemoryReader], servers: int) -> list[MemoryBudget | None]:
        host_bytes, gpu_bytes = self.settings.host_bytes, self.settings.gpu_bytes
        if host_bytes is None and gpu_bytes is None:
            return [None] * servers
        if len(readers) != servers:
            raise SettingsError(
                f"a budget of bytes wants the metrics' address of each server: {servers} are wanted, "
                f"metrics_urls has {len(readers)}"
            )
        return [MemoryBudget(reader, host_bytes=host_bytes, gpu_bytes=gpu_bytes) for reader in readers]

    async def _take(self, avatar: str, *, stream: bool) -> _Server:
        """See `_take_once`; patient only when no server is left to try, lest each absent one holds every lease up."""
        try:
            if stream and all(server.streams.full for server in self._servers):
                raise self._no_stream()
            held = any(server.residents.holds(avatar) for server in self._servers)
            # Whoever waits for one that is just leaving has it loaded for all who come meanwhile.
            self.figures.asked(hit=held or avatar in self._awaited)
            self._awaited[avatar] += 1
            try:
                return await retrying(lambda: self._take_once(avatar, stream=stream), self._retry)
            finally:
                self._awaited -= Counter((avatar,))
        except PoolFullError as error:
            self.figures.refused.labels(error.full).inc()
            raise

    async def _take_once(self, avatar: str, *, stream: bool) -> _Server:
        """A place for the avatar on the best server that can give it; with `stream`, on one that has a stream to give.

        A server that fails is passed over. Where no avatar can leave any of them, whichever is first to have a place.
        """
        errors: list[ServerError] = []
        crowded: list[_Server] = []
        for server in self._by_preference(avatar):
            if stream and server.streams.full:
                continue
            if not server.residents.holds(avatar) and not server.residents.has_room:
                crowded.append(server)
                continue
            try:
                await server.take(avatar, stream=stream)
            except ServerError as error:
                errors.append(error)
            else:
                return server
        # Others may have been given streams meanwhile.
        crowded = [server for server in crowded if not (stream and server.streams.full)]
        if crowded:
            try:
                return await _first_to_take(crowded, avatar, stream=stream)
            except ServerError as error:
                errors.append(error)
        if stream and any(server.streams.full for server in self._servers):
            errors.append(self._no_stream())
        raise min(errors, key=_doubt)

    def _no_stream(self) -> PoolFullError:
        full = [server for server in self._servers if server.streams.full]
        soonest = min(full, key=lambda server: server.streams.retry_after_s)
        urls = ", ".join(server.residents.url for server in full)
        return PoolFullError(
            f"all {self.settings.streams} streams of {urls} are taken",
            url=soonest.residents.url,
            retry_after_s=soonest.streams.retry_after_s,
            full="streams",
        )

    def _by_preference(self, avatar: str) -> list[_Server]:
        """Servers that hold the avatar before others; then those with most room."""
        return sorted(
            self._servers,
            key=lambda server: (
                not server.residents.holds(avatar),
                server.residents.crowd,
                server.residents.leases,
            ),
        )


async def _first_to_take(servers: Sequence[_Server], avatar: str, *, stream: bool) -> _Server:
    """Wait at all servers for a place, and take the first; the most telling error if there is none at any."""
    tasks = {asyncio.create_task(server.take(avatar, stream=stream)): server for server in servers}
    waiting, taken = set(tasks), None
    try:
        while waiting and taken is None:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            taken = next((task for task in done if task.exception() is None), None)
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for task, result in zip(tasks, results, strict=True):
            if result is None and task is not taken:
                tasks[task].give(avatar, stream=stream)
    if taken is not None:
        return tasks[taken]
    raise min((result for result in results if isinstance(result, Exception)), key=_doubt)


def _doubt(error: Exception) -> int:
    """How little an error of one server says of a lease that none of them gave."""
    if isinstance(error, PoolFullError):
        return 0
    return 2 if isinstance(error, PASSING_ERRORS) else 1


def _stop(server: WSGIServer, thread: Thread) -> None:
    server.shutdown()
    server.server_close()
    thread.join()


class _Server:
    """One server: what it holds, a client for the pool, and one for leases, which brings back what was lost."""

    def __init__(
        self,
        transport: Transport,
        memory: MemoryBudget | None,
        settings: PoolSettings,
        figures: PoolFigures,
        timeouts: Timeouts,
        retry: RetryPolicy,
    ) -> None:
        self.control = LipstreamClient(transport=transport, timeouts=timeouts, retry=retry)
        # Whoever calls it tries again. Warm-up frames want the avatar's own network.
        self._loader = LipstreamClient(
            transport=transport, timeouts=timeouts, retry=RetryPolicy(attempts=1), idle_frames=False
        )
        self._retry = retry
        self.streams = Streams(settings.streams, figures)
        self.residents = Residents(
            transport.url,
            self._load,
            self.control.unload,
            self._loader.unload,
            settings,
            figures,
            self.streams,
            memory,
        )
        self.leased = LipstreamClient(
            transport=transport, timeouts=timeouts, retry=retry, bring_back=self._bring_back
        )

    async def take(self, avatar: str, *, stream: bool) -> None:
        """The avatar loaded, and with `stream` a stream; see `Residents.take`."""
        if stream:
            self.streams.begin()
        try:
            await self.residents.take(avatar)
        except BaseException:
            if stream:
                self.streams.end()
            raise

    def give(self, avatar: str, *, stream: bool, length_s: float | None = None) -> None:
        """End what `take` began; `length_s` is how long a stream took, None if nothing came of it."""
        self.residents.give(avatar)
        if stream:
            self.streams.end(length_s)

    async def _bring_back(self, avatar: str) -> None:
        await retrying(lambda: self.residents.again(avatar), self._retry)

    async def _load(self, avatar: str) -> None:
        """Load an avatar and see its first frame, so that no viewer waits for what happens only once."""
        for tries_left in reversed(range(_TRIES)):
            await self._loader.load(avatar)
            try:
                async with aclosing(self._loader.speak(avatar, _HUM)) as frames:
                    async for _ in frames:
                        pass
            except AvatarNotLoadedError:
                # Another pool has unloaded it meanwhile.
                if tries_left == 0:
                    raise
                await asyncio.sleep(0)
            else:
                return
