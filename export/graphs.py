"""The modules that exist to be traced: their `forward` arguments and results are the ONNX graphs' own."""

from __future__ import annotations

import copy
from typing import TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from compositor_backend.contract import avatar_key
from export.networks.audio_encoder import AudioEncoder
from export.networks.families import visible
from export.networks.unet import AudioBranch, LipSyncUNet
from export.networks.wav2lip import Wav2Lip

LipSyncNetwork: TypeAlias = LipSyncUNet | Wav2Lip
"""What draws a mouth: six channels and audio in, three channels out."""
_BGR = [2, 1, 0]


def fold_batch_norms(network: nn.Module) -> None:
    """Fold every batch norm of a network in evaluation mode into the convolution before it, in place."""
    for module in network.modules():
        if isinstance(module, nn.Sequential):
            _fold_sequence(module)
        elif isinstance(module, AudioBranch):
            for conv, norm in (("conv3", "bn3"), ("conv5", "bn5")):
                setattr(module, conv, _fold(module.get_submodule(conv), module.get_submodule(norm)))
                setattr(module, norm, nn.Identity())


def _fold_sequence(sequence: nn.Sequential) -> None:
    for n, (conv, norm) in enumerate(zip(list(sequence)[:-1], list(sequence)[1:], strict=True)):
        if isinstance(conv, nn.Conv2d | nn.ConvTranspose2d) and isinstance(norm, nn.BatchNorm2d):
            sequence[n], sequence[n + 1] = _fold(conv, norm), nn.Identity()


def _fold(conv: nn.Module, norm: nn.Module) -> nn.Module:
    """Folded in float64, so that only the result is rounded."""
    transposed = isinstance(conv, nn.ConvTranspose2d)
    exact = cast(nn.Conv2d, conv).double(), cast(nn.BatchNorm2d, norm).double()
    return fuse_conv_bn_eval(*exact, transpose=transposed).float()


class ServedNetwork(nn.Module):
    """A lip-sync network as it is served: uint8 RGB in and out, mask and scale inside.

    `forward` takes FACE uint8 [B,3,S,S] RGB and AUDIO float32 [B, *shape], and gives MOUTH uint8 [B,S,S,3]
    RGB, truncated, and AVATAR_KEY int64 [B,1].
    """

    key: Tensor
    visible: Tensor

    def __init__(self, network: LipSyncNetwork, checkpoint_sha256: str) -> None:
        super().__init__()
        served = copy.deepcopy(network).eval()
        fold_batch_norms(served)
        self.network = served
        self._fold_colours()
        self.register_buffer("visible", torch.from_numpy(visible(network.family.geometry)))
        self.register_buffer("key", torch.tensor([[avatar_key(checkpoint_sha256)]], dtype=torch.int64))

    def _fold_colours(self) -> None:
        """Let the first convolution read RGB in 0…255 and the last one give RGB."""
        weights = dict(self.network.named_parameters())
        with torch.no_grad():
            first = weights[self.network.FIRST_WEIGHT]
            first.copy_(first[:, [*_BGR, *(3 + c for c in _BGR)]] / 255)
            for kind in ("weight", "bias"):
                last = weights[f"{self.network.LAST_LAYER}.{kind}"]
                last.copy_(last[_BGR])

    def forward(self, face: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        """One batch; see the class."""
        reference = face.float()
        both = self.network.family.geometry.in_order(reference, reference * self.visible)
        drawn = self.network(torch.cat(both, dim=1), audio)
        # A sigmoid times 255 is in 0…255 already; the cast truncates.
        mouth = (drawn * 255).to(torch.uint8).permute(0, 2, 3, 1)
        return mouth, self.key.expand(face.shape[0], 1)


class ServedEncoder(nn.Module):
    """The audio encoder as it is served: MEL float32 [M,1,80,16] to EMBEDDING float32 [M,512]."""

    def __init__(self, encoder: AudioEncoder) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(encoder).eval()
        fold_batch_norms(self.encoder)

    def forward(self, mel: Tensor) -> Tensor:
        """One batch; see the class."""
        embedding: Tensor = self.encoder(mel)
        return embedding
