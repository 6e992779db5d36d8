"""Several servers: each avatar has one that is asked first, and others that stand in for it.

The order is that of highest random weights (rendezvous hashing; Thaler and Ravishankar, "Using name-based mappings to
increase hit rates", IEEE/ACM Transactions on Networking, 1998): every client computes the same one, a server's avatars
are its share of all, and one that goes leaves only its own to the others. So each server's memory holds its share.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from client._retry import retrying
from client._settings import RetryPolicy
from client._transport import Transport
from client.errors import RequestTimeoutError, ServerBusyError, ServerError, ServerUnavailableError

T = TypeVar("T")

_log = logging.getLogger(__name__)
FIRST_REST_S = 0.5
LONGEST_REST_S = 10.0
"""How long a server that failed is asked only if no other one answers; twice as long after each failure in a row."""
_PASSED_OVER = (ServerUnavailableError, ServerBusyError, RequestTimeoutError)
"""After these, another server may well answer the same request."""


def rendezvous_order(urls: Sequence[str], avatar: str) -> list[int]:
    """Places of the servers in `urls`, in the order in which they are asked for an avatar."""

    def weight(place: int) -> bytes:
        return hashlib.blake2b(f"{urls[place]}\n{avatar}".encode(), digest_size=16).digest()

    return sorted(range(len(urls)), key=weight, reverse=True)


class Servers:
    """Asks servers in an avatar's order, and passes over those that cannot answer now."""

    def __init__(
        self,
        transports: Sequence[Transport],
        policy: RetryPolicy,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._transports = list(transports)
        self._urls = [transport.url for transport in transports]
        self._policy = policy
        self._clock = clock
        self._sleep = sleep
        self._failures = [0] * len(transports)
        self._rests_until_s = [float("-inf")] * len(transports)
        self._answered = False

    @property
    def urls(self) -> list[str]:
        """The servers' addresses."""
        return self._urls

    def in_order(self, avatar: str) -> list[Transport]:
        """All servers, in the order in which they are asked for an avatar; those that have just failed last."""
        order = rendezvous_order(self._urls, avatar)
        now_s = self._clock()
        return [
            self._transports[place]
            for place in sorted(order, key=lambda place: self._rests_until_s[place] > now_s)
        ]

    async def ask(self, avatar: str, request: Callable[[Transport], Awaitable[T]]) -> T:
        """The first answer; `request` is called with one server after another, and all of them again after pauses."""
        return await retrying(
            lambda: self._ask_once(avatar, request),
            self._policy,
            connected=lambda: self._answered,
            sleep=self._sleep,
            clock=self._clock,
        )

    async def close(self) -> None:
        """Close all connections."""
        for transport in self._transports:
            await transport.close()

    async def _ask_once(self, avatar: str, request: Callable[[Transport], Awaitable[T]]) -> T:
        failed: ServerError | None = None
        for transport in self.in_order(avatar):
            place = self._transports.index(transport)
            try:
                answer = await request(transport)
            except _PASSED_OVER as error:
                # What is busy says more than what is not there.
                failed = error if failed is None or isinstance(error, ServerBusyError) else failed
                self._note_failure(place, error)
                continue
            except ServerError:
                self._note_answer(place)
                raise
            self._note_answer(place)
            return answer
        assert failed is not None
        raise failed

    def _note_answer(self, place: int) -> None:
        self._answered = True
        self._failures[place] = 0
        self._rests_until_s[place] = float("-inf")

    def _note_failure(self, place: int, error: ServerError) -> None:
        if isinstance(error, ServerBusyError):
            self._answered = True
        if self._clock() < self._rests_until_s[place]:
            return  # one of several requests that failed together, or a try where no other server answered
        if len(self._transports) > 1 and self._failures[place] == 0:
            _log.info("%s is passed over: %s", self._urls[place], error)
        rest_s = min(FIRST_REST_S * 2 ** self._failures[place], LONGEST_REST_S)
        self._failures[place] += 1
        self._rests_until_s[place] = self._clock() + rest_s
