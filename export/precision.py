"""Half precision: a graph's weights and arithmetic in float16, its inputs and outputs as they are.

What stands before the first and after the last convolution of a path stays in float32: bytes in, mask, ×255 and
the truncation to bytes cost next to nothing, and half precision would be off by a step there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from compositor_backend.geometry import FAMILIES
from export.atomic import replacing
from export.errors import ExportError
from export.picture_parity import (
    PictureLimits,
    PictureParity,
    Run,
    compare,
    run_bytes,
    run_graph,
    trial_inputs,
    worse,
)
from export.served_graph import ServedNetwork, inspect_network, open_bytes, run

LIMITS = PictureLimits()
HALF_MAX = 65_504.0
"""The largest number that float16 holds."""
HEADROOM = 2.0
"""How much larger than on the pictures tried here values may get on others, before they overflow."""
PRECISION_KEY = "lipstream.precision"
TRIAL_BATCHES = (1, 3)

_CONVOLUTIONS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


def precision_of(model: onnx.ModelProto) -> str:
    """``fp16`` if a graph computes its convolutions in half precision, ``fp32`` otherwise.

    One that only stores its weights so, and casts them back, computes in fp32.
    """
    graph = model.graph
    halves = {weight.name for weight in graph.initializer if weight.data_type == TensorProto.FLOAT16}
    computed = any(node.op_type in _CONVOLUTIONS and halves.intersection(node.input) for node in graph.node)
    return "fp16" if computed else "fp32"


def halve(
    source: Path, out: Path, limits: PictureLimits = LIMITS, called: Path | None = None
) -> PictureParity:
    """Write the float16 graph of the float32 U-Net in `source` to `out`, which may be the same file.

    Nothing is written, and an `ExportError` (naming the graph as `called`) says why, if a value gets larger than
    float16 holds, or if the pictures are further from those of `source` than `limits`.
    """
    name = called or out
    network = inspect_network(source, called)
    model = onnx.load(str(source))
    if precision_of(model) == "fp16":
        raise ExportError(f"{name} is in half precision already; expected float32")
    _unfold_stored(model.graph)
    if not any(_between(model.graph)):
        raise ExportError(f"{name} has no convolution; there is nothing to compute in fp16")
    check_range(name, model, network)
    judge = _Judge(f"{name} in fp16", source, network, limits)
    rounded = judge.compare(run_bytes(name, rounded_model(model).SerializeToString()))
    halved = half_model(model)
    with replacing(out) as draft:
        onnx.save(halved, str(draft))
        return worse(rounded, judge.compare(run_graph(draft)))


class _Judge:
    """Compares graphs with the float32 graph in `source`, which is run once only."""

    def __init__(self, what: str, source: Path, network: ServedNetwork, limits: PictureLimits) -> None:
        self._what = what
        self._limits = limits
        self._inputs = list(trial_inputs(network_px(network), network.audio_shape, TRIAL_BATCHES))
        reference = run_graph(source)
        self._answers = {len(given["FACE"]): reference(given) for given in self._inputs}

    def compare(self, candidate: Run) -> PictureParity:
        """The parity of a graph; `ExportError` if it is too far off."""
        return compare(
            self._what,
            candidate,
            lambda given: self._answers[len(given["FACE"])],
            iter(self._inputs),
            self._limits,
        )


def rounded_model(model: onnx.ModelProto) -> onnx.ModelProto:
    """A float32 graph in which every value that float16 would hold is rounded as float16 would round it.

    onnxruntime computes a float16 graph in float32 on a CPU, and leaves the casts between its nodes out: only the
    weights would be rounded. Numbers so small that float16 holds them with fewer bits are rounded like others.
    """
    rounded = onnx.ModelProto()
    rounded.CopyFrom(model)
    inner = list(_between(rounded.graph))
    read = {tensor for node in inner for tensor in node.input}
    for weight in rounded.graph.initializer:
        if weight.name in read and weight.data_type == TensorProto.FLOAT:
            values = numpy_helper.to_array(weight).astype(np.float16).astype(np.float32)
            weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    made = _float_tensors(model).intersection(read.union(*(node.output for node in inner)))
    _round(rounded.graph, made)
    return rounded


def _round(graph: onnx.GraphProto, tensors: set[str]) -> None:
    """Round tensors to 11 bits behind the nodes that make them, in float32 arithmetic.

    x·(2¹³+1) − (x·(2¹³+1) − x) is x with the 13 lower of its 24 bits rounded away (Veltkamp's splitting).
    """
    graph.initializer.append(numpy_helper.from_array(np.array(2**13 + 1, np.float32), "ls_split"))
    nodes = []
    for node in graph.node:
        nodes.append(node)
        for position, tensor in enumerate(node.output):
            if tensor in tensors:
                exact, large, small = (f"{tensor}_{part}" for part in ("exact", "large", "small"))
                node.output[position] = exact
                nodes.append(helper.make_node("Mul", [exact, "ls_split"], [large]))
                nodes.append(helper.make_node("Sub", [large, exact], [small]))
                nodes.append(helper.make_node("Sub", [large, small], [tensor]))
    _keep(graph, nodes)


def _float_tensors(model: onnx.ModelProto) -> set[str]:
    """The tensors that nodes make and that are float32."""
    known = onnx.shape_inference.infer_shapes(model).graph.value_info
    return {info.name for info in known if info.type.tensor_type.elem_type == TensorProto.FLOAT}


def network_px(network: ServedNetwork) -> int:
    """The side of FACE."""
    return FAMILIES[network.family].network_px


def half_model(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with the convolutions, and all between them, in float16; `model` is left as it was."""
    # onnxruntime's own converter; importing it appends to sys.path, so it is left until it is needed.
    from onnxruntime.transformers.float16 import convert_float_to_float16

    named = onnx.ModelProto()
    named.CopyFrom(model)
    _name_nodes(named.graph)
    kept = {node.name for node in named.graph.node} - {node.name for node in _between(named.graph)}
    halved: onnx.ModelProto = convert_float_to_float16(
        named, keep_io_types=True, op_block_list=[], node_block_list=sorted(kept)
    )
    _drop_round_trips(halved.graph)
    onnx.helper.set_model_props(halved, {**_properties(model), PRECISION_KEY: "fp16"})
    onnx.checker.check_model(halved)
    return halved


def _unfold_stored(graph: onnx.GraphProto) -> None:
    """Weights that are cast whenever the graph is loaded become what they are cast to."""
    weights = {weight.name: weight for weight in graph.initializer}
    nodes = []
    for node in graph.node:
        if node.op_type == "Cast" and node.input[0] in weights and _target(node) == TensorProto.FLOAT:
            values = numpy_helper.to_array(weights[node.input[0]]).astype(np.float32)
            graph.initializer.append(numpy_helper.from_array(values, node.output[0]))
        else:
            nodes.append(node)
    used = {tensor for node in nodes for tensor in node.input}
    stored = [weight for weight in graph.initializer if weight.name in used]
    _keep(graph, nodes)
    copies = [TensorProto.FromString(weight.SerializeToString()) for weight in stored]
    del graph.initializer[:]
    graph.initializer.extend(copies)


def _properties(model: onnx.ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


def _name_nodes(graph: onnx.GraphProto) -> None:
    """The converter tells nodes apart by their names, which a file need not give."""
    for number, node in enumerate(graph.node):
        node.name = f"{node.op_type}_{number}"


def _between(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Convolutions, and the nodes that have one before and one behind them; nodes are in order of execution."""
    behind: set[str] = set()
    for node in graph.node:
        if node.op_type in _CONVOLUTIONS or behind.intersection(node.input):
            behind.update(node.output)
    before: set[str] = set()
    for node in reversed(graph.node):
        if node.op_type in _CONVOLUTIONS or before.intersection(node.output):
            before.update(node.input)
    for node in graph.node:
        inner = behind.intersection(node.input) and before.intersection(node.output)
        if node.op_type in _CONVOLUTIONS or inner:
            yield node


def _drop_round_trips(graph: onnx.GraphProto) -> None:
    """Where float32 is cast to float16 and back at once, as the converter does between two kept nodes, it stays.

    Else the kept nodes would hand each other rounded numbers.
    """
    casts = [node for node in graph.node if node.op_type == "Cast"]
    halved = {node.output[0]: node.input[0] for node in casts if _target(node) == TensorProto.FLOAT16}
    exact = {
        node.output[0]: halved[node.input[0]]
        for node in casts
        if _target(node) == TensorProto.FLOAT and node.input[0] in halved
    }
    for node in graph.node:
        for position, tensor in enumerate(node.input):
            node.input[position] = exact.get(tensor, tensor)
    # The casts back first, then those that only they had read.
    _drop_unread_casts(graph)
    _drop_unread_casts(graph)
    _sort(graph)


def _drop_unread_casts(graph: onnx.GraphProto) -> None:
    used = {tensor for node in graph.node for tensor in node.input}
    used.update(tensor.name for tensor in graph.output)
    _keep(graph, [node for node in graph.node if node.op_type != "Cast" or node.output[0] in used])


def _target(cast: onnx.NodeProto) -> int:
    return next(int(attribute.i) for attribute in cast.attribute if attribute.name == "to")


def _keep(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> None:
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)


def _sort(graph: onnx.GraphProto) -> None:
    """Put nodes in order of execution: the converter appends its casts at the end."""
    ready = {"", *(tensor.name for tensor in graph.input), *(weight.name for weight in graph.initializer)}
    waiting = list(graph.node)
    ordered: list[onnx.NodeProto] = []
    while waiting:
        runnable = [node for node in waiting if ready.issuperset(node.input)]
        if not runnable:
            raise ExportError(f"the graph's nodes depend on each other in a circle, at {waiting[0].name}")
        ready.update(tensor for node in runnable for tensor in node.output)
        names = {node.name for node in runnable}
        waiting = [node for node in waiting if node.name not in names]
        ordered += runnable
    _keep(graph, ordered)


# --- range ---
def check_range(name: Path, model: onnx.ModelProto, network: ServedNetwork) -> None:
    """Refuse a network whose weights, or values on the trial pictures, come near what float16 holds.

    Looked at in the float32 graph: an onnxruntime that has no float16 kernel for a node computes it in float32, so
    what overflows on a GPU need not do so here.
    """
    largest = max(_largest_values(name, model, network), key=lambda entry: entry[1])
    tensor, value = largest
    if not value * HEADROOM <= HALF_MAX:
        raise ExportError(
            f"{name} reaches {value:.4g} in {tensor!r}; fp16 holds {HALF_MAX:.0f}, and {HALF_MAX / HEADROOM:.0f} "
            "at most is wanted, since other pictures may reach more: keep this network in fp32"
        )


def _largest_values(
    name: Path, model: onnx.ModelProto, network: ServedNetwork
) -> Iterator[tuple[str, float]]:
    """Tensors that would be float16, with their largest magnitude; infinity where one holds NaN."""
    inner = list(_between(model.graph))
    read = {tensor for node in inner for tensor in node.input}
    for weight in model.graph.initializer:
        if weight.name in read and weight.data_type == TensorProto.FLOAT:
            yield weight.name, _magnitude(np.abs(numpy_helper.to_array(weight)).max(initial=0))
    made = {tensor for node in inner for tensor in node.output}
    yield from _probe(name, model, network, sorted(_float_tensors(model).intersection(read | made)))


def _probe(
    name: Path, model: onnx.ModelProto, network: ServedNetwork, tensors: list[str]
) -> Iterator[tuple[str, float]]:
    """Run the graph with the largest magnitude of each of `tensors` for its outputs."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    outputs = [f"largest_{number}" for number in range(len(tensors))]
    for tensor, output in zip(tensors, outputs, strict=True):
        probe.graph.node.append(helper.make_node("Abs", [tensor], [f"{output}_abs"]))
        probe.graph.node.append(helper.make_node("ReduceMax", [f"{output}_abs"], [output], keepdims=0))
        probe.graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, []))
    session = open_bytes(name, probe.SerializeToString())
    for inputs in trial_inputs(network_px(network), network.audio_shape, TRIAL_BATCHES):
        for tensor, value in zip(tensors, run(name, session, outputs, inputs), strict=True):
            yield tensor, _magnitude(value)


def _magnitude(value: Any) -> float:
    """As a float; infinity for NaN, which no comparison would find too large."""
    number = float(value)
    return float("inf") if np.isnan(number) else number
