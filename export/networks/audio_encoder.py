"""The audio encoder of the "ave" features: Wav2Lip's topology, 13 convolutions from mel to 512 numbers."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Layer(NamedTuple):
    """One block: output channels, stride, whether its input is added, kernel and padding."""

    channels: int
    stride: tuple[int, int] = (1, 1)
    residual: bool = False
    kernel: int = 3
    padding: int = 1


LAYERS = (
    Layer(32),
    Layer(32, residual=True),
    Layer(32, residual=True),
    Layer(64, (3, 1)),
    Layer(64, residual=True),
    Layer(64, residual=True),
    Layer(128, (3, 3)),
    Layer(128, residual=True),
    Layer(128, residual=True),
    Layer(256, (3, 2)),
    Layer(256, residual=True),
    Layer(512, kernel=3, padding=0),
    Layer(512, kernel=1, padding=0),
)


class ConvBlock(nn.Module):
    """Convolution with bias, batch norm, the input added where wanted, ReLU."""

    def __init__(self, channels: int, layer: Layer) -> None:
        super().__init__()
        self.residual = layer.residual
        self.conv_block = nn.Sequential(
            nn.Conv2d(channels, layer.channels, layer.kernel, layer.stride, layer.padding),
            nn.BatchNorm2d(layer.channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv_block(x)
        return torch.relu(x + y if self.residual else y)


class AudioEncoder(nn.Sequential):
    """Mel windows float32 [M, 1, 80, 16] to embeddings float32 [M, 512], none of them negative."""

    def __init__(self) -> None:
        channels = (1, *(layer.channels for layer in LAYERS[:-1]))
        super().__init__(*(ConvBlock(c, layer) for c, layer in zip(channels, LAYERS, strict=True)))

    def forward(self, mel: Tensor) -> Tensor:
        """Float32 [M, 1, 80, 16] to float32 [M, 512]."""
        for block in self:
            mel = block(mel)
        return mel.flatten(1)
