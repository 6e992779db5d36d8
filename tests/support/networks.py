"""Networks with random weights that behave like trained ones: statistics that matter, outputs of all values."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from export.limits import sample_inputs
from export.networks.audio_encoder import AudioEncoder
from export.networks.unet import LipSyncUNet
from export.networks.wav2lip import Wav2Lip

TINY_WIDTHS = (4, 8, 16, 32, 64)
NARROW = (4, 4, 8, 8, 16)
Network = TypeVar("Network", LipSyncUNet, Wav2Lip)


def random_unet(
    family: str = "328", audio: str = "ave", widths: Iterable[int] = TINY_WIDTHS, seed: int = 0
) -> LipSyncUNet:
    """A U-Net whose picture depends on the face and on the audio, in dark and light values alike."""
    torch.manual_seed(seed)
    network = LipSyncUNet(family, audio, widths)
    _settle(network, *_ordinary_inputs(network))
    spread(network)
    return network


def random_wav2lip(widest: int = 64, seed: int = 0) -> Wav2Lip:
    """A Wav2Lip network of the same kind."""
    torch.manual_seed(seed)
    network = Wav2Lip(widest)
    _settle(network, *_ordinary_inputs(network))
    spread(network)
    return network


def spread(network: LipSyncUNet | Wav2Lip) -> None:
    """Scale the last convolution so that the picture is neither grey, where no fault would show, nor saturated."""
    drawn: list[torch.Tensor] = []
    out = network.get_submodule(network.LAST_LAYER)
    assert isinstance(out, nn.Conv2d)
    handle = out.register_forward_hook(lambda _module, _inputs, output: drawn.append(output))
    with torch.no_grad():
        network.eval()(*_ordinary_inputs(network))
        handle.remove()
        # More contrast is more than float32 settles to a step, with weights that were never trained.
        scale = 0.35 / drawn[0].std((0, 2, 3))
        assert out.bias is not None
        out.bias.copy_((out.bias - drawn[0].mean((0, 2, 3))) * scale)
        out.weight.mul_(scale.view(3, 1, 1, 1))


def _ordinary_inputs(network: LipSyncUNet | Wav2Lip) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures and sounds in the form that the network was made for: BGR/255, plain and masked."""
    face, audio = list(sample_inputs(network.family.geometry.network_px, network.mode.shape))[-1]
    family = network.family.geometry
    x1, y1, x2, y2 = family.mask
    reference = torch.from_numpy(face[:, ::-1].copy()) / 255
    masked = reference.clone()
    masked[:, :, y1:y2, x1:x2] = 0
    return torch.cat(family.in_order(reference, masked), dim=1), torch.from_numpy(audio)


def random_encoder(seed: int = 0) -> AudioEncoder:
    """An encoder whose embeddings depend on the mel."""
    torch.manual_seed(seed)
    encoder = AudioEncoder()
    _settle(encoder, torch.rand(8, 1, 80, 16) * 8 - 4)
    return encoder


def _settle(network: nn.Module, *inputs: torch.Tensor) -> None:
    """Give the batch norms the statistics of what they see, as training would, and factors other than 1.

    Without, what the inputs say dies away from layer to layer, and the output is the same for all of them.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.7, 1.3)
        nn.init.uniform_(norm.bias, -0.2, 0.2)
        norm.momentum = 1.0
    with torch.no_grad():
        network.train()(*inputs)
    for norm in norms:
        norm.momentum = 0.1
        assert norm.num_batches_tracked is not None
        norm.num_batches_tracked.zero_()
    network.eval()


def save(state: Any, path: Path) -> Path:
    torch.save(state, path)
    return path


def even_unet(family: str = "160", audio: str = "hubert", seed: int = 0) -> LipSyncUNet:
    """A narrow U-Net none of whose batch norms blows faint channels up, as those of trained ones do not.

    With norms that do, a random network draws another picture in float16: rounding is blown up as well.
    """
    return _evened(random_unet(family, audio, NARROW, seed))


def even_wav2lip() -> Wav2Lip:
    """A Wav2Lip network of the same kind."""
    return _evened(random_wav2lip())


def _evened(network: Network) -> Network:
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_var is not None
                module.running_var.clamp_(min=float(module.running_var.mean()))
    spread(network)
    return network
