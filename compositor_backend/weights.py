"""Takes the weights out of an ONNX graph, so that networks of one architecture share a session.

On a GPU a session is dear: cuDNN builds each convolution anew for each session and number of rows, seven seconds for a
U-Net in half precision on an H100. Where the weights are inputs, one session serves every network of its architecture:
changing the network is handing over other pointers, costs nothing, and gives the same picture.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compositor_backend.errors import NetworkError

ALIGNMENT_BYTES = 256
"""Of each tensor in the buffer, as CUDA's own allocations."""
_READERS = frozenset(
    {
        "Add",
        "BatchNormalization",
        "Conv",
        "ConvTranspose",
        "Gemm",
        "InstanceNormalization",
        "MatMul",
        "Mul",
        "PRelu",
    }
)
"""What computes the same whether a float comes from the graph or from outside. Others, `Resize` say, want constants."""


@dataclass(frozen=True)
class Tensor:
    """Where a weight lies in the buffer, in bytes from its start, and what it is."""

    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class SplitGraph:
    """An architecture and the weights of one network of it.

    `model` is the graph with the weights as further inputs, the same bytes for every network of the architecture;
    `sha256` (hex) is theirs. `buffer` is uint8 [n]: all weights, one after the other, each where `tensors` says.
    """

    model: bytes
    sha256: str
    tensors: dict[str, Tensor]
    buffer: NDArray[np.uint8]


def split_weights(data: bytes) -> SplitGraph:
    """Take the weights out of a serialized graph; `NetworkError` if it is none."""
    # Only where there is a GPU: serving on a CPU does not need it.
    import onnx
    from google.protobuf.message import DecodeError
    from onnx import helper, numpy_helper

    try:
        model = onnx.load_model_from_string(data)
    except DecodeError as error:
        raise NetworkError(f"a graph is no ONNX file: {error}") from error
    graph = model.graph
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    _fold(graph, arrays)
    weights = {name: arrays[name] for name in _weights(graph, arrays)}
    del graph.initializer[:]
    # By name: in which order a file holds them does not make another architecture.
    for name in sorted(arrays.keys() - weights.keys()):
        graph.initializer.append(numpy_helper.from_array(arrays[name], name))
    for name in sorted(weights):
        kind = helper.np_dtype_to_tensor_dtype(weights[name].dtype)
        graph.input.append(helper.make_tensor_value_info(name, kind, weights[name].shape))
    # What else tells one network from another.
    del model.metadata_props[:]
    model.doc_string = graph.doc_string = ""
    text = model.SerializeToString(deterministic=True)
    tensors, buffer = _packed({name: weights[name] for name in sorted(weights)})
    return SplitGraph(text, hashlib.sha256(text).hexdigest(), tensors, buffer)


def _weights(graph: Any, arrays: dict[str, NDArray[Any]]) -> set[str]:
    """The floats that convolutions and their like read, and the network's key, which is expanded to its rows."""
    wanted = set(arrays)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                wanted.difference_update(_reads(attribute.g))
        for place, name in enumerate(node.input):
            if name not in wanted:
                continue
            is_weight = np.issubdtype(arrays[name].dtype, np.floating) and node.op_type in _READERS
            is_key = node.op_type == "Expand" and place == 0
            if not is_weight and not is_key:
                wanted.discard(name)
    return wanted


def _fold(graph: Any, arrays: dict[str, NDArray[Any]]) -> None:
    """Cast stored weights here, once, instead of in each run; and undo that equal ones are stored once."""
    from onnx import helper

    left = []
    for node in graph.node:
        if node.op_type not in ("Cast", "Identity") or node.input[0] not in arrays:
            left.append(node)
            continue
        array = arrays[node.input[0]]
        for attribute in node.attribute:  # only Cast has one
            array = array.astype(helper.tensor_dtype_to_np_dtype(attribute.i))
        arrays[node.output[0]] = array
    del graph.node[:]
    graph.node.extend(left)
    for name in arrays.keys() - set(_reads(graph)):
        del arrays[name]


def _reads(graph: Any) -> Iterator[str]:
    """Every name that a node reads, those of loops and branches included."""
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _reads(attribute.g)


def _packed(weights: dict[str, NDArray[Any]]) -> tuple[dict[str, Tensor], NDArray[np.uint8]]:
    tensors, end = {}, 0
    for name, array in weights.items():
        tensors[name] = Tensor(end, array.dtype, array.shape)
        end += -(-array.nbytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
    buffer = np.zeros(end, np.uint8)
    for name, array in weights.items():
        start = tensors[name].offset
        buffer[start : start + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return tensors, buffer
