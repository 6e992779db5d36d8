"""Thousands of avatars, of which a server holds a few: who is loaded, and who makes room."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from types import TracebackType

import numpy as np

from client._client import LipstreamClient
from client._pool_figures import PoolFigures
from client._residents import Residents
from client._settings import DEFAULT_URL, Keepalive, PoolSettings, RetryPolicy, Timeouts
from client._transport import Transport
from client._triton import TritonTransport
from client.errors import AvatarNotLoadedError, ServerUnavailableError
from compositor_backend import contract

_TRIES = 5
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
        figures: PoolFigures | None = None,
    ) -> None:
        """`urls` are ``host:port`` of gRPC services; `transports` stand in for connections to them."""
        self.settings = settings or PoolSettings()
        self.figures = figures or PoolFigures()
        links = transports or [TritonTransport(url, keepalive or Keepalive()) for url in urls]
        self._servers = [
            _Server(link, self.settings, self.figures, timeouts or Timeouts(), retry or RetryPolicy())
            for link in links
        ]
        self._pins: dict[str, _Server] = {}

    @asynccontextmanager
    async def lease(self, avatar: str) -> AsyncIterator[Lease]:
        """Have an avatar loaded, and keep it so within the block.

        Raises `AvatarNotFoundError` or `ServerFaultError` where it cannot be loaded, `PoolFullError` where no other
        makes room in time, `ServerUnavailableError` where no server answers.
        """
        server = await self._take(contract.check_avatar_id(avatar))
        try:
            yield Lease(avatar, server.leased)
        finally:
            server.residents.give(avatar)

    async def pin(self, avatar: str) -> None:
        """Load an avatar and keep it loaded until `unpin`; errors as of `lease`."""
        if avatar not in self._pins:
            self._pins[avatar] = await self._take(contract.check_avatar_id(avatar))

    def unpin(self, avatar: str) -> None:
        """Let a pinned avatar go when its turn comes; no error if it is not pinned."""
        server = self._pins.pop(avatar, None)
        if server is not None:
            server.residents.give(avatar)

    @property
    def resident(self) -> dict[str, list[str]]:
        """Ids of the avatars that are loaded, by server, least recently used first."""
        return {server.residents.url: server.residents.loaded for server in self._servers}

    async def close(self) -> None:
        """Give up loads under way and close the connections; what is loaded stays so. May be called twice."""
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

    async def _take(self, avatar: str) -> _Server:
        """A lease on the best server that answers."""
        *others, last = self._by_preference(avatar)
        for server in others:
            try:
                await server.residents.take(avatar)
            except ServerUnavailableError:
                continue
            return server
        await last.residents.take(avatar)
        return last

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


class _Server:
    """One server: what it holds, a client for the pool, and one for leases, which brings back what was lost."""

    def __init__(
        self,
        transport: Transport,
        settings: PoolSettings,
        figures: PoolFigures,
        timeouts: Timeouts,
        retry: RetryPolicy,
    ) -> None:
        # Warm-up frames want the avatar's own network.
        self.control = LipstreamClient(transport=transport, timeouts=timeouts, retry=retry, idle_frames=False)
        self.residents = Residents(transport.url, self._load, self.control.unload, settings, figures)
        self.leased = LipstreamClient(
            transport=transport, timeouts=timeouts, retry=retry, bring_back=self.residents.again
        )

    async def _load(self, avatar: str) -> None:
        """Load an avatar and see its first frame, so that no viewer waits for what happens only once."""
        for tries_left in reversed(range(_TRIES)):
            await self.control.load(avatar)
            try:
                async with aclosing(self.control.speak(avatar, _HUM)) as frames:
                    async for _ in frames:
                        pass
            except AvatarNotLoadedError:
                # Another pool has unloaded it meanwhile.
                if tries_left == 0:
                    raise
                await asyncio.sleep(0)
            else:
                return
