"""How far a served graph may be off the network it was made from, and on what that is tried."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.errors import ExportError

BATCHES = (1, 3)
SEED = 20


@dataclass(frozen=True)
class Limits:
    """How far a graph may be off: steps of 255 at any value, the share of values that must be equal."""

    max_steps: int = 1
    equal_share: float = 0.999
    encoder_relative: float = 1e-4
    """Of the largest value of an embedding."""


@dataclass(frozen=True)
class Parity:
    """What was measured; differences are in steps of 255 for a U-Net, relative for an encoder,
    whose values count as equal within the limit.

    `allowed` is the limit that `max_difference` was held to: that of `Limits`, and what was granted on top of it.
    """

    max_difference: float
    equal_share: float
    values: int
    allowed: float
    unit: str = "of 255"

    def __str__(self) -> str:
        share = f"{self.equal_share:.4%} of {self.values} values equal the network's"
        return f"{share}, off by at most {self.max_difference:.2g} {self.unit} ({self.allowed:.2g} allowed)"


def sample_inputs(
    side_px: int, audio_shape: tuple[int, ...]
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
    """Smooth pictures with noise on them, uint8 [B,3,S,S], and audio features from loud to silent."""
    for batch in BATCHES:
        rng = np.random.default_rng(SEED + batch)
        slopes = rng.uniform(-1, 1, (batch, 3, 2, 1))
        line = np.linspace(-1, 1, side_px)
        ramp = slopes[:, :, 0, :, None] * line[:, None] + slopes[:, :, 1, :, None] * line
        noise = rng.normal(0, 25, (batch, 3, side_px, side_px))
        face = np.clip(127 + 100 * ramp + noise, 0, 255).astype(np.uint8)
        loudness = np.linspace(1.5, 0, batch).reshape(-1, 1, 1, 1)
        audio = (np.abs(rng.normal(size=(batch, *audio_shape))) * loudness).astype(np.float32)
        yield face, audio


def truncated(path: Path, picture: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """A picture of 0…255 as bytes; `ExportError` if it holds NaN, which a cast would turn into any byte."""
    if np.isnan(picture).any():
        raise ExportError(f"{path} draws NaN, not a picture; a network with finite results is wanted")
    return np.clip(picture, 0, 255).astype(np.uint8)


def judge(path: Path, difference: NDArray[Any], limits: Limits) -> Parity:
    """The parity of differences in steps of 255; `ExportError` with the figures if it is beyond the limits."""
    share = float((difference == 0).mean())
    parity = Parity(float(difference.max()), share, difference.size, limits.max_steps)
    if parity.max_difference > limits.max_steps or parity.equal_share < limits.equal_share:
        raise ExportError(
            f"{path} differs from its network by up to {parity.max_difference:.0f} of 255 and is equal in "
            f"{parity.equal_share:.3%} of values; at most {limits.max_steps} and at least "
            f"{limits.equal_share:.1%} are wanted"
        )
    return parity
