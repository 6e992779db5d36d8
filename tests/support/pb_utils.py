"""A stand-in for `triton_python_backend_utils`, which exists inside a Triton stub process alone."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass, field
from queue import Queue
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray


class Tensor:
    def __init__(self, name: str, array: NDArray[Any]) -> None:
        assert array.flags.c_contiguous
        assert array.dtype.kind != "S", "numpy's bytes lose trailing zeros"
        self._name, self._array = name, array

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> NDArray[Any]:
        return self._array


class TritonError(Exception):
    UNKNOWN, INTERNAL, NOT_FOUND, INVALID_ARG, UNAVAILABLE = range(5)

    def __init__(self, message: str, code: int = INTERNAL) -> None:
        self._message, self._code = message, code

    def message(self) -> str:
        return self._message

    def code(self) -> int:
        return self._code


@dataclass
class InferenceResponse:
    output_tensors: list[Tensor] = field(default_factory=list)
    error: TritonError | None = None

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        assert self.error is None, self.error.message()
        return {tensor.name(): tensor.as_numpy() for tensor in self.output_tensors}


TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1


class Logger:
    errors: ClassVar[list[str]] = []
    warnings: ClassVar[list[str]] = []

    @classmethod
    def log_warn(cls, message: str) -> None:
        cls.warnings.append(message)

    @classmethod
    def log_error(cls, message: str) -> None:
        cls.errors.append(message)


@dataclass
class Request:
    """An inference request, made by a test."""

    arrays: dict[str, NDArray[Any]]
    outputs: tuple[str, ...]
    cancelled: bool = False
    sent: Queue[InferenceResponse] = field(default_factory=Queue)

    def is_cancelled(self) -> bool:
        return self.cancelled

    def get_response_sender(self) -> Request:
        return self

    def send(self, response: InferenceResponse, flags: int) -> None:
        assert flags == TRITONSERVER_RESPONSE_COMPLETE_FINAL
        self.sent.put(response)

    def inputs(self) -> list[Tensor]:
        return [Tensor(name, np.ascontiguousarray(array)) for name, array in self.arrays.items()]

    def requested_output_names(self) -> list[str]:
        return list(self.outputs)


class MetricFamily:
    """What a model tells of itself: values by metric name, in `values`."""

    COUNTER, GAUGE = "counter", "gauge"
    values: ClassVar[dict[str, float]] = {}

    def __init__(self, name: str, description: str, kind: str) -> None:
        assert description
        self._name, self._kind = name, kind

    def Metric(self, labels: dict[str, str]) -> MetricFamily:  # noqa: N802 - Triton's name
        assert set(labels) == {"model", "instance"}
        self.values[self._name] = 0.0
        return self

    def increment(self, value: float) -> None:
        assert value >= 0
        self.values[self._name] += value

    def set(self, value: float) -> None:
        assert self._kind == self.GAUGE
        self.values[self._name] = value


def import_bridge() -> ModuleType:
    """`compositor_backend.triton`, on this stand-in."""
    sys.modules.setdefault("triton_python_backend_utils", sys.modules[__name__])
    return importlib.import_module("compositor_backend.triton")
