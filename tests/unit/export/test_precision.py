from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper

from export.demo.half_storage import store_half
from export.errors import ExportError
from export.limits import sample_inputs
from export.onnx_export import write_unet
from export.parity import unet_reference
from export.picture_parity import PictureLimits
from export.precision import LIMITS, PRECISION_KEY, halve, precision_of, rounded_model
from tests.support.avatar_sources import network_graph
from tests.support.convolutions import AUDIO, SIDE_PX, convolving_graph
from tests.support.networks import NARROW, even_unet, even_wav2lip, random_unet

MODES = [
    ("328", "ave"),
    ("328", "hubert"),
    ("328", "wenet"),
    ("160", "hubert"),
    ("160", "wenet"),
    ("wav2lip", "mel"),
]
DEMO = Path(__file__).parents[3] / "export" / "demo" / "weights" / "unet.onnx"


def interface(path: Path) -> list[tuple[str, int, list[str | int]]]:
    graph = onnx.load(str(path)).graph
    return [
        (
            t.name,
            t.type.tensor_type.elem_type,
            [d.dim_param or d.dim_value for d in t.type.tensor_type.shape.dim],
        )
        for t in (*graph.input, *graph.output)
    ]


def precision(path: Path) -> str:
    return precision_of(onnx.load(str(path)))


@pytest.mark.parametrize(("family", "audio"), MODES)
def test_both_precisions_equal_the_network_within_their_limits(
    tmp_path: Path, family: str, audio: str
) -> None:
    """The oracle is the network in PyTorch, by the original float path."""
    network = even_wav2lip() if family == "wav2lip" else even_unet(family, audio)
    whole, half = tmp_path / "whole.onnx", tmp_path / "half.onnx"
    write_unet(network, "ab" * 32, whole)
    parity = halve(whole, half)
    assert parity.psnr_db >= 45
    assert parity.max_difference <= 3
    assert parity.frames == 4
    for path, most, least_db in ((whole, 1, 70), (half, 3, 45)):
        session = onnxruntime.InferenceSession(str(path))
        for face, sound in sample_inputs(network.family.geometry.network_px, network.mode.shape):
            (mouth,) = session.run(["MOUTH"], {"FACE": face, "AUDIO": sound})
            wanted = unet_reference(network, face, sound).astype(np.uint8).astype(float)
            assert np.abs(mouth - wanted).max() <= most
            error = np.square(mouth - wanted).mean()
            assert error == 0 or 10 * np.log10(255**2 / error) >= least_db


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "u.onnx"
    write_unet(even_unet(), "ab" * 32, path)
    return path


def test_inputs_and_outputs_stay_and_what_is_between_is_halved(exported: Path, tmp_path: Path) -> None:
    half = tmp_path / "half.onnx"
    halve(exported, half)
    assert interface(half) == interface(exported)
    model = onnx.shape_inference.infer_shapes(onnx.load(str(half)))
    kinds = {info.name: info.type.tensor_type.elem_type for info in model.graph.value_info}
    kinds |= {weight.name: weight.data_type for weight in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in ("Conv", "Relu", "Resize"):
            assert kinds[node.input[0]] == kinds[node.output[0]] == TensorProto.FLOAT16, node.name
        if node.op_type == "Sigmoid":
            assert kinds[node.input[0]] == kinds[node.output[0]] == TensorProto.FLOAT
    scaled = next(
        n for n in model.graph.node if n.op_type == "Cast" and n.attribute[0].i == TensorProto.UINT8
    )
    assert kinds[scaled.input[0]] == TensorProto.FLOAT, "255 times the picture is truncated as it is"
    assert (precision(exported), precision(half)) == ("fp32", "fp16")
    assert half.stat().st_size < exported.stat().st_size
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert properties[PRECISION_KEY] == "fp16"
    assert properties["lipstream.checkpoint_sha256"] == "ab" * 32


def test_a_graph_may_be_halved_in_its_place(exported: Path, tmp_path: Path) -> None:
    path = tmp_path / "u.onnx"
    path.write_bytes(exported.read_bytes())
    halve(path, path)
    assert precision(path) == "fp16"
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_half_already_is_refused(exported: Path, tmp_path: Path) -> None:
    half = tmp_path / "half.onnx"
    halve(exported, half)
    with pytest.raises(ExportError, match=r"half\.onnx is in half precision already"):
        halve(half, tmp_path / "again.onnx", called=half)
    assert list(tmp_path.iterdir()) == [half]


def test_the_key_is_the_float32_graphs(exported: Path, tmp_path: Path) -> None:
    halve(exported, tmp_path / "half.onnx")
    inputs = {"FACE": np.zeros((3, 3, 160, 160), np.uint8), "AUDIO": np.zeros((3, 16, 32, 32), np.float32)}
    keys = [
        onnxruntime.InferenceSession(str(path)).run(["AVATAR_KEY"], inputs)[0].tolist()
        for path in (exported, tmp_path / "half.onnx")
    ]
    assert keys[0] == keys[1]
    assert len(keys[0]) == 3


def test_the_demos_trained_network(tmp_path: Path) -> None:
    """Its weights are stored in float16 and cast back, which is not to compute in it."""
    assert precision(DEMO) == "fp32"
    parity = halve(DEMO, tmp_path / "half.onnx")
    assert parity.psnr_db > 60
    assert parity.max_difference <= 1


def test_stored_halves_do_not_end_up_twice_in_the_file(exported: Path, tmp_path: Path) -> None:
    stored = tmp_path / "stored.onnx"
    stored.write_bytes(exported.read_bytes())
    store_half(stored)
    halve(stored, tmp_path / "half.onnx")
    weights = onnx.load(str(tmp_path / "half.onnx")).graph.initializer
    assert len({weight.name for weight in weights}) == len(weights)
    assert not any(name.name.endswith("_half") for name in weights)


@pytest.mark.parametrize(("gain", "fits"), [(1e2, True), (1e4, False), (1e6, False)])
def test_values_that_float16_does_not_hold_are_noticed(tmp_path: Path, gain: float, fits: bool) -> None:
    """The pictures are the same for any gain: what overflows lies between two convolutions."""
    path, out = tmp_path / "u.onnx", tmp_path / "half.onnx"
    onnx.save(convolving_graph(gain=gain), str(path))
    if fits:
        assert halve(path, out).psnr_db > 45
        return
    with pytest.raises(ExportError, match=r"u\.onnx reaches \d\.\d+e\+\d+ in '(seen|lit)'; fp16 holds 65504"):
        halve(path, out, called=path)
    assert list(tmp_path.iterdir()) == [path]


def test_weights_that_float16_does_not_hold_are_noticed(tmp_path: Path) -> None:
    """The converter would clip them without a word."""
    graph = convolving_graph()
    for weight in graph.graph.initializer:
        if weight.name == "first":
            values = numpy_helper.to_array(weight).copy()
            values[0, 0] = 1e5
            weight.CopyFrom(numpy_helper.from_array(values, "first"))
    onnx.save(graph, str(tmp_path / "u.onnx"))
    with pytest.raises(ExportError, match="keep this network in fp32"):
        halve(tmp_path / "u.onnx", tmp_path / "half.onnx")


@pytest.mark.parametrize("limits", [PictureLimits(99.9, 3), PictureLimits(45, -1)])
def test_a_graph_beyond_the_limits_is_refused_and_not_written(
    exported: Path, tmp_path: Path, limits: PictureLimits
) -> None:
    out = tmp_path / "half.onnx"
    with pytest.raises(
        ExportError, match=r"half\.onnx in fp16 is too far from its float32 graph: .* are wanted"
    ):
        halve(exported, out, limits)
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_half_precision_draws_differently_is_refused(tmp_path: Path) -> None:
    """Random norms blow faint channels up, and the rounding in them."""
    write_unet(random_unet("328", "ave", NARROW), "ab" * 32, tmp_path / "u.onnx")
    with pytest.raises(ExportError, match=r"in fp16 is too far from its float32 graph: PSNR \d\d\.\d dB"):
        halve(tmp_path / "u.onnx", tmp_path / "half.onnx")
    assert not (tmp_path / "half.onnx").exists()


def test_values_are_rounded_as_float16_rounds_them(tmp_path: Path) -> None:
    """What the CPU's float16 graphs leave out: numpy rounds the values between the two convolutions."""
    graph = convolving_graph()
    weights = {w.name: numpy_helper.to_array(w) for w in graph.graph.initializer}
    rounded = rounded_model(graph)
    rounded.graph.output.append(onnx.helper.make_tensor_value_info("lit", TensorProto.FLOAT, None))
    rng = np.random.default_rng(3)
    face = rng.integers(0, 256, (1, 3, SIDE_PX, SIDE_PX), np.uint8)
    session = onnxruntime.InferenceSession(rounded.SerializeToString())
    (lit,) = session.run(["lit"], {"FACE": face, "AUDIO": np.zeros((1, *AUDIO), np.float32)})
    assert np.array_equal(lit, lit.astype(np.float16).astype(np.float32))
    seen = torch.nn.functional.conv2d(
        torch.from_numpy(face.astype(np.float32)),
        torch.from_numpy(weights["first"].astype(np.float16).astype(np.float32)),
        padding=1,
    )
    assert np.abs(lit - seen.clamp(min=0).numpy()).max() <= np.abs(lit).max() / 2**11


def test_a_graph_without_convolutions_is_refused(tmp_path: Path) -> None:
    onnx.save(network_graph(), str(tmp_path / "u.onnx"))
    with pytest.raises(ExportError, match="no convolution"):
        halve(tmp_path / "u.onnx", tmp_path / "half.onnx")


def test_the_limits_are_those_that_are_promised() -> None:
    assert (LIMITS.min_psnr_db, LIMITS.max_steps) == (45, 3)
