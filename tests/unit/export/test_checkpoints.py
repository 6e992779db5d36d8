from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from export.checkpoints import Checkpoint, describe_unet, load_encoder, load_network, read_checkpoint
from export.errors import ExportError
from export.networks.unet import LipSyncUNet
from export.networks.wav2lip import Wav2Lip
from tests.support.networks import TINY_WIDTHS, random_encoder, random_unet, random_wav2lip, save


def load_unet(path: Path, *said: str | None) -> tuple[LipSyncUNet, Checkpoint]:
    network, checkpoint = load_network(path, *said)
    assert isinstance(network, LipSyncUNet)
    return network, checkpoint


def same(state: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return state.keys() == other.keys() and all(torch.equal(state[key], other[key]) for key in state)


def short_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The names of newer 160 checkpoints."""
    return {
        re.sub(r"^(inc\.inconv|down\d\.maxpool_conv)\.0\.", r"\1.", key): value
        for key, value in state.items()
    }


@pytest.mark.parametrize(
    "dress",
    [
        lambda state: state,
        lambda state: {"epoch": 7, "model": state, "optimizer": {"lr": 0.1}},
        lambda state: {f"module.{key}": value for key, value in state.items()},
        lambda state: {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")},
    ],
    ids=["bare", "with epoch and optimizer", "data parallel", "old batch norms"],
)
def test_a_unet_loads_as_it_is_found(tmp_path: Path, dress: Any) -> None:
    network = random_unet()
    loaded, checkpoint = load_unet(save(dress(network.state_dict()), tmp_path / "8.pth"), "328", "ave")
    kept = {k: v for k, v in loaded.state_dict().items() if not k.endswith("num_batches_tracked")}
    assert same(kept, {k: v for k, v in network.state_dict().items() if k in kept})
    assert loaded.widths == TINY_WIDTHS
    assert not loaded.training
    assert len(checkpoint.sha256) == 64


def test_newer_names_of_the_160_family_are_renamed(tmp_path: Path) -> None:
    network = random_unet("160", "hubert")
    state = short_names(network.state_dict())
    assert "inc.inconv.conv.0.weight" in state
    loaded, _ = load_unet(save(state, tmp_path / "ultralight.pth"))
    assert loaded.family.name == "160"
    assert loaded.mode.name == "hubert"
    assert same(loaded.state_dict(), network.state_dict())


@pytest.mark.parametrize("prefix", ["", "audio_encoder.", "module.audio_encoder."])
def test_an_encoder_loads_under_its_prefixes(tmp_path: Path, prefix: str) -> None:
    encoder = random_encoder()
    state = {prefix + key: value for key, value in encoder.state_dict().items()}
    loaded, _ = load_encoder(save(state, tmp_path / "e.pth"))
    assert same(loaded.state_dict(), encoder.state_dict())


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"gone\.pth is not there"):
        read_checkpoint(tmp_path / "gone.pth")


@pytest.mark.parametrize("keep", [0, 10, 500, 0.5, 0.98])
def test_a_truncated_file(tmp_path: Path, keep: float) -> None:
    path = save(random_unet().state_dict(), tmp_path / "t.pth")
    data = path.read_bytes()
    path.write_bytes(data[: int(keep if keep > 1 or keep == 0 else keep * len(data))])
    with pytest.raises(ExportError, match="truncated"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "content", [b"hello\n", b"\x80\x04.", b"PK\x03\x04nothing", bytes(2000), b"\x89PNG\r\n"]
)
def test_a_file_that_is_no_checkpoint(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "n.pth"
    path.write_bytes(content)
    with pytest.raises(ExportError, match="no checkpoint"):
        read_checkpoint(path)


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return eval, ("open('trapped', 'w')",)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_would_run_code_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, legacy: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.pth"
    if legacy:
        path.write_bytes(pickle.dumps(Trap(), protocol=2))
    else:
        torch.save({"a": Trap()}, path)
    with pytest.raises(ExportError, match=r"evil\.pth"):
        read_checkpoint(path)
    assert not Path("trapped").exists()


def test_the_call_it_would_make_is_named(tmp_path: Path) -> None:
    path = tmp_path / "evil.pth"
    torch.save({"a": Trap()}, path)
    with pytest.raises(ExportError, match=r"wants to call eval"):
        read_checkpoint(path)


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, {"model": {}}, {}, torch.zeros(3)])
def test_something_else_than_a_state_dict(tmp_path: Path, content: Any) -> None:
    with pytest.raises(ExportError, match="a state_dict of tensors is wanted"):
        read_checkpoint(save(content, tmp_path / "x.pth"))


def test_a_foreign_checkpoint_says_what_is_missing_and_what_is_unknown(tmp_path: Path) -> None:
    path = save({"fc.weight": torch.zeros(2, 2)}, tmp_path / "resnet.pth")
    with pytest.raises(
        ExportError, match=r"not a U-Net: 464 tensors missing .*, …\) and 1 tensors unknown \(fc\.weight\)"
    ):
        load_unet(path, "328", "ave")
    with pytest.raises(ExportError, match=r"not an audio encoder: .* missing .*, …\) and 1 tensors unknown"):
        load_encoder(path)


def test_a_tensor_too_few_and_one_too_many(tmp_path: Path) -> None:
    state = random_unet().state_dict()
    state["extra"] = state.pop("outc.conv.bias")
    with pytest.raises(
        ExportError, match=r"1 tensors missing \(outc.conv.bias\) and 1 tensors unknown \(extra\)"
    ):
        load_unet(save(state, tmp_path / "u.pth"), "328", "ave")


def test_an_archive_that_unpacks_to_more_than_it_is_large(tmp_path: Path) -> None:
    path = save(random_unet().state_dict(), tmp_path / "u.pth")
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/9999", bytes(50_000_000))
    with pytest.raises(ExportError, match=r"claims to hold 5\d\.\d MB, or to be compressed"):
        load_unet(path, "328", "ave")


def test_a_wrong_shape_is_named(tmp_path: Path) -> None:
    state = random_unet().state_dict()
    state["outc.conv.bias"] = torch.zeros(4)
    with pytest.raises(ExportError, match=r"outc\.conv\.bias has shape \[4\]; \[3\] is wanted"):
        load_unet(save(state, tmp_path / "u.pth"), "328", "ave")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("outc.conv.bias", torch.full((3,), torch.nan), "holds NaN or infinity"),
        ("outc.conv.bias", torch.zeros(3, dtype=torch.complex64), "is torch.complex64; plain"),
        ("outc.conv.bias", torch.zeros(3, dtype=torch.int32), "is torch.int32; plain"),
        ("outc.conv.bias", torch.zeros(3).to_sparse(), r"torch.sparse_coo, cpu\); plain"),
        ("outc.conv.bias", torch.zeros(3, device="meta"), r"torch.strided, meta\); plain"),
        ("audio_model.bn3.running_var", torch.full((32,), -0.5), "holds -0.5; variances of 0 or more"),
        ("inc.inconv.0.conv.6.weight", torch.zeros(()), r"has shape \[\]; \[2 to 2048"),
        ("inc.inconv.0.conv.6.weight", torch.zeros(0, 12, 1, 1), r"has shape \[0, 12, 1, 1\]; \[2 to 2048"),
        # One number on disk that says it is 268 million, or ten thousand times as many.
        ("inc.inconv.0.conv.6.weight", torch.zeros(1, 1, 1, 1).expand(1 << 28, 1, 1, 1), "has shape"),
        ("inc.inconv.0.conv.6.weight", torch.zeros(1).expand(1 << 41), "has shape .* fewer numbers"),
        ("down5.maxpool_conv.0.double_conv.0.conv.6.weight", torch.zeros(4, 8, 1, 1), r"\[8 to 2048"),
    ],
)
def test_weights_that_make_no_network(tmp_path: Path, key: str, value: torch.Tensor, message: str) -> None:
    state = random_unet().state_dict()
    assert key in state
    state[key] = value
    with pytest.raises(ExportError, match=f"{re.escape(key)}.*{message}"):
        load_unet(save(state, tmp_path / "u.pth"), "328", "ave")


def test_half_precision_weights_load(tmp_path: Path) -> None:
    network = random_unet()
    half = {
        key: value.half() if value.is_floating_point() else value
        for key, value in network.state_dict().items()
    }
    loaded, _ = load_unet(save(half, tmp_path / "u.pth"), "328", "ave")
    assert torch.equal(loaded.outc.conv.bias, network.outc.conv.bias.half().float())


def test_a_step_count_of_any_shape_is_passed_over(tmp_path: Path) -> None:
    state = random_unet().state_dict()
    state["audio_model.bn3.num_batches_tracked"] = torch.zeros(3)
    assert load_unet(save(state, tmp_path / "u.pth"), "328", "ave")[0].widths == TINY_WIDTHS


def test_a_folder_and_a_family_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="is no file"):
        read_checkpoint(tmp_path)
    path = save(random_unet().state_dict(), tmp_path / "u.pth")
    with pytest.raises(
        ExportError, match=r"500 is no network family; one of 328, 160, wav2lip-96, .* is wanted"
    ):
        load_unet(path, "500", "ave")


@pytest.mark.parametrize(
    ("family", "audio", "said", "message"),
    [
        ("328", "ave", ("160", "hubert"), r"6 levels, a network of the 328 family; 5 are wanted for the 160"),
        ("160", "hubert", ("328", "ave"), r"5 levels, a network of the 160 family; 6 are wanted for the 328"),
        ("328", "wenet", ("328", "ave"), r"audio of 256 channels; 32 are wanted for the audio mode ave"),
        ("160", "wenet", ("160", "hubert"), r"audio of 128 channels; 16 are wanted"),
        ("160", "hubert", ("160", "ave"), r"160 family has no audio mode ave; hubert, wenet are known"),
        ("328", "ave", (None, None), r"say whether it is ave or hubert"),
    ],
)
def test_what_contradicts_the_weights(
    tmp_path: Path, family: str, audio: str, said: tuple[str | None, str | None], message: str
) -> None:
    path = save(random_unet(family, audio).state_dict(), tmp_path / "u.pth")
    with pytest.raises(ExportError, match=message):
        load_unet(path, *said)


def test_widths_follow_from_the_weights(tmp_path: Path) -> None:
    path = save(LipSyncUNet("160", "wenet", (8, 8, 16, 24, 32)).state_dict(), tmp_path / "u.pth")
    assert load_unet(path)[0].widths == (8, 8, 16, 24, 32)


# --- Wav2Lip ---
@pytest.mark.parametrize(
    "dress",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "optimizer": None, "global_step": 3, "global_epoch": 1},
        lambda state: {f"module.{key}": value for key, value in state.items()},
    ],
    ids=["bare", "as it is trained", "data parallel"],
)
@pytest.mark.parametrize("family", [None, "wav2lip-96"])
def test_a_wav2lip_network_loads_as_it_is_found(tmp_path: Path, dress: Any, family: str | None) -> None:
    network = random_wav2lip()
    loaded, _ = load_network(save(dress(network.state_dict()), tmp_path / "wav2lip.pth"), family)
    assert isinstance(loaded, Wav2Lip)
    assert loaded.widest == network.widest
    assert same(loaded.state_dict(), network.state_dict())
    assert describe_unet(tmp_path / "wav2lip.pth") == ("wav2lip-96", ("mel",))


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        (("328", None), "is read as a network of the wav2lip-96 family; 328 was said"),
        (("wav2lip-256", None), r"wav2lip-96 family; wav2lip-256 networks are taken as \.onnx only"),
        ((None, "ave"), "the wav2lip-96 family has no audio mode ave; mel is known"),
    ],
)
def test_what_contradicts_a_wav2lip_network(
    tmp_path: Path, said: tuple[str | None, str | None], complaint: str
) -> None:
    path = save(random_wav2lip().state_dict(), tmp_path / "wav2lip.pth")
    with pytest.raises(ExportError, match=complaint):
        load_network(path, *said)


@pytest.mark.parametrize("family", [None, "wav2lip-96"])
def test_a_larger_wav2lip_networks_checkpoint_is_refused(tmp_path: Path, family: str | None) -> None:
    state = random_wav2lip().state_dict()
    state["face_encoder_blocks.7.0.conv_block.0.weight"] = torch.zeros(32, 32, 1, 1)
    with pytest.raises(ExportError, match=r"larger ones are taken as \.onnx\): 1 tensors unknown"):
        load_network(save(state, tmp_path / "wav2lip.pth"), family)


def test_wav2lip_was_said_and_it_is_none(tmp_path: Path) -> None:
    path = save({"weight": torch.zeros(2)}, tmp_path / "w.pth")
    with pytest.raises(ExportError, match=r"not a network of the wav2lip-96 family .* tensors missing"):
        load_network(path, "wav2lip-96")
    unet = save(random_unet().state_dict(), tmp_path / "u.pth")
    with pytest.raises(ExportError, match="a network of the 328 family; none are wanted for the wav2lip-96"):
        load_network(unet, "wav2lip-96")


@pytest.mark.parametrize("widest", [48, 4096, 16])
def test_a_wav2lip_networks_widths_are_in_proportion(tmp_path: Path, widest: int) -> None:
    state = random_wav2lip().state_dict()
    state["face_encoder_blocks.6.0.conv_block.0.weight"] = torch.zeros(widest, 1, 1, 1)
    with pytest.raises(ExportError, match="a multiple of 32 up to 2048 is wanted first"):
        load_network(save(state, tmp_path / "wav2lip.pth"))
