"""The Wav2Lip network of 96 px: one set of weights that draws every face.

Layers, key names and sizes follow the published checkpoints, so that a `state_dict` loads as it is.
Input: float32 [B, 6, 96, 96], BGR/255: the face with its lower half black and the same face whole; a mel window
float32 [B, 1, 80, 16]. Output: float32 [B, 3, 96, 96], BGR in 0…1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from export.networks.audio_encoder import LAYERS, ConvBlock, Layer
from export.networks.families import FAMILIES

WIDEST = 512
LEAST_WIDEST = 32
"""With this the narrowest layer, of a 32nd of the channels, has one."""


def _residuals(channels: int, count: int) -> tuple[Layer, ...]:
    return (Layer(channels, residual=True),) * count


def _halving(channels: int, residuals: int) -> tuple[Layer, ...]:
    return (Layer(channels, (2, 2)), *_residuals(channels, residuals))


FACE_ENCODER = (
    (Layer(16, kernel=7, padding=3),),
    _halving(32, 2),
    _halving(64, 3),
    _halving(128, 2),
    _halving(256, 2),
    _halving(512, 1),
    (Layer(512, padding=0), Layer(512, kernel=1, padding=0)),
)
"""96 px to 48, 24, 12, 6, 3 and 1."""
FACE_DECODER = ((512, 0), (512, 1), (512, 2), (384, 2), (256, 2), (128, 2), (64, 2))
"""Channels of each block, and its residual layers."""
_OUTPUT = Layer(32)


class TransposedBlock(nn.Module):
    """Transposed convolution with bias, batch norm, ReLU: one pixel to three, or twice the size if it `doubles`."""

    def __init__(self, channels: int, out: int, doubles: bool) -> None:
        super().__init__()
        stride, padding = (2, 1) if doubles else (1, 0)
        self.conv_block = nn.Sequential(
            nn.ConvTranspose2d(channels, out, 3, stride, padding, output_padding=padding),
            nn.BatchNorm2d(out),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv_block(x))


def _blocks(channels: int, layers: tuple[Layer, ...]) -> nn.Sequential:
    before = (channels, *(layer.channels for layer in layers[:-1]))
    return nn.Sequential(*(ConvBlock(c, layer) for c, layer in zip(before, layers, strict=True)))


class Wav2Lip(nn.Module):
    """The network; `widest` is the channel count of its widest layer, to which all others are in proportion."""

    FIRST_WEIGHT = "face_encoder_blocks.0.0.conv_block.0.weight"
    LAST_LAYER = "output_block.1"

    def __init__(self, widest: int = WIDEST) -> None:
        super().__init__()
        self.family = FAMILIES["wav2lip-96"]
        self.mode = self.family.audio["mel"]
        self.widest = widest
        self.audio_encoder = _blocks(1, self._scaled(LAYERS))
        encoder = [self._scaled(layers) for layers in FACE_ENCODER]
        widths = [6, *(layers[-1].channels for layers in encoder)]
        self.face_encoder_blocks = nn.ModuleList(map(_blocks, widths[:-1], encoder))
        self.face_decoder_blocks = nn.ModuleList()
        below = self._scale(LAYERS[-1].channels)
        for number, (channels, residuals) in enumerate(FACE_DECODER):
            out = self._scale(channels)
            self.face_decoder_blocks.append(self._up(number, below, out, residuals))
            below = out + widths.pop()
        output = self._scaled((_OUTPUT,))
        self.output_block = nn.Sequential(*_blocks(below, output), nn.Conv2d(output[0].channels, 3, 1))

    def _up(self, number: int, channels: int, out: int, residuals: int) -> nn.Sequential:
        if number == 0:
            return _blocks(channels, (Layer(out, kernel=1, padding=0),))
        grown = TransposedBlock(channels, out, doubles=number > 1)
        return nn.Sequential(grown, *_blocks(out, _residuals(out, residuals)))

    def _scaled(self, layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
        return tuple(layer._replace(channels=self._scale(layer.channels)) for layer in layers)

    def _scale(self, channels: int) -> int:
        return channels * self.widest // WIDEST

    def forward(self, x: Tensor, audio: Tensor) -> Tensor:
        """Float32 [B, 6, 96, 96] and [B, 1, 80, 16] to float32 [B, 3, 96, 96] in 0…1."""
        maps = []
        for block in self.face_encoder_blocks:
            x = block(x)
            maps.append(x)
        y: Tensor = self.audio_encoder(audio)
        for block in self.face_decoder_blocks:
            y = torch.cat([block(y), maps.pop()], dim=1)
        return torch.sigmoid(self.output_block(y))
