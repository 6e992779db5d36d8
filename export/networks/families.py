"""What sets the network families apart: levels, audio inputs and geometry (sources: published checkpoints)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compositor_backend.contract import MEL
from compositor_backend.geometry import FAMILIES as GEOMETRIES
from compositor_backend.geometry import Family

FULL_WIDTHS = (32, 64, 128, 256, 512)
HALF_WIDTHS = (16, 32, 64, 128, 256)


@dataclass(frozen=True)
class AudioMode:
    """An audio feature and the U-Net's branch that reads it.

    `shape` is the feature's, batch left out; `stride` is that of the branch's third convolution. The
    channels of a branch that is `flat` do not grow, and a block that keeps their number adds its input.
    """

    name: str
    shape: tuple[int, int, int]
    stride: tuple[int, int] = (1, 1)
    flat: bool = False

    def channels(self, widest: int) -> tuple[int, int, int]:
        """Channels after the first three convolutions, in a network whose widest layer is `widest`."""
        half = widest // 2
        return (half, half, half) if self.flat else (widest // 8, widest // 4, half)


@dataclass(frozen=True)
class NetworkFamily:
    """A family of networks.

    `levels`, of U-Nets only, are the channels of inc, down1, down2 … as indices into the widths.
    """

    geometry: Family
    levels: tuple[int, ...]
    audio: dict[str, AudioMode]

    @property
    def name(self) -> str:
        """``328``, ``160`` or ``wav2lip-96`` …: the side of the crop or of the network's picture, as people call it."""
        return self.geometry.name


_AVE = AudioMode("ave", (32, 16, 16), (1, 1))
_HUBERT = AudioMode("hubert", (32, 32, 32), (2, 2))
_WENET = AudioMode("wenet", (256, 16, 32), (1, 2), flat=True)
_HUBERT_160 = AudioMode("hubert", (16, 32, 32), (2, 2))
_WENET_160 = AudioMode("wenet", (128, 16, 32), (1, 2), flat=True)

MEL_MODE = AudioMode("mel", MEL.shape[1:])  # type: ignore[arg-type]
"""The mel window of the frame itself, as the audio encoder of other families hears it too."""

FAMILIES = {
    "328": NetworkFamily(GEOMETRIES["328"], (0, 0, 1, 2, 3, 4), {m.name: m for m in (_AVE, _HUBERT, _WENET)}),
    "160": NetworkFamily(GEOMETRIES["160"], (0, 1, 2, 3, 4), {m.name: m for m in (_HUBERT_160, _WENET_160)}),
    **{
        name: NetworkFamily(geometry, (), {MEL_MODE.name: MEL_MODE})
        for name, geometry in GEOMETRIES.items()
        if geometry.any_face
    },
}
AUDIO_MODES = ("ave", "hubert", "wenet", "mel")


def visible(geometry: Family) -> NDArray[np.float32]:
    """1 where the network sees the masked picture, 0 in the mask; float32 [1, 1, S, S]."""
    x1, y1, x2, y2 = geometry.mask
    picture = np.ones((1, 1, geometry.network_px, geometry.network_px), np.float32)
    picture[:, :, y1:y2, x1:x2] = 0
    return picture
