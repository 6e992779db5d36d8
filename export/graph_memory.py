"""How much memory a run of a graph takes, computed from the graph: nothing is run.

The graph is looked at as onnxruntime sees it when it has optimised it: what constants come to is a constant, an
addition behind a convolution is part of it, and so is an activation, since it works where its input lies.
`row_bytes` is what lives at a time; what an arena makes of it, `scratch_use` tells.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, shape_inference

from export.arena_model import ArenaPolicy, ArenaUse, Step, Value, arena_use
from export.errors import ExportError

CPU_CHANNELS = 16
"""onnxruntime lays values out in blocks of 16 channels on a CPU (8 on older ones), the last of them padded."""

_IN_PLACE = frozenset(
    {
        "Add", "Sub", "Mul", "Div", "Relu", "LeakyRelu", "PRelu", "Sigmoid", "Tanh", "Clip", "HardSwish",
        "HardSigmoid", "BatchNormalization", "Neg", "Abs", "Sqrt", "Erf", "Cast",
    }
)  # fmt: skip
"""Operations whose output may take the place of an input that nobody reads afterwards."""
_VIEWS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout"})
"""Operations whose output is their input, looked at in another way."""
_LAYOUT_KEPT = _IN_PLACE | {"Concat", "Resize", "Upsample", "MaxPool", "AveragePool", "GlobalAveragePool"}
_ROOMY = ArenaPolicy(reuse_shapes=False, region_bytes=1 << 50)
"""With memory for everything, and nothing kept for later: what is live is all there is."""


@dataclass(frozen=True)
class GraphMemory:
    """What a graph's run consists of, for one row: its nodes, what they make, and what is the caller's.

    `weights` is how many numbers its constants hold.
    """

    steps: tuple[Step, ...]
    values: Mapping[str, Value]
    given: frozenset[str]
    weights: int

    def use(self, rows: int, policy: ArenaPolicy) -> ArenaUse:
        """What a run of `rows` rows takes of an arena."""
        return arena_use(self.steps, self.values, self.given, rows, policy)

    @property
    def row_bytes(self) -> int:
        """Bytes of activations that one row takes, at the node where most of them live."""
        return max(1, self.use(1, _ROOMY).live)

    def halved(self) -> GraphMemory:
        """The same in half precision."""
        values = {name: _halved(value) for name, value in self.values.items()}
        return replace(self, values=values)


def row_bytes(path: Path) -> int:
    """Bytes of activations that one row of a batch takes, at the node where most of them live, in the graph's types.

    `ExportError` if the shapes of the graph's values cannot be inferred.
    """
    return read_memory(path).row_bytes


def read_memory(path: Path, channels: int = 1) -> GraphMemory:
    """Read a graph; channels of what convolutions make are rounded up to a multiple of `channels`.

    `ExportError` if the shapes of the graph's values cannot be inferred.
    """
    try:
        model = onnx.load(str(path), load_external_data=False)
        _set_batch(model.graph, 1)
        graph = shape_inference.infer_shapes(model, strict_mode=False, data_prop=True).graph
    except (ValueError, RuntimeError, OSError, DecodeError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(
            f"{path}: the shapes of its values cannot be inferred: {str(error)[:200]}"
        ) from error
    return _memory(graph, channels)


def _halved(value: Value) -> Value:
    if value.kind != TensorProto.FLOAT:
        return value
    return Value(TensorProto.FLOAT16, value.shape, value.nbytes // 2)


def _set_batch(graph: onnx.GraphProto, rows: int) -> None:
    for tensor in (*graph.input, *graph.output):
        dims = tensor.type.tensor_type.shape.dim
        if dims and not dims[0].HasField("dim_value"):
            dims[0].dim_value = rows


def _memory(graph: onnx.GraphProto, channels: int) -> GraphMemory:
    constants = {weight.name for weight in graph.initializer}
    nodes = []
    for node in graph.node:
        if all(name in constants for name in node.input if name):
            constants.update(node.output)
        else:
            nodes.append(node)
    values = dict(_values(graph, _in_blocks(nodes), channels))
    given = frozenset(value.name for value in (*graph.input, *graph.output))
    weights = sum(math.prod(weight.dims) for weight in graph.initializer)
    return GraphMemory(tuple(_steps(nodes, constants, given)), values, given, weights)


def _in_blocks(nodes: list[onnx.NodeProto]) -> set[str]:
    """What convolutions make, and what is made of that without another layout."""
    found: set[str] = set()
    for node in nodes:
        if node.op_type == "Conv" or (node.op_type in _LAYOUT_KEPT and found.intersection(node.input)):
            found.update(node.output)
    return found


def _values(graph: onnx.GraphProto, in_blocks: set[str], channels: int) -> Iterator[tuple[str, Value]]:
    """What nodes make; values of unknown shape are small ones, of shapes and indices."""
    for info in (*graph.input, *graph.value_info, *graph.output):
        tensor = info.type.tensor_type
        shape = [dim.dim_value for dim in tensor.shape.dim]
        if tensor.elem_type == TensorProto.UNDEFINED or not all(dim > 0 for dim in shape):
            continue
        if info.name in in_blocks:
            shape[1] = -(-shape[1] // channels) * channels
        item = helper.tensor_dtype_to_np_dtype(tensor.elem_type).itemsize
        yield info.name, Value(tensor.elem_type, tuple(shape), math.prod(shape) * item)


def _steps(nodes: list[onnx.NodeProto], constants: set[str], given: frozenset[str]) -> Iterator[Step]:
    convolution_of = _joined(nodes, constants, given)
    joined = {convolution.output[0] for convolution in convolution_of.values()}
    for node in nodes:
        if node.output[0] in joined:
            continue
        reads = [name for name in node.input if name and name not in constants]
        in_place = reads if node.op_type in _IN_PLACE else []
        convolution = convolution_of.get(node.output[0])
        if convolution is not None:
            in_place = [name for name in reads if name != convolution.output[0]]
            reads = [name for name in convolution.input if name and name not in constants] + in_place
        yield Step(tuple(reads), tuple(node.output), node.op_type in _VIEWS, tuple(in_place))


def _joined(
    nodes: list[onnx.NodeProto], constants: set[str], given: frozenset[str]
) -> dict[str, onnx.NodeProto]:
    """The convolution that computes an addition too, by what the addition makes: of two, the later one."""
    readers = Counter(name for node in nodes for name in node.input)
    readers.update(given)
    convolutions = {node.output[0]: node for node in nodes if node.op_type == "Conv"}
    found: dict[str, onnx.NodeProto] = {}
    for node in nodes:
        if node.op_type == "Add" and not constants.intersection(node.input):
            terms = [name for name in convolutions if name in node.input and readers[name] == 1]
            if terms:
                found[node.output[0]] = convolutions[terms[-1]]
    return found
