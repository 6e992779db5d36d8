"""Brings an ONNX file met in the wild to the wire contract.

U-Nets are known by their names (inputs `input` and `audio`, output `output`), Wav2Lip networks by their shapes (inputs
[B,6,S,S] and [B,1,80,16], output [B,3,S,S]), whatever the names.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import TensorProto, compose, helper, numpy_helper

from compositor_backend import contract
from compositor_backend.geometry import FAMILIES, Family
from compositor_backend.pack import file_sha256
from export.atomic import replacing
from export.errors import ExportError
from export.graph_file import save_graph
from export.limits import Limits, Parity, judge, sample_inputs, truncated
from export.networks.families import visible
from export.onnx_guard import refuse_foreign_files
from export.served_graph import inspect_network, open_session, run

MIN_OPSET, MAX_OPSET = 11, 21
"""The first in which Clip takes its bounds as the nodes added here give them; the last that onnxruntime 1.19 reads."""
MIN_IR, MAX_IR = 4, 10
"""The first that lets weights be no inputs; the last that onnxruntime 1.19 reads."""
_UNET_NAMES = ("input", "audio", "output")
_OWN_PREFIX = "ls_"
"""Of the names of tensors that are added."""
_BATCH = "batch"
_SINGLE = 1


@dataclass(frozen=True)
class _Wild:
    """What a file's network is, and the names of its inputs and its output."""

    family: Family
    audio_shape: tuple[int, ...]
    visual: str
    audio: str
    drawn: str


def wrap_unet(source: Path, out: Path, limits: Limits | None = None) -> Parity:
    """Write the graph in `source`, wrapped to FACE, AUDIO → MOUTH, AVATAR_KEY, to `out`.

    The original takes float32 BGR/255, reference and masked crop (Wav2Lip: masked first), and gives BGR in 0…1.
    The wrapped graph is run beside it, one frame at a time and as a batch, and nothing is written if they differ.
    AVATAR_KEY comes from the SHA-256 of `source`.
    """
    model = _load(source)
    wild = _inspect(source, model)
    _open_batch(model)
    _wrap(*_out_of_the_way(model, wild), contract.avatar_key(file_sha256(source)))
    with replacing(out) as draft:
        save_graph(model, draft)
        del model
        return _compare(source, draft, wild, limits or Limits())


def inspect_unet(source: Path) -> tuple[str, tuple[int, ...]]:
    """Family and audio input's shape of such a file; `ExportError` if it is none."""
    wild = _inspect(source, _load(source))
    return wild.family.name, wild.audio_shape


def _load(source: Path) -> onnx.ModelProto:
    refuse_foreign_files(source)
    try:
        model = onnx.load(str(source), load_external_data=False)
    except (DecodeError, OSError, ValueError) as error:
        raise ExportError(f"{source} is no ONNX file: {str(error)[:200]}") from error
    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    if not MIN_OPSET <= opset <= MAX_OPSET:
        raise ExportError(f"{source} has opset {opset}; {MIN_OPSET} to {MAX_OPSET} is wanted")
    model.ir_version = min(max(model.ir_version, MIN_IR), MAX_IR)
    weights = {tensor.name for tensor in model.graph.initializer}
    # Old files list their weights as inputs too.
    kept = [tensor for tensor in model.graph.input if tensor.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    return model


def _inspect(source: Path, model: onnx.ModelProto) -> _Wild:
    """The family, by the picture's size, and the shape of the audio input."""
    tensors = {tensor.name: tensor for tensor in (*model.graph.input, *model.graph.output)}
    shapes = {name: [d.dim_value for d in t.type.tensor_type.shape.dim] for name, t in tensors.items()}
    wild = _wav2lip(model, shapes) or _unet(source, shapes)
    if any(t.type.tensor_type.elem_type != TensorProto.FLOAT for t in tensors.values()):
        raise ExportError(f"{source} has tensors that are not float32; float32 is wanted")
    return wild


def _wav2lip(model: onnx.ModelProto, shapes: dict[str, list[int]]) -> _Wild | None:
    """A Wav2Lip network by its two inputs' shapes and its one output; None if it is none."""
    inputs = {tuple(shapes[tensor.name][1:]): tensor.name for tensor in model.graph.input}
    audio = inputs.get(contract.MEL.shape[1:])
    families = (f for f in FAMILIES.values() if f.any_face and _visual_shape(f) in inputs)
    family = next(families, None)
    if len(inputs) != len(model.graph.input) or len(shapes) != len(inputs) + 1 or len(inputs) != 2:
        return None
    if audio is None or family is None or len(model.graph.output) != 1:
        return None
    drawn = model.graph.output[0].name
    return _Wild(family, contract.MEL.shape[1:], inputs[_visual_shape(family)], audio, drawn)


def _unet(source: Path, shapes: dict[str, list[int]]) -> _Wild:
    visual, audio_name, drawn = _UNET_NAMES
    if set(shapes) != set(_UNET_NAMES):
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items()) or "no tensors"
        raise ExportError(
            f"{source} has {listed}; inputs input and audio and an output named output are wanted, or a Wav2Lip "
            f"network's inputs [B, 6, S, S] and {_batched(contract.MEL.shape[1:])} with S one of "
            f"{', '.join(str(f.network_px) for f in FAMILIES.values() if f.any_face)}"
        )
    families = (f for f in FAMILIES.values() if not f.any_face)
    family = next((f for f in families if tuple(shapes[visual][1:]) == _visual_shape(f)), None)
    if family is None:
        wanted = [_batched(_visual_shape(f)) for f in FAMILIES.values() if not f.any_face]
        raise ExportError(f"{source} has input {shapes[visual]}; {' or '.join(wanted)} is wanted")
    audio = tuple(shapes[audio_name][1:])
    if len(audio) != 3 or 0 in audio:
        raise ExportError(
            f"{source} has audio {shapes[audio_name]}; a fixed [B, channels, height, width] is wanted"
        )
    return _Wild(family, audio, visual, audio_name, drawn)


def _visual_shape(family: Family) -> tuple[int, ...]:
    return 6, family.network_px, family.network_px


def _batched(shape: tuple[int, ...]) -> str:
    return f"[B, {', '.join(map(str, shape))}]"


def _out_of_the_way(model: onnx.ModelProto, wild: _Wild) -> tuple[onnx.ModelProto, _Wild]:
    """The same with other names, if it has any that are added to it."""
    wanted = contract.network_graph(wild.family.network_px, wild.audio_shape)
    ours = {tensor.name for tensor in (*wanted.inputs, *wanted.outputs)}
    used = {name for node in model.graph.node for name in (*node.input, *node.output)}
    if not any(name in ours or name.startswith(_OWN_PREFIX) for name in used):
        return model, wild
    prefix = "wild_"
    compose.add_prefix_graph(model.graph, prefix, inplace=True)
    names = (prefix + name for name in (wild.visual, wild.audio, wild.drawn))
    return model, _Wild(wild.family, wild.audio_shape, *names)


def _open_batch(model: onnx.ModelProto) -> None:
    """Let the batch dimension vary where the file fixes it at one."""
    del model.graph.value_info[:]
    shapes = {node.input[1] for node in model.graph.node if node.op_type == "Reshape"}
    for weight in model.graph.initializer:
        if weight.name in shapes:
            weight.CopyFrom(numpy_helper.from_array(_any_batch(numpy_helper.to_array(weight)), weight.name))
    for node in model.graph.node:
        if node.op_type == "Constant" and node.output[0] in shapes:
            _open_constant(node.attribute[0])


def _open_constant(value: onnx.AttributeProto) -> None:
    if value.name == "value":
        value.t.CopyFrom(numpy_helper.from_array(_any_batch(numpy_helper.to_array(value.t))))
    elif value.name == "value_ints":
        value.ints[:] = _any_batch(np.array(value.ints, np.int64)).tolist()


def _any_batch(shape: NDArray[np.int64]) -> NDArray[np.int64]:
    """A Reshape's target whose first dimension, fixed at one, follows from the rest."""
    if shape.size and shape[0] == _SINGLE and -1 not in shape:
        shape = shape.copy()
        shape[0] = -1
    return shape


def _wrap(model: onnx.ModelProto, wild: _Wild, key: int) -> None:
    graph, family = model.graph, wild.family
    both = family.in_order("ls_reference", "ls_masked")
    before = [
        helper.make_node("Cast", ["FACE"], ["ls_float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["ls_float", "ls_scale"], ["ls_unit"]),
        helper.make_node("Gather", ["ls_unit", "ls_bgr"], ["ls_reference"], axis=1),
        helper.make_node("Mul", ["ls_reference", "ls_visible"], ["ls_masked"]),
        helper.make_node("Concat", list(both), [wild.visual], axis=1),
        helper.make_node("Identity", ["AUDIO"], [wild.audio]),
    ]
    after = [
        helper.make_node("Mul", [wild.drawn, "ls_255"], ["ls_scaled"]),
        helper.make_node("Clip", ["ls_scaled", "ls_0", "ls_255"], ["ls_clipped"]),
        helper.make_node("Gather", ["ls_clipped", "ls_bgr"], ["ls_rgb"], axis=1),
        helper.make_node("Cast", ["ls_rgb"], ["ls_bytes"], to=TensorProto.UINT8),
        helper.make_node("Transpose", ["ls_bytes"], ["MOUTH"], perm=[0, 2, 3, 1]),
        # The key is made from the batch: a constant wired to an output does not load in Triton's backend.
        helper.make_node("Shape", ["FACE"], ["ls_shape"]),
        helper.make_node("Gather", ["ls_shape", "ls_first"], ["ls_batch"]),
        helper.make_node("Concat", ["ls_batch", "ls_one"], ["ls_key_shape"], axis=0),
        helper.make_node("Expand", ["ls_key", "ls_key_shape"], ["AVATAR_KEY"]),
    ]
    nodes = [*before, *graph.node, *after]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(
        numpy_helper.from_array(value, name) for name, value in _constants(family, key).items()
    )
    wanted = contract.network_graph(family.network_px, wild.audio_shape)
    for declared, tensors in ((graph.input, wanted.inputs), (graph.output, wanted.outputs)):
        del declared[:]
        declared.extend(_declaration(tensor) for tensor in tensors)


_ELEMENTS = {"UINT8": TensorProto.UINT8, "FP32": TensorProto.FLOAT, "INT64": TensorProto.INT64}


def _declaration(tensor: contract.Tensor) -> onnx.ValueInfoProto:
    shape: list[str | int] = [_BATCH, *tensor.shape[1:]]
    return helper.make_tensor_value_info(tensor.name, _ELEMENTS[tensor.dtype], shape)


def _constants(family: Family, key: int) -> dict[str, NDArray[np.generic]]:
    return {
        "ls_scale": np.array(1 / 255, np.float32),
        "ls_255": np.array(255, np.float32),
        "ls_0": np.array(0, np.float32),
        "ls_bgr": np.array([2, 1, 0], np.int64),
        "ls_visible": visible(family),
        "ls_first": np.array([0], np.int64),
        "ls_one": np.array([1], np.int64),
        "ls_key": np.array([[key]], np.int64),
    }


def _compare(source: Path, draft: Path, wild: _Wild, limits: Limits) -> Parity:
    family = wild.family
    try:
        inspect_network(draft)
        wrapped = open_session(draft)
        original = open_session(source)
        differences = []
        for face, audio in sample_inputs(family.network_px, wild.audio_shape):
            (mouth,) = run(draft, wrapped, ["MOUTH"], {"FACE": face, "AUDIO": audio})
            reference = face[:, ::-1].astype(np.float32) / 255
            both = np.concatenate(family.in_order(reference, reference * visible(family)), axis=1)
            for frame in range(len(face)):
                inputs = {wild.visual: both[frame : frame + 1], wild.audio: audio[frame : frame + 1]}
                (drawn,) = run(source, original, [wild.drawn], inputs)
                if drawn.shape != (1, 3, family.network_px, family.network_px):
                    raise ExportError(f"{source} gives output {list(drawn.shape)}; [1, 3, S, S] is wanted")
                expected = truncated(source, drawn[0, ::-1] * 255).transpose(1, 2, 0)
                differences.append(np.abs(mouth[frame].astype(np.int16) - expected).ravel())
    except ExportError as error:
        raise ExportError(f"{source} cannot be served in batches: {error}") from error
    return judge(source, np.concatenate(differences), limits)
