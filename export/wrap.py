"""Brings an ONNX file met in the wild (inputs `input` and `audio`, output `output`) to the wire contract."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from compositor_backend import contract
from compositor_backend.geometry import FAMILIES, Family
from compositor_backend.pack import file_sha256
from export.atomic import replacing
from export.errors import ExportError
from export.limits import Limits, Parity, judge, sample_inputs, truncated
from export.networks.families import visible
from export.onnx_guard import refuse_foreign_files
from export.served_graph import inspect_network, open_session, run

MIN_OPSET, MAX_OPSET = 11, 21
"""The first in which Clip takes its bounds as the nodes added here give them; the last that onnxruntime 1.19 reads."""
MIN_IR, MAX_IR = 4, 10
"""The first that lets weights be no inputs; the last that onnxruntime 1.19 reads."""
_INPUT, _AUDIO, _OUTPUT = "input", "audio", "output"
_BATCH = "batch"
_SINGLE = 1


def wrap_unet(source: Path, out: Path, limits: Limits | None = None) -> Parity:
    """Write the graph in `source`, wrapped to FACE, AUDIO → MOUTH, AVATAR_KEY, to `out`.

    The original takes float32 BGR/255, reference and masked crop, and gives BGR in 0…1. The wrapped graph is run
    beside it, one frame at a time and as a batch, and nothing is written if they differ. AVATAR_KEY comes from
    the SHA-256 of `source`.
    """
    model = _load(source)
    family, audio_shape = _inspect(source, model)
    _open_batch(model)
    _wrap(model, family, audio_shape, contract.avatar_key(file_sha256(source)))
    with replacing(out) as draft:
        onnx.save(model, str(draft))
        return _compare(source, draft, family, audio_shape, limits or Limits())


def inspect_unet(source: Path) -> tuple[str, tuple[int, ...]]:
    """Family and audio input's shape of such a file; `ExportError` if it is none."""
    family, audio_shape = _inspect(source, _load(source))
    return family.name, audio_shape


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


def _inspect(source: Path, model: onnx.ModelProto) -> tuple[Family, tuple[int, ...]]:
    """The family, by the picture's size, and the shape of the audio input."""
    tensors = {tensor.name: tensor for tensor in (*model.graph.input, *model.graph.output)}
    shapes = {name: [d.dim_value for d in t.type.tensor_type.shape.dim] for name, t in tensors.items()}
    if set(shapes) != {_INPUT, _AUDIO, _OUTPUT}:
        names = ", ".join(shapes) or "no tensors"
        raise ExportError(
            f"{source} has {names}; inputs input and audio and an output named output are wanted"
        )
    if any(t.type.tensor_type.elem_type != TensorProto.FLOAT for t in tensors.values()):
        raise ExportError(f"{source} has tensors that are not float32; float32 is wanted")
    family = next(
        (f for f in FAMILIES.values() if shapes[_INPUT][1:] == [6, f.network_px, f.network_px]), None
    )
    if family is None:
        raise ExportError(
            f"{source} has input {shapes[_INPUT]}; [B, 6, 320, 320] or [B, 6, 160, 160] is wanted"
        )
    audio = tuple(shapes[_AUDIO][1:])
    if len(audio) != 3 or 0 in audio:
        raise ExportError(
            f"{source} has audio {shapes[_AUDIO]}; a fixed [B, channels, height, width] is wanted"
        )
    return family, audio


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


def _wrap(model: onnx.ModelProto, family: Family, audio_shape: tuple[int, ...], key: int) -> None:
    graph = model.graph
    before = [
        helper.make_node("Cast", ["FACE"], ["ls_float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["ls_float", "ls_scale"], ["ls_unit"]),
        helper.make_node("Gather", ["ls_unit", "ls_bgr"], ["ls_reference"], axis=1),
        helper.make_node("Mul", ["ls_reference", "ls_visible"], ["ls_masked"]),
        helper.make_node("Concat", ["ls_reference", "ls_masked"], [_INPUT], axis=1),
        helper.make_node("Identity", ["AUDIO"], [_AUDIO]),
    ]
    after = [
        helper.make_node("Mul", [_OUTPUT, "ls_255"], ["ls_scaled"]),
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
    wanted = contract.lipsync_model("network", family.network_px, audio_shape)
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


def _compare(
    source: Path, draft: Path, family: Family, audio_shape: tuple[int, ...], limits: Limits
) -> Parity:
    try:
        inspect_network(draft)
        wrapped = open_session(draft)
        original = open_session(source)
        differences = []
        for face, audio in sample_inputs(family.network_px, audio_shape):
            (mouth,) = run(draft, wrapped, ["MOUTH"], {"FACE": face, "AUDIO": audio})
            reference = face[:, ::-1].astype(np.float32) / 255
            both = np.concatenate([reference, reference * visible(family)], axis=1)
            for frame in range(len(face)):
                inputs = {_INPUT: both[frame : frame + 1], _AUDIO: audio[frame : frame + 1]}
                (drawn,) = run(source, original, [_OUTPUT], inputs)
                if drawn.shape != (1, 3, family.network_px, family.network_px):
                    raise ExportError(f"{source} gives output {list(drawn.shape)}; [1, 3, S, S] is wanted")
                expected = truncated(source, drawn[0, ::-1] * 255).transpose(1, 2, 0)
                differences.append(np.abs(mouth[frame].astype(np.int16) - expected).ravel())
    except ExportError as error:
        raise ExportError(f"{source} cannot be served in batches: {error}") from error
    return judge(source, np.concatenate(differences), limits)
