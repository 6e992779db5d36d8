"""The seam between the client and whatever answers its requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

from numpy.typing import NDArray

Tensors = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class ModelStatistics:
    """What Triton counted for a model since it started; times are sums over `requests`, in nanoseconds.

    `rows` are the batch rows of the requests (one each for a model without batching), `executions` the
    runs of the model that they took.
    """

    model: str
    requests: int = 0
    failures: int = 0
    rows: int = 0
    executions: int = 0
    queue_ns: int = 0
    input_ns: int = 0
    infer_ns: int = 0
    output_ns: int = 0

    def since(self, earlier: ModelStatistics) -> ModelStatistics:
        """The difference to an earlier reading; this reading itself if the server has been restarted."""
        if earlier.requests > self.requests:
            return self
        counts = (field.name for field in fields(self) if field.name != "model")
        return ModelStatistics(
            self.model, **{name: getattr(self, name) - getattr(earlier, name) for name in counts}
        )


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
        """Whether the server answers, and all its models are ready."""

    async def statistics(self, timeout_s: float) -> list[ModelStatistics]:
        """A reading of every loaded model."""

    async def close(self) -> None:
        """Close the connection; requests under way are cancelled."""
