"""The seam between the client and whatever answers its requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from numpy.typing import NDArray

Tensors = Mapping[str, NDArray[Any]]


class Transport(Protocol):
    """Carries requests to a server. Every method may raise a `ServerError`; times are for one attempt.

    After `close`, which may be called twice, every other method raises `SessionError`.
    """

    @property
    def url(self) -> str:
        """The server's address, for messages."""

    async def infer(
        self,
        model: str,
        inputs: Tensors,
        outputs: Sequence[str],
        timeout_s: float,
        avatar: str | None = None,
    ) -> dict[str, NDArray[Any]]:
        """The outputs asked for, BYTES as object arrays. Cancelling the task cancels the request.

        `avatar` is the id that the request is about, for balancers on the way.
        """

    async def is_ready(self, timeout_s: float) -> bool:
        """Whether the server answers, and its ensemble `avatar` is ready."""

    async def close(self) -> None:
        """Close the connection; requests under way are cancelled."""
