"""Networks of the contract that compute next to nothing: what is left of a frame's cost is serving."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

KEY = 4_919_131_752_989_213_764  # any; the pack of an avatar made with this network names it
_OPSET = 17
_IR = 8  # read by every onnxruntime that Triton's containers of the last years carry


def write_null_network(
    path: Path, network_px: int = 320, audio_shape: tuple[int, ...] = (32, 16, 16)
) -> Path:
    """Write the graph: MOUTH is FACE with its dimensions exchanged, so the avatar shows its own unchanged face.

    It reads AUDIO's shape only, and does no arithmetic.
    """
    draw = [helper.make_node("Transpose", ["FACE"], ["MOUTH"], perm=[0, 2, 3, 1])]
    return _write(path, draw, {}, network_px, audio_shape)


def write_shaded_network(path: Path, shade: tuple[int, int, int], nbytes: int) -> Path:
    """Write a graph whose MOUTH is FACE with a colour (RGB, 0 to 255) added; its file is `nbytes` long.

    `ValueError` if that is too short.
    """
    draw = [
        helper.make_node("Transpose", ["FACE"], ["face"], perm=[0, 2, 3, 1]),
        helper.make_node("Cast", ["face"], ["levels"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["levels", "shade"], ["lighter"]),
        helper.make_node("Clip", ["lighter", "", "white"], ["clipped"]),
        helper.make_node("Cast", ["clipped"], ["MOUTH"], to=TensorProto.UINT8),
    ]
    constants = {"shade": np.array(shade, np.float32), "white": np.array(255, np.float32)}
    return _write(path, draw, constants, 320, (32, 16, 16), nbytes)


def _write(
    path: Path,
    draw: list[onnx.NodeProto],
    constants: dict[str, NDArray[np.float32]],
    network_px: int,
    audio_shape: tuple[int, ...],
    nbytes: int = 0,
) -> Path:
    nodes = [
        *draw,
        helper.make_node("Shape", ["AUDIO"], ["batch"], start=0, end=1),
        helper.make_node("Concat", ["batch", "one"], ["key_shape"], axis=0),
        helper.make_node("Expand", ["key", "key_shape"], ["AVATAR_KEY"]),
    ]
    face = ("FACE", TensorProto.UINT8, (3, network_px, network_px))
    mouth = ("MOUTH", TensorProto.UINT8, (network_px, network_px, 3))
    graph = helper.make_graph(
        nodes,
        "null",
        [_tensor(*face), _tensor("AUDIO", TensorProto.FLOAT, audio_shape)],
        [_tensor(*mouth), _tensor("AVATAR_KEY", TensorProto.INT64, (1,))],
        [
            numpy_helper.from_array(np.array([1]), "one"),
            numpy_helper.from_array(np.array([[KEY]], np.int64), "key"),
            *(numpy_helper.from_array(value, name) for name, value in constants.items()),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_filled(model, nbytes))
    return path


def _filled(model: onnx.ModelProto, nbytes: int) -> bytes:
    """The file, as long as wanted; 0 is as long as it is."""
    if nbytes:
        # The field's own tag and length are a few bytes.
        model.doc_string = " " * (nbytes - model.ByteSize() - 8)
        model.doc_string += " " * (nbytes - model.ByteSize())
    data: bytes = model.SerializeToString()
    if nbytes and len(data) != nbytes:
        raise ValueError(f"expected room for a network, got {nbytes} bytes")
    return data


def _tensor(name: str, kind: int, shape: tuple[int, ...]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, ["batch", *shape])
