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
from export.served_graph import inspect_network, open_session
from export.wrap import inspect_unet, wrap_unet
from tests.support.networks import random_unet, random_wav2lip


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


def test_a_reshape_by_a_list_of_numbers_is_opened(tmp_path: Path) -> None:
    source = wild(tmp_path / "m.onnx", "160", "hubert")
    model = onnx.load(str(source))
    model.graph.node[-1].output[0] = "drawn"
    model.graph.node.append(helper.make_node("Constant", [], ["shape"], value_ints=[1, 3, 160, 160]))
    model.graph.node.append(helper.make_node("Reshape", ["drawn", "shape"], ["output"]))
    onnx.save(model, str(source))
    wrap_unet(source, tmp_path / "out.onnx")
    assert inspect_network(tmp_path / "out.onnx").family == "160"


def test_an_output_without_a_shape_is_served(tmp_path: Path) -> None:
    source = wild(tmp_path / "m.onnx", "160", "hubert")
    model = onnx.load(str(source))
    model.graph.output[0].type.tensor_type.ClearField("shape")
    onnx.save(model, str(source))
    wrap_unet(source, tmp_path / "out.onnx")
    assert inspect_network(tmp_path / "out.onnx").family == "160"


@pytest.mark.parametrize(("given", "written"), [(3, 4), (8, 8), (12, 10)])
def test_the_file_has_a_version_that_the_oldest_server_reads(
    tmp_path: Path, given: int, written: int
) -> None:
    source = wild(tmp_path / "m.onnx", "160", "hubert")
    model = onnx.load(str(source))
    model.ir_version = given
    onnx.save(model, str(source))
    wrap_unet(source, tmp_path / "out.onnx")
    assert onnx.load(str(tmp_path / "out.onnx")).ir_version == written


def wild_wav2lip(path: Path, visual: str, audio: str, drawn: str, swapped: bool = False) -> Path:
    """The 96 px network as an ONNX file, of a static batch 1."""
    network = random_wav2lip(32)
    sample = {"x": torch.rand(1, 6, 96, 96), "audio": torch.rand(1, 1, 80, 16)}
    names = {"input_names": [visual, audio], "output_names": [drawn]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, tuple(sample.values()), str(path), opset_version=12, dynamo=False, **names)
    if swapped:
        model = onnx.load(str(path))
        inputs = [*model.graph.input]
        del model.graph.input[:]
        model.graph.input.extend(reversed(inputs))
        onnx.save(model, str(path))
    return path


@pytest.mark.parametrize(
    ("names", "swapped"),
    [
        (("video_frames", "mel_spectrogram", "predicted_frames"), True),
        (("input", "audio", "output"), False),
        (("ls_unit", "AUDIO", "MOUTH"), False),
    ],
)
def test_a_wav2lip_graph_is_known_by_its_shapes(
    tmp_path: Path, names: tuple[str, str, str], swapped: bool
) -> None:
    source = wild_wav2lip(tmp_path / "wav2lip.onnx", *names, swapped=swapped)
    parity = wrap_unet(source, tmp_path / "model.onnx")
    assert parity.max_difference <= 1
    network = inspect_network(tmp_path / "model.onnx")
    assert (network.family, network.audio_shape) == ("wav2lip-96", (1, 80, 16))
    assert network.key == avatar_key(file_sha256(source))
    assert inspect_unet(source) == ("wav2lip-96", (1, 80, 16))


@pytest.mark.parametrize("side_px", [128, 256, 288, 384])
def test_larger_wav2lip_networks_see_the_masked_half_first(tmp_path: Path, side_px: int) -> None:
    """The picture of three channels is the difference of the two that the network sees."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 6, side_px, side_px])
    mel = helper.make_tensor_value_info("mel", TensorProto.FLOAT, ["n", 1, 80, 16])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3, side_px, side_px])
    nodes = [
        helper.make_node("Split", ["x"], ["first", "second"], axis=1),
        helper.make_node("Sub", ["second", "first"], ["difference"]),
        helper.make_node("ReduceMean", ["mel"], ["loudness"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("Add", ["difference", "loudness"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "graph", [x, mel], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 12)], ir_version=7)
    onnx.save(model, str(tmp_path / "w.onnx"))
    wrap_unet(tmp_path / "w.onnx", tmp_path / "model.onnx")
    assert inspect_network(tmp_path / "model.onnx").family == f"wav2lip-{side_px}"
    face = np.random.default_rng(0).integers(0, 256, (2, 3, side_px, side_px), dtype=np.uint8)
    (mouth,) = open_session(tmp_path / "model.onnx").run(
        ["MOUTH"], {"FACE": face, "AUDIO": np.zeros((2, 1, 80, 16), np.float32)}
    )
    half = side_px // 2
    assert not mouth[:, :half].any()
    np.testing.assert_allclose(mouth[:, half:], face[:, :, half:].transpose(0, 2, 3, 1), atol=1)


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


def constant_elsewhere(model: onnx.ModelProto) -> None:
    value = numpy_helper.from_array(np.zeros(1, np.float32), "zero")
    value.ClearField("raw_data")
    value.data_location = TensorProto.EXTERNAL
    value.external_data.add(key="location", value="../../etc/passwd")
    model.graph.node.insert(0, helper.make_node("Constant", [], ["zero"], value=value))


def nan(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array(np.nan, np.float32), "nan"))
    model.graph.node[-1].output[0] = "drawn"
    model.graph.node.append(helper.make_node("Mul", ["drawn", "nan"], ["output"]))


def batch_mean(model: onnx.ModelProto) -> None:
    """Frames that depend on their neighbours; nobody sees it one frame at a time."""
    model.graph.node[-1].output[0] = "drawn"
    model.graph.node.append(helper.make_node("ReduceMean", ["drawn"], ["output"], axes=[0], keepdims=1))


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
        (constant_elsewhere, "a single file is wanted"),
        (nan, "draws NaN"),
        (batch_mean, "cannot be served in batches|differs from its network"),
        (fixed_batch, "cannot be served in batches"),
    ],
)
def test_graphs_that_cannot_be_wrapped(tmp_path: Path, edit: object, message: str) -> None:
    source = wild(tmp_path / "m.onnx", "160", "hubert")
    if edit in (weights_elsewhere, constant_elsewhere):
        model = onnx.load(str(source))
        edit(model)  # type: ignore[operator]
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


@pytest.mark.parametrize("opset", [10, 22])
def test_an_opset_that_cannot_be_served_is_named(tmp_path: Path, opset: int) -> None:
    source = wild(tmp_path / "m.onnx", "160", "hubert")
    model = onnx.load(str(source))
    model.opset_import[0].version = opset
    onnx.save(model, str(source))
    with pytest.raises(ExportError, match=f"has opset {opset}; 11 to 21 is wanted"):
        wrap_unet(source, tmp_path / "out.onnx")
