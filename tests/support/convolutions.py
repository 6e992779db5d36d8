"""A small network whose fp16 differs measurably from its fp32."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.support.avatar_sources import KEY

SIDE_PX = 160
AUDIO = (16, 32, 32)


def convolving_graph(key: int = KEY, gain: float = 1.0, seed: int = 0) -> onnx.ModelProto:
    """MOUTH is FACE seen through two convolutions, lighter where AUDIO is loud; `gain` is of the values between."""
    rng = np.random.default_rng(seed)
    first = rng.normal(0, 0.02, (4, 3, 3, 3)).astype(np.float32) * gain
    last = rng.normal(0, 0.3, (3, 4, 1, 1)).astype(np.float32) / gain
    nodes = [
        helper.make_node("Cast", ["FACE"], ["face"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["face", "first"], ["seen"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["seen"], ["lit"]),
        helper.make_node("Conv", ["lit", "last"], ["drawn"], kernel_shape=[1, 1]),
        helper.make_node("ReduceMean", ["AUDIO"], ["loudness"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("Add", ["drawn", "loudness"], ["heard"]),
        helper.make_node("Sigmoid", ["heard"], ["unit"]),
        helper.make_node("Mul", ["unit", "255"], ["picture"]),
        helper.make_node("Cast", ["picture"], ["bytes"], to=TensorProto.UINT8),
        helper.make_node("Transpose", ["bytes"], ["MOUTH"], perm=[0, 2, 3, 1]),
        helper.make_node("Shape", ["FACE"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["batch"]),
        helper.make_node("Concat", ["batch", "one"], ["key_shape"], axis=0),
        helper.make_node("Expand", ["key", "key_shape"], ["AVATAR_KEY"]),
    ]
    constants = {
        "first": first,
        "last": last,
        "255": np.array(255, np.float32),
        "zero": np.array([0]),
        "one": np.array([1]),
        "key": np.array([[key]], np.int64),
    }

    def info(name: str, kind: int, shape: tuple[int, ...]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, ["batch", *shape])

    graph = helper.make_graph(
        nodes,
        "graph",
        [
            info("FACE", TensorProto.UINT8, (3, SIDE_PX, SIDE_PX)),
            info("AUDIO", TensorProto.FLOAT, AUDIO),
        ],
        [
            info("MOUTH", TensorProto.UINT8, (SIDE_PX, SIDE_PX, 3)),
            info("AVATAR_KEY", TensorProto.INT64, (1,)),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
