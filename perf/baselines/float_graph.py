"""The served network as other systems serve it: floats in, floats out, and everything else left to the caller."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from compositor_backend import contract
from compositor_backend.contract import Model, Tensor
from compositor_backend.errors import LipstreamError
from compositor_backend.geometry import FAMILIES
from export.served_graph import inspect_network
from perf import null_network

INPUT = "INPUT"
"""float32 [B,6,S,S] RGB in 0…1: what the network sees of the face box, and the same with the mask black."""
OUTPUT = "OUTPUT"
"""float32 [B,3,S,S] RGB in 0…1."""


class BaselineError(LipstreamError):
    """A baseline that cannot be built or measured; the message is one sentence for the user."""


def float_model(name: str, network_px: int, audio_shape: tuple[int, ...]) -> Model:
    """The tensors of such a network as a Triton model."""
    visual = Tensor(INPUT, "FP32", (-1, 6, network_px, network_px))
    drawn = Tensor(OUTPUT, "FP32", (-1, 3, network_px, network_px))
    return Model(name, (visual, contract.audio_tensor(audio_shape)), (drawn,))


def float_graph(served: Path) -> onnx.ModelProto:
    """The network in `served`, a graph of the wire contract as the exporter writes it, without what serving added.

    The nodes that make the visual input of FACE and MOUTH of the drawing are cut off and the rest is left as it
    is, weights included: it reads `INPUT` and AUDIO and gives `OUTPUT`. The colours stay RGB, since the exporter
    turned the weights; that the first layer wants 0…255 is undone. Of a null network that computes nothing, the
    same is made: OUTPUT is INPUT's first three channels. `BaselineError` if the graph has another form.
    """
    network = inspect_network(served)
    model = float_model("network", FAMILIES[network.family].network_px, network.audio_shape)
    graph = onnx.load(str(served))
    if network.key == null_network.KEY:
        del graph.graph.node[:]
        graph.graph.node.extend(_null_nodes())
        graph.graph.initializer.extend(_null_constants())
    else:
        _expose_input(served, graph.graph)
        _expose_output(served, graph.graph)
    _declare(graph.graph, model)
    _drop_unused(graph.graph)
    onnx.checker.check_model(graph)
    return graph


def _null_nodes() -> list[onnx.NodeProto]:
    return [helper.make_node("Slice", [INPUT, "first", "end", "channels"], [OUTPUT])]


def _null_constants() -> list[onnx.TensorProto]:
    values = {"first": 0, "end": 3, "channels": 1}
    return [numpy_helper.from_array(np.array([value]), name) for name, value in values.items()]


# --- cutting ---
def _expose_input(served: Path, graph: onnx.GraphProto) -> None:
    """Let the first convolution read `INPUT`: its weights, made for 0…255, are brought to 0…1."""
    reference = _reader(served, graph, contract.FACE.name, "Cast").output[0]
    both = _reader(served, graph, reference, "Concat").output[0]
    first = _reader(served, graph, both, "Conv")
    weights = numpy_helper.from_array(
        _constant(served, graph, first.input[1]) * np.float32(255), "unit_weights"
    )
    graph.initializer.append(weights)
    first.input[0], first.input[1] = INPUT, weights.name


def _expose_output(served: Path, graph: onnx.GraphProto) -> None:
    """Let the tensor that MOUTH is scaled, cast and turned from be `OUTPUT`."""
    at = contract.MOUTH.name
    for kind in ("Transpose", "Cast", "Mul"):
        at = _writer(served, graph, at, kind).input[0]
    _writer(served, graph, at, "Sigmoid").output[0] = OUTPUT


def _reader(served: Path, graph: onnx.GraphProto, tensor: str, kind: str) -> onnx.NodeProto:
    return _only(served, [n for n in graph.node if n.op_type == kind and tensor in n.input], kind, tensor)


def _writer(served: Path, graph: onnx.GraphProto, tensor: str, kind: str) -> onnx.NodeProto:
    return _only(served, [n for n in graph.node if n.op_type == kind and tensor in n.output], kind, tensor)


def _only(served: Path, found: list[onnx.NodeProto], kind: str, tensor: str) -> onnx.NodeProto:
    if len(found) != 1:
        raise BaselineError(
            f"{served} has {len(found)} nodes {kind} at {tensor}; one is wanted, as the exporter writes it"
        )
    return found[0]


def _constant(served: Path, graph: onnx.GraphProto, name: str) -> NDArray[Any]:
    """A weight as float32; the demo's are stored as halves and cast in the graph."""
    stored = {tensor.name: tensor for tensor in graph.initializer}
    if name not in stored:
        name = _writer(served, graph, name, "Cast").input[0]
    if name not in stored:
        raise BaselineError(f"{served} computes the weight {name}; a stored one is wanted")
    return numpy_helper.to_array(stored[name]).astype(np.float32)


_ELEMENTS = {"FP32": TensorProto.FLOAT}


def _declare(graph: onnx.GraphProto, model: Model) -> None:
    for declared, tensors in ((graph.input, model.inputs), (graph.output, model.outputs)):
        del declared[:]
        for tensor in tensors:
            shape: list[str | int] = ["batch", *tensor.shape[1:]]
            declared.append(helper.make_tensor_value_info(tensor.name, _ELEMENTS[tensor.dtype], shape))


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Keep the nodes and weights that the outputs depend on."""
    wanted = {tensor.name for tensor in graph.output}
    kept = []
    # Nodes come in the order in which they can be computed.
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            kept.append(node)
    del graph.node[:]
    graph.node.extend(reversed(kept))
    weights = [tensor for tensor in graph.initializer if tensor.name in wanted]
    del graph.initializer[:]
    graph.initializer.extend(weights)
    del graph.value_info[:]
