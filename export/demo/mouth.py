"""The mouth's shape: the five numbers that the demo's speech track says and its renderer draws."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MOUTH_CHANNELS = ("open", "width", "tuck", "tongue", "press")

# A fully tucked lower lip rises to the edge of the upper teeth, so that this share of the opening closes.
TUCK_CLOSES = 0.6


class MouthShape(NamedTuple):
    """One pose of the mouth; every channel is a dimensionless share of its largest natural movement."""

    open: float
    """0 (lips just closed) to 1 (jaw fully dropped)."""
    width: float
    """-1 (rounded and pushed out, as in "oo") over 0 (neutral) to +1 (spread, as in "ee")."""
    tuck: float
    """0 to 1: the lower lip drawn under the upper teeth (f, v)."""
    tongue: float
    """0 to 1: the tongue's tip raised behind the upper teeth (l, n, d, th)."""
    press: float
    """0 to 1: lips pressed together (p, b, m); 1 closes them whatever ``open`` says."""


REST = MouthShape(0.0, 0.0, 0.0, 0.0, 0.0)


def clip_shape(shape: MouthShape) -> MouthShape:
    """The shape with every channel brought into its range."""
    low = (0.0, -1.0, 0.0, 0.0, 0.0)
    return MouthShape(*(min(1.0, max(least, float(value))) for value, least in zip(shape, low, strict=True)))


def lip_opening(shape: MouthShape) -> float:
    """The visible gap between the lips' inner edges, 0 (closed) to 1 (widest)."""
    pose = clip_shape(shape)
    return pose.open * (1.0 - pose.press) * (1.0 - TUCK_CLOSES * pose.tuck)


def lip_openings(shapes: NDArray[np.float32]) -> NDArray[np.float32]:
    """``lip_opening`` of every row of ``shapes`` (float32 [n, 5], columns as ``MOUTH_CHANNELS``)."""
    if shapes.ndim != 2 or shapes.shape[1] != len(MOUTH_CHANNELS):
        raise ValueError(f"mouth shapes are an array of shape {shapes.shape}, not [n, {len(MOUTH_CHANNELS)}]")
    bounded = np.clip(shapes, 0.0, 1.0)
    opening = bounded[:, 0] * (1.0 - bounded[:, 4]) * (1.0 - TUCK_CLOSES * bounded[:, 2])
    return np.asarray(opening, dtype=np.float32)
