"""Whether a config describes its ONNX graph: the checks that Triton's C++ backend makes at load."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from server.errors import ModelLoadError
from server.onnxruntime_backend.config import ModelConfig, TensorConfig

ONNX_TYPES = {
    "TYPE_BOOL": "tensor(bool)",
    "TYPE_UINT8": "tensor(uint8)",
    "TYPE_UINT16": "tensor(uint16)",
    "TYPE_UINT32": "tensor(uint32)",
    "TYPE_UINT64": "tensor(uint64)",
    "TYPE_INT8": "tensor(int8)",
    "TYPE_INT16": "tensor(int16)",
    "TYPE_INT32": "tensor(int32)",
    "TYPE_INT64": "tensor(int64)",
    "TYPE_FP16": "tensor(float16)",
    "TYPE_FP32": "tensor(float)",
    "TYPE_FP64": "tensor(double)",
}
"""Triton's names of the data types, and onnxruntime's. Strings are left to the C++ backend."""


@dataclass(frozen=True)
class GraphTensor:
    """An input or output of a graph, with onnxruntime's type name; -1 in `shape` is symbolic."""

    name: str
    onnx_type: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Graph:
    """What a graph takes and gives; `initializers` are inputs that have a default of their own."""

    inputs: tuple[GraphTensor, ...]
    outputs: tuple[GraphTensor, ...]
    initializers: tuple[GraphTensor, ...] = ()


def read_graph(session: Any) -> Graph:
    """What the graph of an ``onnxruntime.InferenceSession`` takes and gives."""
    return Graph(
        inputs=_tensors(session.get_inputs()),
        outputs=_tensors(session.get_outputs()),
        initializers=_tensors(session.get_overridable_initializers()),
    )


def check_graph(config: ModelConfig, graph: Graph) -> None:
    """Raise `ModelLoadError` where `config` says something else than `graph`.

    Inputs: none more and none fewer than the graph's, the data type equal, and each dimension
    equal unless it is symbolic in the graph. Outputs: some may be left out; dimensions equal
    exactly, -1 for a symbolic one.
    With batching every tensor's first dimension is symbolic, and no input is optional.
    """
    _check_input_names(config, graph)
    inputs = _by_name((*graph.inputs, *graph.initializers))
    for tensor in config.inputs:
        _check_tensor(config, "input", tensor, inputs, exact=False)
    outputs = _by_name(graph.outputs)
    for tensor in config.outputs:
        _check_tensor(config, "output", tensor, outputs, exact=True)


def _tensors(nodes: Iterable[Any]) -> tuple[GraphTensor, ...]:
    return tuple(GraphTensor(node.name, node.type, _shape(node.shape)) for node in nodes)


def _shape(shape: Iterable[int | str | None]) -> tuple[int, ...]:
    return tuple(dim if isinstance(dim, int) else -1 for dim in shape)


def _by_name(tensors: Iterable[GraphTensor]) -> dict[str, GraphTensor]:
    return {tensor.name: tensor for tensor in tensors}


def _check_input_names(config: ModelConfig, graph: Graph) -> None:
    optional = [tensor.name for tensor in config.inputs if tensor.optional]
    if config.batched and optional:
        raise ModelLoadError(f"{config.name}: input {optional[0]} is optional; with batching no input can be")
    required = [tensor.name for tensor in config.inputs if not tensor.optional]
    wanted = [tensor.name for tensor in graph.inputs]
    if len(required) != len(wanted):
        raise ModelLoadError(
            f"{config.name}: the config has the inputs {_names(required)}, the graph has {_names(wanted)}"
        )


def _check_tensor(
    config: ModelConfig, kind: str, tensor: TensorConfig, found: Mapping[str, GraphTensor], *, exact: bool
) -> None:
    node = found.get(tensor.name)
    if node is None:
        raise ModelLoadError(
            f"{config.name}: the graph has no {kind} {tensor.name}, which the config names; "
            f"it has {_names(found)}"
        )
    onnx_type = ONNX_TYPES.get(tensor.data_type)
    if onnx_type is None:
        raise ModelLoadError(
            f"{config.name}: {kind} {tensor.name} is {tensor.data_type} in the config, which is not supported"
        )
    if onnx_type != node.onnx_type:
        raise ModelLoadError(
            f"{config.name}: {kind} {tensor.name} is {tensor.data_type} in the config, "
            f"{node.onnx_type} in the graph"
        )
    _check_dims(config, kind, tensor, node, exact=exact)


def _check_dims(
    config: ModelConfig, kind: str, tensor: TensorConfig, node: GraphTensor, *, exact: bool
) -> None:
    if config.batched and (not node.shape or node.shape[0] != -1):
        raise ModelLoadError(
            f"{config.name}: {kind} {tensor.name} has shape {list(node.shape)} in the graph; "
            "for batching its first dimension must be symbolic"
        )
    if not config.batched and not node.shape:
        if any(dim != 1 for dim in tensor.dims):
            raise ModelLoadError(
                f"{config.name}: {kind} {tensor.name} is {list(tensor.dims)} in the config, "
                "a scalar in the graph"
            )
        return
    wanted = (-1, *tensor.dims) if config.batched else tensor.dims
    if not _same_dims(wanted, node.shape, exact=exact):
        raise ModelLoadError(
            f"{config.name}: {kind} {tensor.name} is {list(wanted)} in the config"
            f"{' with its batch dimension' if config.batched else ''}, {list(node.shape)} in the graph"
        )


def _same_dims(config: tuple[int, ...], graph: tuple[int, ...], *, exact: bool) -> bool:
    if len(config) != len(graph):
        return False
    free = () if exact else (-1,)
    return all(theirs in free or ours == theirs for ours, theirs in zip(config, graph, strict=True))


def _names(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
