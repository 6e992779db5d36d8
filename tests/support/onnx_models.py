"""Small ONNX graphs, and the model folders that serve them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx
from onnx import TensorProto, helper

Shape = Sequence[int | str | None]


def doubling_graph(
    shape: Shape = ("batch", 4),
    dtype: int = TensorProto.FLOAT,
    *,
    input_name: str = "X",
    output_name: str = "Y",
) -> onnx.ModelProto:
    """Y = X + X."""
    node = helper.make_node("Add", [input_name, input_name], [output_name])
    return _model([node], [(input_name, dtype, shape)], [(output_name, dtype, shape)])


def lookup_graph() -> onnx.ModelProto:
    """Y[n,1] = TABLE[I[n,1]], TABLE = [10, 20, 30]: an index past 2 makes the run fail."""
    node = helper.make_node("Gather", ["TABLE", "I"], ["Y"], axis=0)
    return _model(
        [node],
        [("I", TensorProto.INT64, ("batch", 1))],
        [("Y", TensorProto.FLOAT, ("batch", 1))],
        [helper.make_tensor("TABLE", TensorProto.FLOAT, [3], [10.0, 20.0, 30.0])],
    )


def summing_graph(first: Shape = ("batch", 2), second: Shape = ("batch", 2)) -> onnx.ModelProto:
    """SUM = A + B, DIFFERENCE = A - B."""
    nodes = [
        helper.make_node("Add", ["A", "B"], ["SUM"]),
        helper.make_node("Sub", ["A", "B"], ["DIFFERENCE"]),
    ]
    inputs = [("A", TensorProto.FLOAT, first), ("B", TensorProto.FLOAT, second)]
    outputs = [("SUM", TensorProto.FLOAT, first), ("DIFFERENCE", TensorProto.FLOAT, first)]
    return _model(nodes, inputs, outputs)


def optional_input_graph() -> onnx.ModelProto:
    """Y = X * FACTOR, where FACTOR is 3 unless it is given."""
    node = helper.make_node("Mul", ["X", "FACTOR"], ["Y"])
    return _model(
        [node],
        [("X", TensorProto.FLOAT, (2,)), ("FACTOR", TensorProto.FLOAT, (1,))],
        [("Y", TensorProto.FLOAT, (2,))],
        [helper.make_tensor("FACTOR", TensorProto.FLOAT, [1], [3.0])],
    )


def constant_output_graph() -> onnx.ModelProto:
    """Y = X and KEY = [[7]], whatever the batch, though its declared shape says otherwise."""
    nodes = [
        helper.make_node("Identity", ["X"], ["Y"]),
        helper.make_node("Identity", ["SEVEN"], ["KEY"]),
    ]
    return _model(
        nodes,
        [("X", TensorProto.FLOAT, ("batch", 4))],
        [("Y", TensorProto.FLOAT, ("batch", 4)), ("KEY", TensorProto.INT64, ("batch", 1))],
        [helper.make_tensor("SEVEN", TensorProto.INT64, [1, 1], [7])],
    )


def write_model(repository: Path, name: str, graph: onnx.ModelProto, config: str) -> Path:
    """A model folder with version 1 of `graph`; `config` lacks nothing but the name."""
    folder = repository / name
    (folder / "1").mkdir(parents=True)
    onnx.save(graph, folder / "1" / "model.onnx")
    (folder / "config.pbtxt").write_text(f'name: "{name}"\n{config}')
    return folder


DOUBLING_CONFIG = """
backend: "onnxruntime"
max_batch_size: 16
input [ { name: "X" data_type: TYPE_FP32 dims: [ 4 ] } ]
output [ { name: "Y" data_type: TYPE_FP32 dims: [ 4 ] } ]
instance_group [ { count: 1 kind: KIND_CPU } ]
dynamic_batching { max_queue_delay_microseconds: 200000 preferred_batch_size: [ 16 ] }
"""


def _model(
    nodes: list[onnx.NodeProto],
    inputs: Sequence[tuple[str, int, Shape]],
    outputs: Sequence[tuple[str, int, Shape]],
    initializers: Sequence[onnx.TensorProto] = (),
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(*entry) for entry in inputs],
        [helper.make_tensor_value_info(*entry) for entry in outputs],
        list(initializers),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
