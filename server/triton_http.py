"""Triton's HTTP interface, as far as starting and watching it need it."""

from __future__ import annotations

import errno
import http.client
import json
import math
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from server.errors import TritonRefusedError, TritonSilentError

_DEAD_STUB = "is not healthy"
"""Of Triton 2.51's "Stub process 'compositor_0_0' is not healthy."."""
_OURS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})


@dataclass(frozen=True)
class ModelCounts:
    """What a loaded model has done since it was loaded; `rows` are the batch rows of its requests."""

    name: str
    successes: int
    rows: int


class TritonHttp:
    """Short requests to one Triton.

    Every method may raise `TritonSilentError`, where nothing answers in `timeout_s`, and all but `ready`
    `TritonRefusedError`, where the answer is an error. `OSError` says that this process has no file or memory left
    to ask with, which is no silence of Triton's.
    """

    def __init__(
        self,
        host: str,
        port: int,
        metrics_port: int,
        timeout_s: float = 3.0,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """`headers` go with every request: the keys of a Triton that restricts its HTTP interface."""
        self._host = host
        self._port = port
        self._metrics_port = metrics_port
        self._timeout_s = timeout_s
        self._headers = {name: value.encode() for name, value in (headers or {}).items()}

    def ready(self, model: str | None = None) -> bool:
        """Whether Triton, or the model, is ready."""
        try:
            self._ask("GET", "/v2/health/ready" if model is None else f"/v2/models/{model}/ready")
        except TritonRefusedError:
            return False
        return True

    def counts(self) -> list[ModelCounts]:
        """Of each model that is loaded."""
        answer = json.loads(self._ask("GET", "/v2/models/stats"))
        return [
            ModelCounts(
                model["name"],
                model.get("inference_stats", {}).get("success", {}).get("count", 0),
                model.get("inference_count", 0),
            )
            for model in answer["model_stats"]
        ]

    def lives(self, model: str) -> bool:
        """Whether the processes of a model answer; raises only if they do not within the time allowed.

        They are sent the smallest request that the model's tensors allow. Most models refuse it, and that is an answer.
        """
        metadata = json.loads(self._ask("GET", f"/v2/models/{model}"))
        try:
            inputs = [_smallest(tensor) for tensor in metadata["inputs"]]
            self._ask("POST", f"/v2/models/{model}/infer", {"inputs": inputs})
        except TritonRefusedError as error:
            return _DEAD_STUB not in str(error)
        return True

    def _ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        timeout_s: float | None = None,
        *,
        port: int | None = None,
    ) -> bytes:
        headers: dict[str, str | bytes] = {**self._headers}
        if body is not None:
            headers["Content-Type"] = "application/json"
        data = None if body is None else json.dumps(body).encode()
        connection = http.client.HTTPConnection(
            self._host,
            self._port if port is None else port,
            timeout=self._timeout_s if timeout_s is None else timeout_s,
        )
        with closing(connection):
            try:
                connection.request(method, path, data, headers)
                answer = connection.getresponse()
                text = answer.read()
            except (OSError, http.client.HTTPException) as error:
                if isinstance(error, OSError) and error.errno in _OURS:
                    raise
                raise TritonSilentError(f"{path} is not answered: {error or type(error).__name__}") from error
        if answer.status != http.client.OK:
            raise TritonRefusedError(f"{path}: {text.decode(errors='replace')[:500] or answer.reason}")
        return text


def _smallest(tensor: dict[str, Any]) -> dict[str, Any]:
    """Noughts or empty texts, one in each dimension that may have any size."""
    shape = [max(int(size), 1) for size in tensor["shape"]]
    value = "" if tensor["datatype"] == "BYTES" else 0
    return {**tensor, "shape": shape, "data": [value] * math.prod(shape)}
