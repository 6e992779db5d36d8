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
    patient: Callable[[], bool] = lambda: False,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    uniform: Callable[[], float] = random.random,
    clock: Callable[[], float] = time.monotonic,
) -> T:
    """What `call` returns, called again after a pause each time the server is unavailable or busy.

    Where it is unavailable and `patient` says so, until the policy's patience is at an end; else as often as the policy
    has attempts. `uniform` gives a number from 0 to 1 for the jitter. The last try's error is raised as it is.
    """
    started_s = clock()
    for tries, delay_s in enumerate(policy.delays_s(), 1):
        try:
            return await call()
        except ServerBusyError:
            if tries >= policy.attempts:
                raise
        except ServerUnavailableError:
            waits = policy.attempts > 1 and patient() and clock() - started_s + delay_s <= policy.patience_s
            if not waits and tries >= policy.attempts:
                raise
        await sleep(delay_s * (1 - policy.jitter * uniform()))
    raise AssertionError("delays have no end")
