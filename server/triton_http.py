"""Triton's HTTP interface, as far as starting and watching it need it."""

from __future__ import annotations

import errno
import http.client
import json
import math
from contextlib import closing
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from server.errors import TritonRefusedError, TritonSilentError

_UNHEALTHY = "is not healthy"
"""Of Triton 2.51's "Stub process 'compositor_0_0' is not healthy.": it has died, was stopped, or got no CPU in time."""
_OURS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})


@dataclass(frozen=True)
class ModelCounts:
    """What a model has done since Triton started; `rows` are the batch rows of its requests."""

    name: str
    successes: int
    rows: int


class TritonHttp:
    """Short requests to one Triton.

    Every method may raise `TritonSilentError`, where nothing answers in `timeout_s`, and `counts` and `probe`
    `TritonRefusedError`, where the answer is an error. `OSError` says that this process has no file or memory left
    to ask with, which is no silence of Triton's.
    """

    def __init__(self, host: str, port: int, timeout_s: float = 3.0) -> None:
        """Nothing is asked yet."""
        self._host = host
        self._port = port
        self._timeout_s = timeout_s

    def ready(self) -> bool:
        """Whether Triton and all its models are ready."""
        try:
            self._ask("GET", "/v2/health/ready")
        except TritonRefusedError:
            return False
        return True

    def counts(self) -> list[ModelCounts]:
        """Of each model."""
        answer = json.loads(self._ask("GET", "/v2/models/stats"))
        return [
            ModelCounts(
                model["name"],
                model.get("inference_stats", {}).get("success", {}).get("count", 0),
                model.get("inference_count", 0),
            )
            for model in answer["model_stats"]
        ]

    def probe(self, model: str) -> None:
        """Send the smallest request that a Python model's tensors allow.

        Either a result or the model's own refusal proves that it is alive; most models refuse it. `TritonSilentError`
        where nothing comes, or where it is Triton that answers: the process is not healthy, or the queue is full.
        """
        metadata = json.loads(self._ask("GET", f"/v2/models/{model}"))
        inputs = [_smallest(tensor) for tensor in metadata["inputs"]]
        try:
            self._ask("POST", f"/v2/models/{model}/infer", {"inputs": inputs})
        except TritonRefusedError as error:
            if _UNHEALTHY in str(error):
                raise TritonSilentError(str(error)) from error

    def _ask(self, method: str, path: str, body: Any = None) -> bytes:
        headers = {} if body is None else {"Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        connection = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_s)
        with closing(connection):
            try:
                connection.request(method, path, data, headers)
                answer = connection.getresponse()
                text = answer.read()
            except (OSError, http.client.HTTPException) as error:
                if isinstance(error, OSError) and error.errno in _OURS:
                    raise
                raise TritonSilentError(f"{path}: no answer ({error or type(error).__name__})") from error
        if answer.status == HTTPStatus.OK:
            return text
        message = f"{path}: {text.decode(errors='replace')[:500] or answer.reason}"
        if answer.status == HTTPStatus.SERVICE_UNAVAILABLE:
            raise TritonSilentError(message)
        raise TritonRefusedError(message)


def _smallest(tensor: dict[str, Any]) -> dict[str, Any]:
    """Zeros or empty texts, one in each dimension that may have any size."""
    shape = [max(int(size), 1) for size in tensor["shape"]]
    value = "" if tensor["datatype"] == "BYTES" else 0
    return {**tensor, "shape": shape, "data": [value] * math.prod(shape)}
