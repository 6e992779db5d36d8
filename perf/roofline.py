"""The floor that memory sets: how many bytes a network has to move, and how many the device moves in a second."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, shape_inference

from compositor_backend.errors import SettingsError

Provider = str
"""onnxruntime's name of where it computes, e.g. "CUDAExecutionProvider"."""
CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
_HEAVY = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_COPIED_BYTES = 256 << 20
_FLOAT_BYTES = 4


@dataclass(frozen=True)
class Traffic:
    """Bytes that a network cannot avoid moving: `a_frame` for each frame, `a_run` (its weights) for each execution."""

    a_frame: int
    a_run: int

    def seconds(self, frames: int, bytes_per_s: float) -> float:
        """The least time of a run on so many frames on a device of that bandwidth."""
        return (self.a_run + frames * self.a_frame) / bytes_per_s


def traffic(path: Path) -> Traffic:
    """What the convolutions and products of a graph of the contract read and write, weights once a run.

    Everything between them (activations, sums, resampling) counts as done in passing, as a perfect compiler would.
    """
    model = shape_inference.infer_shapes(onnx.load(str(path)))
    weights = {tensor.name: math.prod(tensor.dims) * _FLOAT_BYTES for tensor in model.graph.initializer}
    sizes = dict(_row_bytes(model.graph))
    a_frame = a_run = 0
    for node in model.graph.node:
        if node.op_type not in _HEAVY:
            continue
        for name in (*node.input, *node.output):
            a_run += weights.get(name, 0)
            a_frame += 0 if name in weights else sizes.get(name, 0)
    return Traffic(a_frame, a_run)


def bandwidth(provider: Provider, rounds: int = 20, copied_bytes: int = _COPIED_BYTES) -> float:
    """Bytes a second that the device reads and writes when it copies: the best of `rounds`."""
    side = helper.make_tensor_value_info("x", TensorProto.FLOAT, [copied_bytes // _FLOAT_BYTES])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [copied_bytes // _FLOAT_BYTES])
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "copy", [side], [out])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = open_session(model.SerializeToString(), provider)
    feed = {"x": np.ones(copied_bytes // _FLOAT_BYTES, np.float32)}
    return 2 * copied_bytes / min(_run_seconds(session, feed, ["y"], provider, rounds))


def network_seconds(path: Path, provider: Provider, frames: int, rounds: int = 20) -> float:
    """The median time of a run of a U-Net on so many frames, its tensors on the device already."""
    session = open_session(path.read_bytes(), provider)
    random = np.random.default_rng(0)
    feed: dict[str, np.ndarray[Any, Any]] = {}
    for tensor in session.get_inputs():
        shape = (frames, *tensor.shape[1:])
        is_face = tensor.type == "tensor(uint8)"
        feed[tensor.name] = (
            random.integers(0, 256, shape, np.uint8) if is_face else random.standard_normal(shape, np.float32)
        )
    return float(np.median(_run_seconds(session, feed, ["MOUTH"], provider, rounds)))


def open_session(model: bytes, provider: Provider) -> Any:
    """A session there; `SettingsError` where onnxruntime would quietly compute on the CPU."""
    if provider not in onnxruntime.get_available_providers():
        raise SettingsError(f"this onnxruntime has no {provider}")
    if provider != CPU and hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()
    session = onnxruntime.InferenceSession(model, providers=[provider])
    if session.get_providers()[0] != provider:
        raise SettingsError(f"onnxruntime does not start {provider} here")
    return session


def _run_seconds(
    session: Any,
    feed: dict[str, np.ndarray[Any, Any]],
    outputs: Sequence[str],
    provider: Provider,
    rounds: int,
) -> list[float]:
    """How long each of `rounds` runs takes, after one that does not count."""
    device = "cpu" if provider == CPU else "cuda"
    binding = session.io_binding()
    for name, array in feed.items():
        binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array, device, 0))
    for name in outputs:
        binding.bind_output(name, device, 0)
    taken = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        taken.append(time.perf_counter() - started)
    return taken[1:]


def _row_bytes(graph: onnx.GraphProto) -> Iterator[tuple[str, int]]:
    """Every tensor whose shape is known but for the batch, and its bytes for one frame."""
    for info in (*graph.value_info, *graph.input, *graph.output):
        kind = info.type.tensor_type
        dims = [dim.dim_value for dim in kind.shape.dim]
        itemsize = helper.tensor_dtype_to_np_dtype(kind.elem_type).itemsize
        if len(dims) > 1 and all(dims[1:]):
            yield info.name, math.prod(dims[1:]) * itemsize
