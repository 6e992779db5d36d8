"""Avatars of every network family, whose frames were recorded with the first edition: see `tests/data/golden.json`.

What their networks compute is exact, whatever processor computes it and however many rows at a time: whole numbers in
float32, and the largest of a frame's audio features. So the recorded frames hold on every machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from compositor_backend.geometry import FAMILIES

FRAMES = 7
WIDTH, HEIGHT = 280, 232
FRAMES_SPOKEN = 40
KEY = 81985529216486895
AUDIO_SHAPES = {"328": (32, 16, 16), "160": (16, 32, 32)}
"""Of networks that take no mel windows: "ave", which has an encoder, and "hubert", which is sent ready features."""
MEL_AUDIO = (1, 80, 16)
ENCODED = frozenset({"328"})
"""Families whose avatar has an audio encoder."""


@dataclass(frozen=True)
class GoldenFrames:
    """A source of frames, uint8 [H,W,3] RGB: gradients, and noise that is the same everywhere."""

    count: int = FRAMES
    names: None = None
    note: None = None
    size_px: tuple[int, int] = (WIDTH, HEIGHT)

    @property
    def origin(self) -> range:
        """Each template frame is a frame."""
        return range(self.count)

    @property
    def source_count(self) -> int:
        """The same as `count`."""
        return self.count

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """Frames in order."""
        rows, columns = np.mgrid[:HEIGHT, :WIDTH]
        for frame in range(self.count):
            noise = np.random.default_rng(frame).integers(0, 24, (HEIGHT, WIDTH, 3))
            smooth = np.stack([rows // 2, columns // 2, (rows + columns) // 4], axis=2)
            yield ((smooth + noise + 9 * frame) % 256).astype(np.uint8)


def boxes(family: str) -> list[tuple[int, int, int, int]]:
    """Face boxes that move, of odd sizes; those of Wav2Lip are no squares."""
    height = 101 if FAMILIES[family].square_boxes else 118
    return [(40 + 5 * n, 31 + 3 * n, 141 + 5 * n, 31 + 3 * n + height) for n in range(FRAMES)]


def families() -> list[str]:
    """Names of all network families."""
    return list(FAMILIES)


def speech() -> NDArray[np.int16]:
    """Something between speech and noise, int16 16 kHz, `FRAMES_SPOKEN` frames of 40 ms long."""
    time = np.arange(FRAMES_SPOKEN * 640)
    loudness = (time // 1600 * 7 % 13) * 600
    pitch = 40 + time // 3200 * 11 % 60
    noise = np.random.default_rng(7).integers(-300, 300, time.size)
    return np.asarray(loudness * (time % pitch * 2 - pitch) // pitch + noise, np.int16)


def write_network(path: Path, family: str, *, key: int = KEY, shade: int = 0) -> Path:
    """A network of the family: MOUTH is FACE's negative, lighter and darker with some numbers of its AUDIO.

    `shade` makes all of it darker.
    """
    size_px = FAMILIES[family].network_px
    nodes = [
        helper.make_node("Cast", ["FACE"], ["face"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["white", "face"], ["negative"]),
        helper.make_node("Slice", ["AUDIO", "from", "to", "axes"], ["some"]),
        helper.make_node("ReduceMax", ["some"], ["largest"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("ReduceMin", ["some"], ["smallest"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("Mul", ["largest", "4"], ["levels"]),
        helper.make_node("Floor", ["levels"], ["whole"]),
        helper.make_node("Mul", ["smallest", "4"], ["low levels"]),
        helper.make_node("Floor", ["low levels"], ["low whole"]),
        helper.make_node("Mul", ["whole", "8"], ["high light"]),
        helper.make_node("Sub", ["high light", "low whole"], ["light"]),
        helper.make_node("Add", ["negative", "light"], ["lit"]),
        helper.make_node("Clip", ["lit", "0", "255"], ["clipped"]),
        helper.make_node("Cast", ["clipped"], ["bytes"], to=TensorProto.UINT8),
        helper.make_node("Transpose", ["bytes"], ["MOUTH"], perm=[0, 2, 3, 1]),
        helper.make_node("Shape", ["FACE"], ["shape"]),
        helper.make_node("Gather", ["shape", "first"], ["batch"]),
        helper.make_node("Concat", ["batch", "one"], ["key_shape"], axis=0),
        helper.make_node("Expand", ["key", "key_shape"], ["AVATAR_KEY"]),
    ]
    constants: dict[str, NDArray[Any]] = {
        **{str(value): np.array(value, np.float32) for value in (0, 4, 8, 255)},
        "white": np.array(255 - shade, np.float32),
        "from": np.array([0, 2]),
        "to": np.array([1, 6]),
        "axes": np.array([1, 2]),
        "first": np.array([0]),
        "one": np.array([1]),
        "key": np.array([[key]], np.int64),
    }
    return _write(
        path,
        nodes,
        [
            ("FACE", TensorProto.UINT8, (3, size_px, size_px)),
            ("AUDIO", TensorProto.FLOAT, AUDIO_SHAPES.get(family, MEL_AUDIO)),
        ],
        [("MOUTH", TensorProto.UINT8, (size_px, size_px, 3)), ("AVATAR_KEY", TensorProto.INT64, (1,))],
        constants,
    )


def write_encoder(path: Path) -> Path:
    """An audio encoder: EMBEDDING is the first 512 of MEL's numbers."""
    nodes = [
        helper.make_node("Flatten", ["MEL"], ["flat"], axis=1),
        helper.make_node("Slice", ["flat", "from", "to", "axis"], ["EMBEDDING"]),
    ]
    constants = {name: np.array([value]) for name, value in (("from", 0), ("to", 512), ("axis", 1))}
    return _write(
        path,
        nodes,
        [("MEL", TensorProto.FLOAT, (1, 80, 16))],
        [("EMBEDDING", TensorProto.FLOAT, (512,))],
        constants,
    )


def features(family: str, frames: int) -> NDArray[np.float32]:
    """Ready audio features float32 [frames, …] of a network of that family."""
    shape = AUDIO_SHAPES.get(family, MEL_AUDIO)
    levels = np.random.default_rng(11).integers(-16, 16, (frames, *shape))
    return (levels / 8).astype(np.float32)


def digests(jpegs: Sequence[bytes]) -> list[str]:
    """The first 16 hex digits of each frame's SHA-256."""
    return [hashlib.sha256(jpeg).hexdigest()[:16] for jpeg in jpegs]


_Info = tuple[str, int, tuple[int, ...]]


def _write(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[_Info],
    outputs: Sequence[_Info],
    constants: dict[str, NDArray[Any]],
) -> Path:
    infos = [
        [helper.make_tensor_value_info(name, kind, ["batch", *shape]) for name, kind, shape in tensors]
        for tensors in (inputs, outputs)
    ]
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(list(nodes), "golden", *infos, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path
