from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from compositor_backend.contract import avatar_key
from compositor_backend.pack import file_sha256
from export.errors import ExportError
from export.served_graph import inspect_network
from export.wrap import wrap_unet
from tests.support.networks import random_unet


def wild(path: Path, family: str = "328", audio: str = "ave", opset: int = 12) -> Path:
    """A graph as users have it: fp32 in and out, static batch 1."""
    network = random_unet(family, audio)
    side = network.family.geometry.network_px
    sample = (torch.rand(1, 6, side, side), torch.rand(1, *network.mode.shape))
    names = {"input_names": ["input", "audio"], "output_names": ["output"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, sample, str(path), opset_version=opset, dynamo=False, **names)
    return path


@pytest.mark.parametrize(("family", "audio"), [("328", "ave"), ("160", "hubert")])
def test_a_static_graph_serves_batches(tmp_path: Path, family: str, audio: str) -> None:
    source = wild(tmp_path / "model_best.onnx", family, audio)
    parity = wrap_unet(source, tmp_path / "model.onnx")
    assert parity.max_difference <= 1
    assert parity.equal_share >= 0.999
    network = inspect_network(tmp_path / "model.onnx")
    assert network.family == family
    assert network.key == avatar_key(file_sha256(source))


def test_a_reshape_to_one_frame_is_opened(tmp_path: Path) -> None:
    source = wild(tmp_path / "m.onnx", "160", "hubert")
    model = onnx.load(str(source))
    # The way exporters leave it: the output reshaped to a fixed [1, 3, 160, 160].
    model.graph.node[-1].output[0] = "drawn"
    shape = numpy_helper.from_array(np.array([1, 3, 160, 160]), "shape")
    model.graph.initializer.append(shape)
    model.graph.node.append(helper.make_node("Reshape", ["drawn", "shape"], ["output"]))
    onnx.save(model, str(source))
    wrap_unet(source, tmp_path / "out.onnx")
    assert inspect_network(tmp_path / "out.onnx").family == "160"


def edited(path: Path, edit: object) -> Path:
    model = onnx.load(str(path))
    edit(model)  # type: ignore[operator]
    onnx.save(model, str(path))
    return path


def rename_output(model: onnx.ModelProto) -> None:
    model.graph.output[0].name = "image"
    model.graph.node[-1].output[0] = "image"


def halve_audio(model: onnx.ModelProto) -> None:
    model.graph.input[1].type.tensor_type.shape.dim[1].dim_value = 0


def other_size(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 96


def half_floats(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16


def weights_elsewhere(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")


def fixed_batch(model: onnx.ModelProto) -> None:
    """Adds one picture to every frame: a constant that does fit a batch, and a matrix that does not."""
    shape = numpy_helper.from_array(np.array([3, 160 * 160]), "flat")
    back = numpy_helper.from_array(np.array([1, 3, 160, 160]), "back")
    model.graph.initializer.extend([shape, back])
    model.graph.node[-1].output[0] = "drawn"
    model.graph.node.append(helper.make_node("Reshape", ["drawn", "flat"], ["rows"]))
    model.graph.node.append(helper.make_node("Reshape", ["rows", "back"], ["output"]))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (rename_output, "an output named output are wanted"),
        (halve_audio, "has audio"),
        (other_size, r"\[B, 6, 320, 320\] or \[B, 6, 160, 160\] is wanted"),
        (half_floats, "not float32"),
        (weights_elsewhere, "a single file is wanted"),
        (fixed_batch, "cannot be served in batches"),
    ],
)
def test_graphs_that_cannot_be_wrapped(tmp_path: Path, edit: object, message: str) -> None:
    source = wild(tmp_path / "m.onnx", "160", "hubert")
    if edit is weights_elsewhere:
        model = onnx.load(str(source))
        weights_elsewhere(model)
        source.write_bytes(model.SerializeToString())
    else:
        edited(source, edit)
    with pytest.raises(ExportError, match=message):
        wrap_unet(source, tmp_path / "out.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx"]


@pytest.mark.parametrize("content", [b"", b"not an onnx file", bytes(100)])
def test_a_file_that_is_no_onnx(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(ExportError, match=r"m\.onnx"):
        wrap_unet(path, tmp_path / "out.onnx")


def test_an_old_opset_is_named(tmp_path: Path) -> None:
    source = wild(tmp_path / "m.onnx", "160", "hubert")
    model = onnx.load(str(source))
    model.opset_import[0].version = 10
    onnx.save(model, str(source))
    with pytest.raises(ExportError, match="has opset 10; 11 or newer is wanted"):
        wrap_unet(source, tmp_path / "out.onnx")
