"""Networks with random weights that behave like trained ones: statistics that matter, outputs of all values."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from export.networks.audio_encoder import AudioEncoder
from export.networks.unet import LipSyncUNet

TINY_WIDTHS = (4, 8, 16, 32, 64)


def random_unet(
    family: str = "328", audio: str = "ave", widths: Iterable[int] = TINY_WIDTHS, seed: int = 0
) -> LipSyncUNet:
    torch.manual_seed(seed)
    network = LipSyncUNet(family, audio, widths)
    _stir(network)
    with torch.no_grad():
        # Freshly initialised, every pixel would be a grey near 127, and most faults would not show.
        network.outc.conv.weight.mul_(8)
    return network.eval()


def random_encoder(seed: int = 0) -> AudioEncoder:
    torch.manual_seed(seed)
    encoder = AudioEncoder()
    _stir(encoder)
    return encoder.eval()


def _stir(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.running_mean, -0.3, 0.3),
                (module.running_var, 0.5, 1.5),
                (module.weight, 0.7, 1.3),
                (module.bias, -0.2, 0.2),
            ):
                assert tensor is not None
                nn.init.uniform_(tensor, low, high)


def save(state: Any, path: Path) -> Path:
    torch.save(state, path)
    return path
