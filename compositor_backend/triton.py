"""Between Triton's Python backend and numpy: the only module that knows `triton_python_backend_utils`.

That module exists inside a Triton stub process alone.
"""

from __future__ import annotations

import json
import os
import traceback
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from compositor_backend.errors import BusyError, DamagedAvatarError, RequestError, TensorError
from compositor_backend.memory import Rest
from compositor_backend.settings import Settings, read_settings

Tensors = dict[str, NDArray[Any]]
Handler = Callable[[Tensors, frozenset[str]], Mapping[str, NDArray[Any]]]
"""Answers one request: input tensors by name, and the names of the outputs asked for, to output tensors by name.

BYTES tensors are object arrays of `bytes`. Optional inputs that did not come are absent.
Inputs are views of Triton's memory: not to be written to, nor kept.
"""


_REST = Rest()


def model_settings(args: Mapping[str, str]) -> Settings:
    """The settings of a model from the `args` that Triton hands to ``initialize``."""
    config = json.loads(args["model_config"])
    parameters = {key: value["string_value"] for key, value in config.get("parameters", {}).items()}
    return read_settings(os.environ, parameters, Path(args["model_repository"]))


def log_warning(text: str) -> None:
    """Write a line to Triton's log."""
    pb_utils.Logger.log_warn(text)


def serve(requests: Iterable[Any], handle: Handler) -> list[Any]:
    """One response for each request, in order; a request that fails takes no other with it."""
    responses = [_respond(Exchange(request), handle) for request in requests]
    _REST.worked()
    return responses


def _respond(exchange: Exchange, handle: Handler) -> Any:
    try:
        return exchange.response(handle(exchange.inputs, exchange.wanted))
    except Exception as error:  # noqa: BLE001 - the server's boundary: whatever it was, the others must be served
        return exchange.failure(error)


class Inputs(Tensors):
    """The tensors of a request. Triton lets pass that one is missing if the model has others that are optional."""

    def __missing__(self, name: str) -> NDArray[Any]:
        raise TensorError(f"{name} is missing; every request must have it")


class Exchange:
    """One request, and how it is answered: by what ``execute`` returns, or later, from any thread, once deferred."""

    def __init__(self, request: Any) -> None:
        self._request = request
        self._sender: Any = None
        self.inputs: Tensors = Inputs((tensor.name(), tensor.as_numpy()) for tensor in request.inputs())
        self.wanted = frozenset(request.requested_output_names())

    def response(self, outputs: Mapping[str, NDArray[Any]]) -> Any:
        """What answers the request: those of the tensors that it asks for."""
        tensors = [_to_tensor(name, outputs[name]) for name in self._request.requested_output_names()]
        return pb_utils.InferenceResponse(tensors)

    def failure(self, error: Exception) -> Any:
        """What answers a request that failed.

        A `RequestError` is answered with its text, as an invalid argument, a `BusyError` as unavailable. Anything else
        is the server's fault: it goes to the log whole, under an id, and the caller gets the id; of a
        `DamagedAvatarError` the text as well.
        """
        if isinstance(error, RequestError):
            return _refuse(str(error), pb_utils.TritonError.INVALID_ARG)
        if isinstance(error, BusyError):
            return _refuse(str(error), pb_utils.TritonError.UNAVAILABLE)
        if isinstance(error, DamagedAvatarError):
            fault_id = _log_fault(str(error.__cause__))
            return _refuse(
                f"{error} (fault {fault_id}); its log says what is wrong", pb_utils.TritonError.INTERNAL
            )
        fault_id = _log_fault("".join(traceback.format_exception(error)))
        message = f"The server failed to answer this request; its log has the cause under fault {fault_id}."
        return _refuse(message, pb_utils.TritonError.INTERNAL)

    def defer(self) -> None:
        """Answer by `send`; ``execute`` returns None for the request. Inputs are copied, so that they may be kept."""
        self._sender = self._request.get_response_sender()
        self.inputs = Inputs((name, array.copy()) for name, array in self.inputs.items())

    def send(self, response: Any) -> None:
        """Answer a request that was deferred."""
        self._sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return bool(self._request.is_cancelled())


class Metrics:
    """Figures on Triton's metrics port, each with the labels ``model`` and ``instance``."""

    def __init__(self, args: Mapping[str, str]) -> None:
        self._labels = {"model": args["model_name"], "instance": args["model_instance_name"]}
        self._families: list[Any] = []

    def counter(self, name: str, description: str) -> Callable[[float], None]:
        """A new counter, as a function that sets its value, which never falls."""
        metric, last = self._metric(name, description, pb_utils.MetricFamily.COUNTER), 0.0

        def advance(value: float) -> None:
            nonlocal last
            if value > last:
                metric.increment(value - last)
                last = value

        return advance

    def gauge(self, name: str, description: str) -> Callable[[float], None]:
        """A new gauge, as a function that sets its value."""
        metric = self._metric(name, description, pb_utils.MetricFamily.GAUGE)
        return lambda value: metric.set(value)

    def _metric(self, name: str, description: str, kind: Any) -> Any:
        family = pb_utils.MetricFamily(name=name, description=description, kind=kind)
        self._families.append(family)  # a family that is collected takes its metrics with it
        return family.Metric(labels=self._labels)


def _to_tensor(name: str, array: NDArray[Any]) -> Any:
    return pb_utils.Tensor(name, np.ascontiguousarray(array))


def _refuse(message: str, code: int) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))


def _log_fault(cause: str) -> str:
    """Logs what went wrong under an id, and gives the id."""
    fault_id = uuid.uuid4().hex[:12]
    pb_utils.Logger.log_error(f"fault {fault_id}: {cause}")
    return fault_id
