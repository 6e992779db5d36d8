"""Small networks that convolve, avatars that are served by them, and a builder of engines that runs on the CPU."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from compositor_backend.contract import Model
from export.avatar import NetworkSource, build_avatar
from export.engine_record import Platform
from export.engine_settings import Batches
from export.frames import open_frames
from export.picture_parity import Inputs, Outputs
from tests.support.avatar_sources import BOXES, KEY, Sources

SIDE_PX = 160
AUDIO = (16, 32, 32)
GPU = Platform("Some GPU", "9.0", "10.5.0")


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


def write_avatars(folder: Path, *ids: str) -> Path:
    """A repository with an avatar of each id, each with a network of its own."""
    sources = Sources.write(folder / "sources", boxes=BOXES[:1])
    for number, avatar_id in enumerate(ids):
        onnx.save(convolving_graph(KEY + number, seed=number), str(sources.network))
        settings = sources.settings(avatar_id, encoder=None, network=NetworkSource(sources.network))
        build_avatar(settings, open_frames(sources.frames), BOXES[:1])
    return sources.avatars


@dataclass(frozen=True)
class CpuBuilt:
    plan: bytes
    timing_cache: bytes


@dataclass
class CpuEngine:
    session: onnxruntime.InferenceSession
    brighter: int

    def run(self, inputs: Inputs) -> Outputs:
        names = [tensor.name for tensor in self.session.get_outputs()]
        outputs = dict(zip(names, self.session.run(names, inputs), strict=True))
        outputs["MOUTH"] = np.minimum(outputs["MOUTH"].astype(np.int16) + self.brighter, 255).astype(np.uint8)
        return outputs

    def milliseconds(self, inputs: Inputs) -> float:
        self.run(inputs)
        return float(len(inputs["FACE"]))


@dataclass
class CpuBuilder:
    """Its engines are the graphs themselves, run by onnxruntime; `brighter` makes them wrong by so many steps."""

    platform: Platform = GPU
    brighter: int = 0
    seen: list[tuple[bytes, Batches, bytes]] = field(default_factory=list)

    def build(self, name: str, graph: bytes, model: Model, batches: Batches, timing_cache: bytes) -> CpuBuilt:
        self.seen.append((graph, batches, timing_cache))
        return CpuBuilt(graph, timing_cache + b"more ")

    @contextmanager
    def engine(self, name: str, plan: bytes) -> Iterator[CpuEngine]:
        yield CpuEngine(onnxruntime.InferenceSession(plan), self.brighter)


@dataclass
class DyingBuilder(CpuBuilder):
    """Ends its process for one network, as a crash in a library does."""

    def build(self, name: str, graph: bytes, model: Model, batches: Batches, timing_cache: bytes) -> CpuBuilt:
        if name == "lipsync_bad":
            os._exit(3)
        return super().build(name, graph, model, batches, timing_cache)


def cpu_builder() -> CpuBuilder:
    return CpuBuilder()


def dying_builder() -> DyingBuilder:
    return DyingBuilder()
