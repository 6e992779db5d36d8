"""A stand-in for `triton_python_backend_utils`, which exists inside a Triton stub process alone."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass, field
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
    UNKNOWN, INTERNAL, NOT_FOUND, INVALID_ARG = range(4)

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


class Logger:
    errors: ClassVar[list[str]] = []

    @classmethod
    def log_error(cls, message: str) -> None:
        cls.errors.append(message)


@dataclass
class Request:
    """An inference request, made by a test."""

    arrays: dict[str, NDArray[Any]]
    outputs: tuple[str, ...]

    def inputs(self) -> list[Tensor]:
        return [Tensor(name, np.ascontiguousarray(array)) for name, array in self.arrays.items()]

    def requested_output_names(self) -> list[str]:
        return list(self.outputs)


def import_bridge() -> ModuleType:
    """`compositor_backend.triton`, on this stand-in."""
    sys.modules.setdefault("triton_python_backend_utils", sys.modules[__name__])
    return importlib.import_module("compositor_backend.triton")
