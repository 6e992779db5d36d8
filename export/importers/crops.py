"""Compares the crops that a folder holds with what its boxes cut from its frames."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from compositor_backend.errors import PackError
from compositor_backend.geometry import Box, check_box
from export.frames import Pixels

LEAST_LIKENESS = 0.85
"""Correlation from which two pictures count as the same crop.

A crop of the same box, through a lossy video and another interpolation, is at 0.98 or more; a box of 180 px that is
12 px off is at 0.8 to 0.9 with a drawn face, and any other part of the picture far below.
"""
_SIDE_PX = 48
"""Small enough that noise of codecs and ringing of interpolation are averaged away."""


def likeness(frame: Pixels, box: Box, crop: Pixels) -> float:
    """Correlation (-1 to 1) of what `box` cuts from `frame` with `crop`, by brightness; -1 if it cuts nothing."""
    height, width = frame.shape[:2]
    try:
        x1, y1, x2, y2 = check_box(box, width, height)
    except PackError:
        return -1.0
    return _correlation(_small(frame[y1:y2, x1:x2]), _small(crop))


def samples(count: int, wanted: int = 5) -> list[int]:
    """Up to `wanted` of `count` numbers, the first and the last among them, evenly spread."""
    return sorted(set(np.linspace(0, count - 1, min(wanted, count)).round().astype(int).tolist()))


def _small(pixels: Pixels) -> NDArray[np.float64]:
    grey = Image.fromarray(np.ascontiguousarray(pixels)).convert("L")
    return np.asarray(grey.resize((_SIDE_PX, _SIDE_PX), Image.Resampling.BOX), np.float64)


def _correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    one, other = one - one.mean(), other - other.mean()
    scale = float(np.sqrt((one * one).sum() * (other * other).sum()))
    # A picture of one colour is like any other of one colour.
    return float((one * other).sum()) / scale if scale else float(not one.any() and not other.any())
