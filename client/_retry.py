"""Sending again what is safe to send again."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from client._settings import RetryPolicy
from client.errors import ServerBusyError, ServerUnavailableError

T = TypeVar("T")


async def retrying(
    call: Callable[[], Awaitable[T]],
    policy: RetryPolicy,
    *,
    connected: Callable[[], bool] = lambda: True,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    uniform: Callable[[], float] = random.random,
    clock: Callable[[], float] = time.monotonic,
) -> T:
    """What `call` returns, called again after a pause each time the server is unavailable or busy.

    `connected` tells which of the policy's times counts where it is unavailable: whether one has ever answered.
    `uniform` gives a number from 0 to 1 for the jitter. The last try's error is raised as it is.
    """
    since_s: dict[type[Exception], float] = {}
    for delay_s in policy.delays_s():
        try:
            return await call()
        except (ServerBusyError, ServerUnavailableError) as error:
            now_s = clock()
            failing_s = now_s - since_s.setdefault(type(error), now_s)
            if failing_s + delay_s >= _limit_s(error, policy, connected()):
                raise
        await sleep(delay_s * (1 - policy.jitter * uniform()))
    raise AssertionError("delays have no end")


def _limit_s(error: Exception, policy: RetryPolicy, connected: bool) -> float:
    if isinstance(error, ServerBusyError):
        return policy.busy_s
    return policy.unavailable_s if connected else policy.connect_s
