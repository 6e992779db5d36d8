from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from compositor_backend.contract import avatar_key
from export.errors import ExportError
from export.graphs import LipSyncNetwork, ServedEncoder, ServedNetwork, fold_batch_norms
from export.limits import Limits, Parity, sample_inputs
from export.onnx_export import IR_VERSION, OPSET, export_encoder, export_unet, write_encoder, write_unet
from export.parity import check_unet, unet_reference
from tests.support.networks import random_encoder, random_unet, random_wav2lip, save

SHA256 = hashlib.sha256(b"a checkpoint").hexdigest()
EQUAL_SHARE = 0.998
"""Twice the differences that were ever measured: with one and the same network, 0.9990 and 0.9991 on two machines."""
MODES = [
    ("328", "ave"),
    ("328", "hubert"),
    ("328", "wenet"),
    ("160", "hubert"),
    ("160", "wenet"),
    ("wav2lip-96", "mel"),
]


def tensors(values: list[onnx.ValueInfoProto]) -> list[tuple[str, int, list[str | int]]]:
    return [
        (
            value.name,
            value.type.tensor_type.elem_type,
            [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim],
        )
        for value in values
    ]


def random_network(family: str, audio: str) -> LipSyncNetwork:
    return random_wav2lip() if family == "wav2lip-96" else random_unet(family, audio)


@pytest.mark.parametrize(("family", "audio"), [("328", "ave"), ("160", "wenet"), ("wav2lip-96", "mel")])
def test_the_networks_tried_here_see_and_hear(family: str, audio: str) -> None:
    """Else no fault in what they see or hear could show."""
    network = random_network(family, audio)
    side = network.family.geometry.network_px
    face, sound = list(sample_inputs(side, network.mode.shape))[1]
    drawn = unet_reference(network, face, sound)
    assert np.percentile(drawn, 99) - np.percentile(drawn, 1) > 80
    assert np.abs(drawn - unet_reference(network, face, np.zeros_like(sound)))[:2].mean() > 2
    assert np.abs(drawn - unet_reference(network, face[::-1].copy(), sound))[0].mean() > 2


@pytest.mark.parametrize(("family", "audio"), MODES)
def test_a_checkpoint_becomes_a_graph_of_the_contract(tmp_path: Path, family: str, audio: str) -> None:
    network = random_network(family, audio)
    path = save(network.state_dict(), tmp_path / "u.pth")
    parity = export_unet(path, family, audio, tmp_path / "u.onnx")
    assert parity.max_difference <= 1
    assert parity.equal_share >= EQUAL_SHARE
    model = onnx.load(str(tmp_path / "u.onnx"))
    side = network.family.geometry.network_px
    u8, f32, i64 = onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
    assert tensors(model.graph.input) == [
        ("FACE", u8, ["batch", 3, side, side]),
        ("AUDIO", f32, ["batch", *network.mode.shape]),
    ]
    assert tensors(model.graph.output) == [
        ("MOUTH", u8, ["batch", side, side, 3]),
        ("AVATAR_KEY", i64, ["batch", 1]),
    ]
    assert (model.opset_import[0].version, model.ir_version) == (OPSET, IR_VERSION)
    assert not any(node.op_type == "BatchNormalization" for node in model.graph.node)


def test_the_key_is_the_checkpoints_for_every_frame_of_a_batch(tmp_path: Path) -> None:
    write_unet(random_unet("160", "hubert"), SHA256, tmp_path / "u.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "u.onnx"))
    for batch in (1, 4):
        inputs = {
            "FACE": np.zeros((batch, 3, 160, 160), np.uint8),
            "AUDIO": np.zeros((batch, 16, 32, 32), np.float32),
        }
        assert session.run(["AVATAR_KEY"], inputs)[0].tolist() == [[avatar_key(SHA256)]] * batch


def test_a_frame_does_not_depend_on_its_batch(tmp_path: Path) -> None:
    write_unet(random_unet(), SHA256, tmp_path / "u.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "u.onnx"))
    rng = np.random.default_rng(1)
    face = rng.integers(0, 256, (5, 3, 320, 320), np.uint8)
    audio = rng.random((5, 32, 16, 16), np.float32)
    (together,) = session.run(["MOUTH"], {"FACE": face, "AUDIO": audio})
    alone = [
        session.run(["MOUTH"], {"FACE": face[n : n + 1], "AUDIO": audio[n : n + 1]})[0][0] for n in range(5)
    ]
    assert np.array_equal(together, alone)


def test_the_reference_sees_bgr_and_the_mask() -> None:
    """Against the same steps written out by hand."""
    network = random_unet()
    face = np.random.default_rng(2).integers(0, 256, (1, 3, 320, 320), np.uint8)
    audio = np.zeros((1, 32, 16, 16), np.float32)
    six = np.zeros((1, 6, 320, 320), np.float32)
    for channel in range(3):
        plane = face[0, 2 - channel] / np.float32(255)
        six[0, channel] = plane
        six[0, 3 + channel] = plane
        six[0, 3 + channel, 5:310, 5:315] = 0
    with torch.inference_mode():
        drawn = network(torch.from_numpy(six), torch.from_numpy(audio)).numpy()[0]
    expected = np.stack([drawn[2 - c] * 255 for c in range(3)], axis=-1)
    assert np.array_equal(unet_reference(network, face, audio)[0], expected)


def test_a_network_that_float32_does_not_settle_is_exported(tmp_path: Path) -> None:
    """Weights as wild initialisations have them: float32 and float64 draw different pictures."""
    network = random_unet("160", "hubert")
    with torch.no_grad():
        network.outc.conv.weight.mul_(2000)
        assert network.outc.conv.bias is not None
        network.outc.conv.bias.mul_(2000)
    face, audio = next(iter(sample_inputs(160, (16, 32, 32))))
    exact = unet_reference(network, face, audio, torch.float64)
    assert np.abs(exact - unet_reference(network, face, audio)).max() > 1
    parity = write_unet(network, SHA256, tmp_path / "u.onnx", Limits(max_steps=0, equal_share=0.99))
    assert 0 < parity.max_difference <= parity.allowed


def test_values_that_float32_does_not_settle_need_not_be_equal(tmp_path: Path) -> None:
    limits = Limits(equal_share=1.0)
    parity = write_unet(random_wav2lip(), SHA256, tmp_path / "w.onnx", limits)
    assert EQUAL_SHARE <= parity.equal_share < 1


def test_a_network_that_float32_settles_is_granted_nothing(tmp_path: Path) -> None:
    assert write_unet(random_unet("160", "hubert"), SHA256, tmp_path / "u.onnx").allowed == 1
    assert write_encoder(random_encoder(), SHA256, tmp_path / "e.onnx").allowed == 1e-4


@pytest.mark.filterwarnings("ignore:overflow")
def test_networks_that_give_nan_are_refused(tmp_path: Path) -> None:
    """Both sides cast it to the same byte, so a comparison alone would find them equal."""
    unet, encoder = random_unet("160", "hubert"), random_encoder()
    for network in (unet, encoder):
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.data.fill_(1e30)
    with pytest.raises(ExportError, match="draws NaN"):
        write_unet(unet, SHA256, tmp_path / "u.onnx")
    with pytest.raises(ExportError, match="gives NaN or infinity"):
        write_encoder(encoder, SHA256, tmp_path / "e.onnx")
    assert list(tmp_path.iterdir()) == []


def test_what_was_measured_is_said_with_what_was_allowed() -> None:
    said = str(Parity(max_difference=3, equal_share=0.99984, values=1000, allowed=5))
    assert said == "99.9840% of 1000 values equal the network's, off by at most 3 of 255 (5 allowed)"


def unmasked(served: ServedNetwork) -> None:
    served.visible.fill_(1)


def swapped(served: ServedNetwork) -> None:
    served.network.outc.conv.weight.data = served.network.outc.conv.weight.data.flip(0)


def rounded(served: ServedNetwork) -> None:
    forward = served.network.forward
    served.network.forward = lambda x, audio: forward(x, audio) + 0.5 / 255  # type: ignore[method-assign]


def deaf(served: ServedNetwork) -> None:
    forward = served.network.forward
    served.network.forward = lambda x, audio: forward(x, 0 * audio)  # type: ignore[method-assign]


def half_a_pixel_off(served: ServedNetwork) -> None:
    for module in served.modules():
        if isinstance(module, nn.Upsample):
            module.align_corners = False


def unnormalised(served: ServedNetwork) -> None:
    """One batch norm whose fold was forgotten."""
    served.network.audio_model.conv3.bias.data.add_(0.1)


@pytest.mark.parametrize("fault", [unmasked, swapped, rounded, deaf, half_a_pixel_off, unnormalised])
def test_a_graph_that_differs_is_refused_and_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: object
) -> None:
    def faulty(*arguments: object) -> nn.Module:
        served = ServedNetwork(*arguments)  # type: ignore[arg-type]
        fault(served)  # type: ignore[operator]
        return served

    monkeypatch.setattr("export.onnx_export.ServedNetwork", faulty)
    with pytest.raises(ExportError, match=r"/u\.onnx differs from its network by up to \d+ of 255"):
        write_unet(random_unet(), SHA256, tmp_path / "u.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_graph_with_another_key_is_refused(tmp_path: Path) -> None:
    network = random_unet("160", "hubert")
    write_unet(network, SHA256, tmp_path / "u.onnx")
    with pytest.raises(ExportError, match="AVATAR_KEY"):
        check_unet(tmp_path / "u.onnx", network, key=1)


def test_limits_can_be_tightened(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"at least 100\.1% are wanted"):
        write_unet(random_unet("160", "hubert"), SHA256, tmp_path / "u.onnx", Limits(equal_share=1.001))


def test_an_encoder_becomes_a_graph_of_the_contract(tmp_path: Path) -> None:
    path = save(random_encoder().state_dict(), tmp_path / "e.pth")
    parity = export_encoder(path, tmp_path / "e.onnx")
    assert parity.max_difference <= 1e-4
    assert str(parity).startswith("100.0000% of 2048 values equal the network's, off by at most")
    model = onnx.load(str(tmp_path / "e.onnx"))
    f32 = onnx.TensorProto.FLOAT
    assert tensors(model.graph.input) == [("MEL", f32, ["batch", 1, 80, 16])]
    assert tensors(model.graph.output) == [("EMBEDDING", f32, ["batch", 512])]


def test_an_encoder_graph_that_differs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = ServedEncoder(random_encoder(seed=1))
    monkeypatch.setattr("export.onnx_export.ServedEncoder", lambda _encoder: other)
    with pytest.raises(ExportError, match="of the embedding's range"):
        write_encoder(random_encoder(), SHA256, tmp_path / "e.onnx")
    assert list(tmp_path.iterdir()) == []


def test_folding_batch_norms_changes_nothing_but_their_number() -> None:
    network = random_unet()
    face, audio = torch.rand(1, 6, 320, 320), torch.rand(1, 32, 16, 16)
    with torch.inference_mode():
        before = network(face, audio)
        fold_batch_norms(network)
        assert torch.allclose(network(face, audio), before, atol=1e-4)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match="cannot be written"):
        write_encoder(random_encoder(), SHA256, tmp_path / "file" / "e.onnx")
