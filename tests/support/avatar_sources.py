"""What an avatar is made of, small: frames, face boxes, and graphs of the contract that need no training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from export.avatar import AvatarSettings, NetworkSource
from tests.support.scenes import textured

KEY = 81985529216486895
WIDTH, HEIGHT = 120, 90
BOXES = [(30 + n, 20, 70 + n, 60) for n in range(4)]


def network_graph(key: int = KEY, size_px: int = 320, audio: Sequence[int] = (32, 16, 16)) -> onnx.ModelProto:
    """MOUTH is FACE's negative, lighter by ten times the mean of AUDIO: see `drawn_mouth`."""
    nodes = [
        helper.make_node("Cast", ["FACE"], ["face"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["255", "face"], ["negative"]),
        helper.make_node("ReduceMean", ["AUDIO"], ["loudness"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("Mul", ["loudness", "10"], ["light"]),
        helper.make_node("Add", ["negative", "light"], ["lit"]),
        helper.make_node("Clip", ["lit", "0", "255"], ["clipped"]),
        helper.make_node("Cast", ["clipped"], ["bytes"], to=TensorProto.UINT8),
        helper.make_node("Transpose", ["bytes"], ["MOUTH"], perm=[0, 2, 3, 1]),
        helper.make_node("Shape", ["FACE"], ["shape"]),
        helper.make_node("Gather", ["shape", "first"], ["batch"]),
        helper.make_node("Concat", ["batch", "one"], ["key_shape"], axis=0),
        helper.make_node("Expand", ["key", "key_shape"], ["AVATAR_KEY"]),
    ]
    constants = {
        **{str(value): np.array(value, np.float32) for value in (0, 10, 255)},
        "first": np.array([0]),
        "one": np.array([1]),
        "key": np.array([[key]], np.int64),
    }
    return _graph(
        nodes,
        [("FACE", TensorProto.UINT8, (3, size_px, size_px)), ("AUDIO", TensorProto.FLOAT, tuple(audio))],
        [("MOUTH", TensorProto.UINT8, (size_px, size_px, 3)), ("AVATAR_KEY", TensorProto.INT64, (1,))],
        constants,
    )


def drawn_mouth(face: NDArray[np.uint8], audio: NDArray[np.float32]) -> NDArray[np.uint8]:
    """What `network_graph` computes, by numpy."""
    light = 10 * audio.mean(axis=(1, 2, 3), keepdims=True, dtype=np.float32)
    mouth = np.clip(255 - face.astype(np.float32) + light, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(mouth.transpose(0, 2, 3, 1))


def encoder_graph(scale: float = 1.0) -> onnx.ModelProto:
    """EMBEDDING is the first 512 of MEL's numbers, times `scale`."""
    nodes = [
        helper.make_node("Flatten", ["MEL"], ["flat"], axis=1),
        helper.make_node("Slice", ["flat", "from", "to", "axis"], ["head"]),
        helper.make_node("Mul", ["head", "scale"], ["EMBEDDING"]),
    ]
    constants = {
        **{name: np.array([value]) for name, value in (("from", 0), ("to", 512), ("axis", 1))},
        "scale": np.array(scale, np.float32),
    }
    mel = [("MEL", TensorProto.FLOAT, (1, 80, 16))]
    return _graph(nodes, mel, [("EMBEDDING", TensorProto.FLOAT, (512,))], constants)


@dataclass(frozen=True)
class Sources:
    """Files to build an avatar from, and the folder to build it in."""

    frames: Path
    boxes: Path
    network: Path
    encoder: Path
    avatars: Path

    @classmethod
    def write(cls, folder: Path, key: int = KEY, boxes: Sequence[Any] = BOXES, seed: int = 1) -> Sources:
        sources = cls(*(folder / name for name in ("frames", "boxes.json", "n.onnx", "e.onnx", "avatars")))
        sources.frames.mkdir(parents=True)
        for number in range(len(boxes)):
            pixels = textured(WIDTH, HEIGHT, seed + number)
            Image.fromarray(pixels).save(sources.frames / f"{number}.png")
        sources.boxes.write_text(json.dumps(boxes), encoding="utf-8")
        onnx.save(network_graph(key), str(sources.network))
        onnx.save(encoder_graph(), str(sources.encoder))
        return sources

    def settings(self, avatar_id: str = "ann", **changes: Any) -> AvatarSettings:
        values: dict[str, Any] = {
            "avatar_id": avatar_id,
            "avatars": self.avatars,
            "network": NetworkSource(self.network),
            "encoder": self.encoder,
        }
        return AvatarSettings(**(values | changes))


def _graph(
    nodes: list[onnx.NodeProto],
    inputs: Sequence[tuple[str, int, tuple[int, ...]]],
    outputs: Sequence[tuple[str, int, tuple[int, ...]]],
    constants: dict[str, NDArray[Any]],
) -> onnx.ModelProto:
    declared = [
        [helper.make_tensor_value_info(name, kind, ["batch", *shape]) for name, kind, shape in tensors]
        for tensors in (inputs, outputs)
    ]
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "graph", *declared, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
