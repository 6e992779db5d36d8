"""Sending again what is safe to send again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from client._settings import RetryPolicy
from client.errors import PoolFullError, ServerBusyError, ServerUnavailableError

T = TypeVar("T")


async def retrying(
    call: Callable[[], Awaitable[T]],
    policy: RetryPolicy,
    *,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    uniform: Callable[[], float] = random.random,
) -> T:
    """What `call` returns, called again after a pause each time the server is unavailable or busy.

    `uniform` gives a number from 0 to 1 for the jitter. The last try's error is raised as it is.
    """
    for delay_s in policy.delays_s():
        try:
            return await call()
        except PoolFullError:
            raise  # who asks a pool once more must not be one who hammers at it
        except (ServerUnavailableError, ServerBusyError):
            await sleep(delay_s * (1 - policy.jitter * uniform()))
    return await call()
