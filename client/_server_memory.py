"""How much memory a server has in use, as its metrics say, and whether that is too much."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Protocol

from prometheus_client.parser import text_string_to_metric_families

from client._metrics import FETCH_ERRORS, check_metrics_url, fetch_metrics

_log = logging.getLogger(__name__)

_HOST = "nv_cpu_memory_used_bytes"
_GPU = "nv_gpu_memory_used_bytes"
_REFRESH_S = 2.5
"""Triton looks at the memory every 2 s (``--metrics-interval-ms``) and tells in between what it saw last."""
_GIVEN_BACK_S = 1.0
"""An unload returns about so long before the network's process has ended and its memory is free."""
_POLL_S = 0.25


@dataclass(frozen=True)
class MemoryUse:
    """Bytes in use: RAM of the whole machine, and the sum over its GPUs; None where the server does not say."""

    host_bytes: int | None = None
    gpu_bytes: int | None = None


class MemoryReader(Protocol):
    """Says how much memory a server has in use."""

    async def read(self) -> MemoryUse:
        """The latest reading; one of `FETCH_ERRORS` if there is none to be had."""


class MetricsReader:
    """Reads Triton's metrics endpoint."""

    def __init__(self, url: str) -> None:
        """`url` is like ``http://127.0.0.1:8002/metrics``."""
        self._url = check_metrics_url(url)

    async def read(self) -> MemoryUse:
        """See `MemoryReader`."""
        return parse_memory(await asyncio.to_thread(fetch_metrics, self._url))


def parse_memory(metrics: str) -> MemoryUse:
    """The memory in use out of Prometheus's text format; `ValueError` if it is none."""
    used: dict[str, int] = {}
    for family in text_string_to_metric_families(metrics):
        if family.name in (_HOST, _GPU):
            used[family.name] = round(sum(sample.value for sample in family.samples))
    return MemoryUse(used.get(_HOST), used.get(_GPU))


class MemoryBudget:
    """Compares what a server has in use with what it may have."""

    def __init__(
        self,
        reader: MemoryReader,
        *,
        host_bytes: int | None = None,
        gpu_bytes: int | None = None,
        given_back_s: float = _GIVEN_BACK_S,
        refresh_s: float = _REFRESH_S,
        poll_s: float = _POLL_S,
    ) -> None:
        """At most so many bytes, None for no limit.

        What an unload frees is free after `given_back_s`; readings may be `refresh_s` old.
        """
        self._reader = reader
        self._limits = {"host": host_bytes, "GPU": gpu_bytes}
        self._given_back_s = given_back_s
        self._refresh_s = refresh_s
        self._poll_s = poll_s
        self._warned = False

    async def excess(self) -> str | None:
        """What is over budget, in words; None if nothing is, or if nobody knows, which is logged once."""
        use = await self._read()
        if use is None:
            return None
        for name, used in (("host", use.host_bytes), ("GPU", use.gpu_bytes)):
            limit = self._limits[name]
            if limit is None:
                continue
            if used is None:
                self._warn(f"no {name} memory is told of")
            elif used > limit:
                return f"{used:,} bytes of {name} memory are in use and {limit:,} may be"
        return None

    async def refreshed(self) -> None:
        """Return when readings show what an unload that has just returned gives back."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self._given_back_s)
        until_s = loop.time() + self._refresh_s
        before = await self._read()
        while before is not None and loop.time() < until_s and await self._read() == before:
            await asyncio.sleep(self._poll_s)

    async def _read(self) -> MemoryUse | None:
        try:
            return await self._reader.read()
        except FETCH_ERRORS as error:
            self._warn(str(error))
            return None

    def _warn(self, reason: str) -> None:
        if not self._warned:
            self._warned = True
            _log.warning(
                "avatars are loaded without regard to memory, since the server's is unknown: %s", reason
            )
