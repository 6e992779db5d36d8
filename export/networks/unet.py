"""The lip-sync U-Nets of the 328 and 160 families.

Layers, key names and sizes follow the published checkpoints, so that a `state_dict` loads as it is.
Input: float32 [B, 6, S, S], BGR/255: the reference crop and the same crop with the mouth area black;
audio features float32 [B, *audio shape]. Output: float32 [B, 3, S, S], BGR in 0…1.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from export.networks.families import FAMILIES, FULL_WIDTHS, AudioMode


class InvertedResidual(nn.Module):
    """1×1 expansion to twice the channels, depthwise 3×3, 1×1 projection, each followed by batch norm."""

    def __init__(
        self, channels: int, out: int, stride: int | tuple[int, int] = 1, residual: bool = False
    ) -> None:
        super().__init__()
        hidden = 2 * channels
        self.residual = residual
        self.conv = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, out, 1, bias=False),
            nn.BatchNorm2d(out),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.residual else y


class DoubleConv(nn.Module):
    """An inverted residual that changes channels and stride, then one with a skip connection."""

    def __init__(self, channels: int, out: int, stride: int = 1) -> None:
        super().__init__()
        self.double_conv = nn.Sequential(
            InvertedResidual(channels, out, stride), InvertedResidual(out, out, residual=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.double_conv(x)
        return y


class InConv(nn.Module):
    """The first block, at full resolution."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.inconv = nn.Sequential(InvertedResidual(channels, out))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inconv(x)
        return y


class Down(nn.Module):
    """Halves the resolution; its name in checkpoints is a leftover of max pooling."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.maxpool_conv = nn.Sequential(DoubleConv(channels, out, stride=2))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.maxpool_conv(x)
        return y


class Up(nn.Module):
    """Doubles the resolution bilinearly and joins the encoder's map of that size."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        self.conv = DoubleConv(channels, out)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        y: Tensor = self.conv(torch.cat([self.up(x), skip], dim=1))
        return y


class OutConv(nn.Module):
    """The last convolution, to three colours."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return y


class AudioBranch(nn.Module):
    """Audio features to a map of the bottleneck's size, [B, widest, 10, 10]."""

    def __init__(self, mode: AudioMode, widest: int) -> None:
        super().__init__()
        first, second, third = mode.channels(widest)
        self.conv1 = InvertedResidual(mode.shape[0], first, residual=mode.flat and mode.shape[0] == first)
        self.conv2 = InvertedResidual(first, second, residual=mode.flat)
        self.conv3 = nn.Conv2d(second, third, 3, mode.stride, 1)
        self.bn3 = nn.BatchNorm2d(third)
        self.conv4 = InvertedResidual(third, third, residual=True)
        self.conv5 = nn.Conv2d(third, widest, 3, 2, 3)
        self.bn5 = nn.BatchNorm2d(widest)
        self.conv6 = InvertedResidual(widest, widest, residual=True)
        self.conv7 = InvertedResidual(widest, widest, residual=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv2(self.conv1(x))
        x = self.conv4(torch.relu(self.bn3(self.conv3(x))))
        x = torch.relu(self.bn5(self.conv5(x)))
        y: Tensor = self.conv7(self.conv6(x))
        return y


class LipSyncUNet(nn.Module):
    """The U-Net of a family; `widths` are its five channel counts, narrowest first."""

    FIRST_WEIGHT = "inc.inconv.0.conv.0.weight"
    LAST_LAYER = "outc.conv"

    def __init__(self, family: str = "328", audio: str = "ave", widths: Iterable[int] = FULL_WIDTHS) -> None:
        super().__init__()
        spec = FAMILIES[family]
        self.family, self.mode, self.widths = spec, spec.audio[audio], tuple(widths)
        levels = [self.widths[level] for level in spec.levels]
        widest = levels[-1]
        self.audio_model = AudioBranch(self.mode, widest)
        self.fuse_conv = nn.Sequential(DoubleConv(2 * widest, widest), DoubleConv(widest, widest // 2))
        self.inc = InConv(6, levels[0])
        narrow = self.widths[0]
        outs = (self.widths[2], self.widths[1], narrow, narrow, narrow // 2)
        below = widest // 2
        for n in range(1, len(levels)):
            self.add_module(f"down{n}", Down(levels[n - 1], levels[n]))
            self.add_module(f"up{n}", Up(below + levels[-1 - n], outs[n - 1]))
            below = outs[n - 1]
        self.outc = OutConv(below, 3)

    def forward(self, x: Tensor, audio: Tensor) -> Tensor:
        """Float32 [B, 6, S, S] and [B, *audio shape] to float32 [B, 3, S, S] in 0…1."""
        depth = len(self.family.levels) - 1
        maps = [self.inc(x)]
        for n in range(1, depth + 1):
            maps.append(self.get_submodule(f"down{n}")(maps[-1]))
        y = self.fuse_conv(torch.cat([maps.pop(), self.audio_model(audio)], dim=1))
        for n in range(1, depth + 1):
            y = self.get_submodule(f"up{n}")(y, maps.pop())
        return torch.sigmoid(self.outc(y))
