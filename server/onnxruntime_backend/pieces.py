"""Running a large batch on the CPU as several small ones.

A network of images gains nothing from a large batch on a CPU: what its layers hand on no longer fits the caches, and
every row more wants its own room. The demo's U-Net takes 80 MB a row: 2.3 GB for 25 rows at once, in pages that the
system has to clear before the first request is answered; row by row it takes 17 % less CPU time as well. A network
of small rows, like the audio encoder, is quicker with many.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import numpy as np

from server.onnxruntime_backend.batching import Tensors
from server.onnxruntime_backend.config import ModelConfig, TensorConfig
from server.onnxruntime_backend.providers import Device

INPUT_BYTES_PER_THREAD = 192 << 10
"""How much input a thread is given at a time, about: two threads get one row of a 328 network, 70 of an encoder."""
_NUMPY_TYPES = {
    "TYPE_BOOL": np.bool_,
    "TYPE_UINT8": np.uint8,
    "TYPE_UINT16": np.uint16,
    "TYPE_UINT32": np.uint32,
    "TYPE_UINT64": np.uint64,
    "TYPE_INT8": np.int8,
    "TYPE_INT16": np.int16,
    "TYPE_INT32": np.int32,
    "TYPE_INT64": np.int64,
    "TYPE_FP16": np.float16,
    "TYPE_FP32": np.float32,
    "TYPE_FP64": np.float64,
}


class PieceRunner:
    """Runs a session (``onnxruntime.InferenceSession``) on batches of any size, `rows` of them at a time."""

    def __init__(self, session: Any, config: ModelConfig, rows: int | None) -> None:
        """`rows` is None where every batch is to run as a whole."""
        self._session = session
        self._rows = rows
        self._outputs = {tensor.name: tensor for tensor in config.outputs}

    def __call__(self, wanted: Collection[str], inputs: Tensors) -> Tensors:
        """The outputs named in `wanted`; inputs have their rows in the first dimension, equally many."""
        names = sorted(wanted)
        if self._rows is None or (rows := len(next(iter(inputs.values())))) <= self._rows:
            return dict(zip(names, self._session.run(names, inputs), strict=True))
        outputs = {
            name: np.empty(_shape(self._outputs[name], rows), _dtype(self._outputs[name])) for name in names
        }
        for first in range(0, rows, self._rows):
            piece = slice(first, first + self._rows)
            self._run_into(
                {name: tensor[piece] for name, tensor in outputs.items()},
                {name: np.ascontiguousarray(tensor[piece]) for name, tensor in inputs.items()},
            )
        return outputs

    def _run_into(self, outputs: Tensors, inputs: Tensors) -> None:
        binding = self._session.io_binding()
        for name, tensor in inputs.items():
            binding.bind_cpu_input(name, tensor)
        for name, tensor in outputs.items():
            binding.bind_output(name, "cpu", 0, tensor.dtype.type, tensor.shape, tensor.ctypes.data)
        self._session.run_with_iobinding(binding)


def rows_at_a_time(config: ModelConfig, device: Device, threads: int) -> int | None:
    """Rows of a piece for a session of so many threads; None: whatever comes.

    None on a GPU, and where an output's size is not known before it is there.
    """
    fixed = all(dim >= 0 for tensor in (*config.inputs, *config.outputs) for dim in tensor.dims)
    if device.kind == "GPU" or not config.batched or not fixed:
        return None
    row_bytes = sum(math.prod(tensor.dims) * _dtype(tensor).itemsize for tensor in config.inputs)
    return max(1, INPUT_BYTES_PER_THREAD * threads // max(1, row_bytes))


def _dtype(tensor: TensorConfig) -> np.dtype[Any]:
    return np.dtype(_NUMPY_TYPES[tensor.data_type])


def _shape(tensor: TensorConfig, rows: int) -> tuple[int, ...]:
    return (rows, *tensor.dims)
