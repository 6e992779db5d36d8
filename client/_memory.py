"""A transport with no server behind it, for tests and for measuring the client alone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client._transport import Tensors
from client.errors import SessionError

Answer = Callable[[str, Tensors], Awaitable[dict[str, NDArray[Any]]]]


class MemoryTransport:
    """Answers requests with a function of yours.

    `answer` gets a model's name and the input tensors and returns all output tensors, or raises what a
    transport may raise.
    """

    def __init__(self, answer: Answer, *, url: str = "memory:1") -> None:
        self.url = url
        self._answer = answer
        self._closed = False

    async def infer(
        self,
        model: str,
        inputs: Tensors,
        outputs: Sequence[str],
        timeout_s: float,
        avatar: str | None = None,
    ) -> dict[str, NDArray[Any]]:
        """See `Transport`."""
        self._check_open()
        answer = await self._answer(model, {name: np.array(array) for name, array in inputs.items()})
        return {name: answer[name] for name in outputs}

    async def is_ready(self, timeout_s: float) -> bool:
        """See `Transport`."""
        self._check_open()
        return True

    async def close(self) -> None:
        """See `Transport`."""
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise SessionError("the client is closed; make a new one")
