"""ONNX graphs of a few nodes, for what opens and runs them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from compositor_backend.graph_file import GraphFile


def adding_graph(value: float = 1.0, width: int = 4, weights: int = 0) -> onnx.ModelProto:
    """Y = X + `value`, float32 [B, width]; `weights` floats make the file larger."""
    ballast = np.zeros(max(1, weights), np.float32)
    return _model(
        [
            helper.make_node("ReduceSum", ["ballast"], ["nothing"], keepdims=0),
            helper.make_node("Add", ["X", "value"], ["more"]),
            helper.make_node("Add", ["more", "nothing"], ["Y"]),
        ],
        {"value": np.array(value, np.float32), "ballast": ballast},
        width,
    )


def endless_graph(width: int = 4) -> onnx.ModelProto:
    """Opens, and never comes to the end of its first run: a loop of 2^62 turns."""
    return _model(
        [*endless_loop("zero", "turns"), helper.make_node("Add", ["X", "turns"], ["Y"])],
        {"zero": np.array(0, np.float32)},
        width,
    )


def endless_loop(start: str, result: str) -> list[onnx.NodeProto]:
    """Nodes that count 2^62 turns on from the number `start`, float32 []."""
    one = numpy_helper.from_array(np.array(1, np.float32), "one turn")
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_on"], ["go_on_out"]),
            helper.make_node("Add", ["turns_in", "one turn"], ["turns_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("turns_in", TensorProto.FLOAT, []),
        ],
        [
            helper.make_tensor_value_info("go_on_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("turns_out", TensorProto.FLOAT, []),
        ],
        [one],
    )
    return [
        _constant("all turns", np.array(2**62)),
        _constant("at first", np.array(True)),
        helper.make_node("Loop", ["all turns", "at first", start], [result], body=body),
    ]


def _constant(name: str, value: NDArray[np.generic]) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value))


def write_graph(path: Path, model: onnx.ModelProto, row_bytes: int = 1000) -> GraphFile:
    """The graph at `path`, as a manifest would describe it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = model.SerializeToString()
    path.write_bytes(data)
    return GraphFile(path, hashlib.sha256(data).hexdigest(), len(data), row_bytes)


def _model(
    nodes: Sequence[onnx.NodeProto], constants: dict[str, NDArray[np.generic]], width: int
) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["batch", width])],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, ["batch", width])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
