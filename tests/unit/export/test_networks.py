from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch

from export.networks.audio_encoder import AudioEncoder
from export.networks.families import FULL_WIDTHS, HALF_WIDTHS
from export.networks.unet import LipSyncUNet
from export.networks.wav2lip import Wav2Lip
from tests.support.networks import random_wav2lip
from tests.support.rendering import wav2lip

# Names and shapes of a published checkpoint, num_batches_tracked left out.
PUBLISHED = Path(__file__).parents[2] / "data" / "unet-328-ave-state-dict.txt"


def parameters(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_names_and_shapes_are_the_published_ones() -> None:
    lines = [line.split(" ", 1) for line in PUBLISHED.read_text().splitlines() if line.strip()]
    published = {name: ast.literal_eval(shape) for name, shape in lines}
    state = LipSyncUNet().state_dict()
    assert len(state) == 556
    assert {k: tuple(v.shape) for k, v in state.items() if "num_batches" not in k} == published


# Counts from the published networks.
@pytest.mark.parametrize(
    ("family", "audio", "widths", "count"),
    [
        ("328", "ave", FULL_WIDTHS, 12_186_935),
        ("328", "ave", HALF_WIDTHS, 3_095_471),
        ("160", "hubert", FULL_WIDTHS, 12_159_591),
        ("160", "wenet", FULL_WIDTHS, 12_796_359),
    ],
)
def test_parameter_counts(family: str, audio: str, widths: tuple[int, ...], count: int) -> None:
    assert parameters(LipSyncUNet(family, audio, widths)) == count


def test_the_encoder_has_the_published_size_and_names() -> None:
    encoder = AudioEncoder()
    assert parameters(encoder) == 2_812_672
    wanted = {f"{block}.conv_block.{n}.weight" for block in range(13) for n in (0, 1)}
    assert wanted <= set(encoder.state_dict())


@pytest.mark.parametrize(
    ("family", "audio"),
    [("328", "ave"), ("328", "hubert"), ("328", "wenet"), ("160", "hubert"), ("160", "wenet")],
)
def test_every_mode_reaches_the_size_of_the_picture(family: str, audio: str) -> None:
    network = LipSyncUNet(family, audio, HALF_WIDTHS).eval()
    side = network.family.geometry.network_px
    with torch.inference_mode():
        drawn = network(torch.rand(1, 6, side, side), torch.rand(1, *network.mode.shape))
    assert drawn.shape == (1, 3, side, side)
    assert 0 <= drawn.min() < drawn.max() <= 1


def test_the_encoder_gives_512_numbers_none_negative() -> None:
    with torch.inference_mode():
        embedding = AudioEncoder().eval()(torch.randn(3, 1, 80, 16))
    assert embedding.shape == (3, 512)
    assert embedding.min() >= 0


def test_wav2lip_has_the_published_size() -> None:
    assert parameters(Wav2Lip()) == 36_298_035


def test_wav2lip_draws_what_its_layers_say() -> None:
    network = random_wav2lip().double()
    picture, mel = torch.rand(2, 6, 96, 96).double(), torch.rand(2, 1, 80, 16).double() * 8 - 4
    with torch.inference_mode():
        drawn = network(picture, mel)
        torch.testing.assert_close(drawn, wav2lip(network.state_dict(), picture, mel), atol=1e-9, rtol=0)
    assert drawn.std() > 0.05
    assert (drawn[0] - drawn[1]).abs().mean() > 0.01
