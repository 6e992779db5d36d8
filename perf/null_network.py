"""A network of the contract that computes nothing: what is left of a frame's cost is serving."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
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
    nodes = [
        helper.make_node("Transpose", ["FACE"], ["MOUTH"], perm=[0, 2, 3, 1]),
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
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(path))
    return path


def _tensor(name: str, kind: int, shape: tuple[int, ...]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, ["batch", *shape])
