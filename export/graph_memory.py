"""How much memory a run of a graph takes, computed from the graph.

A value lives from the node that makes it to the last one that reads it; the most that lives at a time is what an arena
must hold. As onnxruntime does it, an activation after a convolution, or after an addition, takes its place: it is fused
with it, or works where its input lies.
"""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import onnx
from onnx import TensorProto, helper, shape_inference

from export.errors import ExportError

_IN_PLACE = frozenset(
    {
        "Add", "Sub", "Mul", "Div", "Relu", "LeakyRelu", "PRelu", "Sigmoid", "Tanh", "Clip", "HardSwish",
        "HardSigmoid", "BatchNormalization", "Neg", "Abs", "Sqrt", "Erf",
    }
)  # fmt: skip
"""Operations whose output may take the place of an input that nobody reads afterwards."""
_VIEWS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout"})
"""Operations whose output is their input, looked at in another way."""


def row_bytes(path: Path) -> int:
    """Bytes of activations that one row of a batch takes, at the node where most of them live, in the graph's types.

    `ExportError` if the shapes of the graph's values cannot be inferred.
    """
    try:
        model = onnx.load(str(path), load_external_data=False)
        _set_batch(model.graph, 1)
        graph = shape_inference.infer_shapes(model, strict_mode=False, data_prop=True).graph
    except (ValueError, RuntimeError, OSError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(
            f"{path}: the shapes of its values cannot be inferred: {str(error)[:200]}"
        ) from error
    return max(1, _peak(graph, _sizes(graph)))


def _set_batch(graph: onnx.GraphProto, rows: int) -> None:
    for tensor in (*graph.input, *graph.output):
        dims = tensor.type.tensor_type.shape.dim
        if dims and not dims[0].HasField("dim_value"):
            dims[0].dim_value = rows


def _sizes(graph: onnx.GraphProto) -> dict[str, int]:
    """Bytes of each value that is no constant; values of unknown shape are small ones, of shapes and indices."""
    sizes = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        dims = [dim.dim_value for dim in tensor.shape.dim]
        if tensor.elem_type == TensorProto.UNDEFINED or not all(dim > 0 for dim in dims):
            continue
        sizes[value.name] = math.prod(dims) * helper.tensor_dtype_to_np_dtype(tensor.elem_type).itemsize
    for weight in graph.initializer:
        sizes.pop(weight.name, None)
    return sizes


def _peak(graph: onnx.GraphProto, sizes: dict[str, int]) -> int:
    """The most bytes that live at a time. Inputs and outputs of the graph are the caller's, and do not count."""
    given = {value.name for value in (*graph.input, *graph.output)}
    readers = Counter(name for node in graph.node for name in node.input if name)
    # Where a value lies: that of a view or an operation in place is another value's.
    place: dict[str, str] = {}
    users: Counter[str] = Counter()
    live = peak = 0
    for node in graph.node:
        shared = _shared_input(node, sizes, place, users, readers, given)
        for name in node.output:
            home = shared or name
            place[name] = home
            if shared is None and name not in given:
                live += sizes.get(name, 0)
            users[home] += readers[name]
        peak = max(peak, live)
        for name in node.input:
            if not name or name not in place:
                continue
            home = place[name]
            users[home] -= 1
            if users[home] == 0 and home not in given:
                live -= sizes.get(home, 0)
    return peak


def _shared_input(
    node: onnx.NodeProto,
    sizes: dict[str, int],
    place: dict[str, str],
    users: Counter[str],
    readers: Counter[str],
    given: set[str],
) -> str | None:
    """Where an input lies whose place the node's output takes; None if it takes one of its own."""
    output = node.output[0]
    if output in given or len([name for name in node.output if readers[name]]) > 1:
        return None
    for name in node.input:
        home = place.get(name)
        if home is None or home in given:
            continue
        if node.op_type in _VIEWS:
            return home
        last = users[home] == 1
        if node.op_type in _IN_PLACE and last and sizes.get(home) == sizes.get(output):
            return home
    return None


def weight_count(path: Path) -> int:
    """Numbers in a graph's constants."""
    graph = onnx.load(str(path), load_external_data=False).graph
    return sum(math.prod(weight.dims) for weight in graph.initializer)
