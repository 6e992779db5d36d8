"""Brings a graph of the contract to what TensorRT takes, without changing a number.

TensorRT has uint8 only at the edges of a network: a byte input feeds a Cast and nothing else, and a byte output comes
out of one. (Source: TensorRT's documentation of ``DataType.UINT8``; its parser refuses the rest.)
"""

from __future__ import annotations

import onnx
from onnx import TensorProto

from compositor_backend import contract
from export.errors import ExportError


def engine_graph(name: str, model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model` for TensorRT; `ExportError` about `name` where it does something else with its bytes."""
    prepared = onnx.ModelProto()
    prepared.CopyFrom(model)
    graph = prepared.graph
    _read_shapes_after_the_cast(graph)
    _transpose_before_the_cast(graph)
    del graph.value_info[:]
    onnx.checker.check_model(prepared)
    _check_bytes(name, graph)
    return prepared


def face_as_numbers(model: onnx.ModelProto) -> str:
    """The tensor that holds FACE as floating-point numbers.

    Where a runtime leaves the Cast to another provider, it is the input of what TensorRT computes.
    """
    casts = [
        node for node in model.graph.node if node.op_type == "Cast" and node.input[0] == contract.FACE.name
    ]
    if not casts:
        raise ExportError(f"no Cast reads {contract.FACE.name}; a graph that casts it first is wanted")
    return str(casts[0].output[0])


def _read_shapes_after_the_cast(graph: onnx.GraphProto) -> None:
    """The shape of FACE is also that of its Cast, of which any node may ask."""
    cast = next((n for n in graph.node if n.op_type == "Cast" and n.input[0] == contract.FACE.name), None)
    if cast is None:
        return
    for node in graph.node:
        if node.op_type == "Shape" and node.input[0] == contract.FACE.name:
            node.input[0] = cast.output[0]
    _move_to_front(graph, cast)


def _move_to_front(graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    nodes = [node, *(other for other in graph.node if other is not node)]
    copies = [onnx.NodeProto.FromString(other.SerializeToString()) for other in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _transpose_before_the_cast(graph: onnx.GraphProto) -> None:
    """Cast → Transpose becomes Transpose → Cast: both move or change each value by itself."""
    makers = {tensor: node for node in graph.node for tensor in node.output}
    transpose = makers.get(contract.MOUTH.name)
    if transpose is None or transpose.op_type != "Transpose":
        return
    cast = makers.get(transpose.input[0])
    readers = [node for node in graph.node if transpose.input[0] in node.input]
    if cast is None or cast.op_type != "Cast" or len(readers) > 1:
        return
    between = cast.output[0]
    numbers = cast.input[0]
    # The two trade places in the list as well, so that nodes stay in order of execution.
    first, second = onnx.NodeProto(), onnx.NodeProto()
    first.CopyFrom(transpose)
    second.CopyFrom(cast)
    first.input[0], first.output[0] = numbers, between
    second.input[0], second.output[0] = between, contract.MOUTH.name
    cast.CopyFrom(first)
    transpose.CopyFrom(second)


def _check_bytes(name: str, graph: onnx.GraphProto) -> None:
    """Only Casts may read FACE, and MOUTH has to come out of one."""
    for node in graph.node:
        if contract.FACE.name in node.input and node.op_type != "Cast":
            raise ExportError(
                f"{name} hands {contract.FACE.name} to {node.op_type}; TensorRT wants a Cast first"
            )
        makes_bytes = any(
            attribute.name == "to" and attribute.i == TensorProto.UINT8 for attribute in node.attribute
        )
        if contract.MOUTH.name in node.output and not (node.op_type == "Cast" and makes_bytes):
            raise ExportError(
                f"{name} makes {contract.MOUTH.name} by {node.op_type}; TensorRT wants a Cast last"
            )
