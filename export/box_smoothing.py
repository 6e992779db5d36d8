"""Brings the face boxes that were measured frame by frame to rest: smooth over time, whole px, inside the frame."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from compositor_backend.geometry import Box

Measured = NDArray[np.float64]
"""float64 [N, 4]: x1, y1, x2, y2 in px of each frame, as measured."""
_Floats = NDArray[np.float64]

PLACE_SIGMA_FRAMES = 3.0
SIZE_SIGMA_FRAMES = 12.0
"""Widths of the smoothing, at 25 frames a second. A nod of 1 Hz and 20 px is followed to 1 px; sizes vary less."""
JUMP = 0.25
"""A face that moves by this share of its size in one frame, or grows by it, did not move: the picture was cut."""
HOLD_PX = 1.0
"""A whole number stays as long as it is this near: rounding alone flickers between neighbours, and where
place and size change at once a side moves by 2."""
_REACH_SIGMAS = 3


def smooth_boxes(measured: Measured, square: bool, width: int, height: int) -> list[Box]:
    """A box of whole px for each row of `measured`, inside a frame of that size; squares if `square`.

    Neither late nor early: each looks as far ahead as back (at the ends one way only). One frame that differs from
    both its neighbours is passed over; nothing is smoothed across a cut. A box that sticks out of the frame is
    shifted, and made smaller only where it does not fit.
    """
    boxes: list[Box] = []
    for scene in scenes(measured):
        boxes += _smooth_scene(scene, square, width, height)
    return boxes


def scenes(measured: Measured) -> Iterator[Measured]:
    """The stretches of frames between cuts, single outliers taken out."""
    calm = _without_outliers(measured)
    starts = [number for number in range(1, len(calm)) if is_jump(calm[number - 1], calm[number])]
    yield from np.split(calm, starts)


def is_jump(before: _Floats, after: _Floats) -> bool:
    """Whether a face cannot have moved from the one box to the other within a frame."""
    sizes = [box[2:] - box[:2] for box in (before, after)]
    moved = np.abs((before[2:] + before[:2] - after[2:] - after[:2]) / 2)
    smaller = np.minimum(*sizes)
    grown = np.abs(sizes[0] - sizes[1])
    return bool((moved > JUMP * smaller).any() or (grown > JUMP * smaller).any())


def _without_outliers(measured: Measured) -> Measured:
    """Each number the median of itself and its two neighbours; a steady motion passes unchanged."""
    around = np.pad(measured, ((1, 1), (0, 0)), mode="edge")
    calm: Measured = np.median([around[:-2], around[1:-1], around[2:]], axis=0)
    return calm


def _smooth_scene(scene: Measured, square: bool, width: int, height: int) -> list[Box]:
    x1, y1, x2, y2 = scene.T
    places = local_fit(np.stack([(x1 + x2) / 2, y1], axis=1), PLACE_SIGMA_FRAMES)
    sizes = local_fit(np.stack([x2 - x1, y2 - y1], axis=1), SIZE_SIGMA_FRAMES)
    wide = np.clip(held(sizes[:, 0]), 1, min(width, height) if square else width)
    high = wide if square else np.clip(held(sizes[:, 1]), 1, height)
    left = np.clip(held(places[:, 0] - wide / 2), 0, width - wide)
    top = np.clip(held(places[:, 1]), 0, height - high)
    return [
        (int(x), int(y), int(x + w), int(y + h)) for x, y, w, h in zip(left, top, wide, high, strict=True)
    ]


def local_fit(values: _Floats, sigma_frames: float) -> _Floats:
    """Each row of `values` [N, K] as the parabola says that fits its surroundings best, weighted by a Gaussian.

    A parabola follows the turning points of a motion, which a mean would cut off; at the very ends, where it would
    swing with the noise, a straight line is taken.
    """
    reach = math.ceil(_REACH_SIGMAS * sigma_frames)
    fitted = np.empty_like(values)
    for frame in range(len(values)):
        first, last = max(0, frame - reach), min(len(values), frame + reach + 1)
        distance = np.arange(first, last) - frame
        degree = 2 if min(frame - first, last - 1 - frame) >= sigma_frames else min(1, last - first - 1)
        weight = np.exp(-((distance / sigma_frames) ** 2) / 4)[
            :, None
        ]  # the root of a Gaussian: squares are added
        powers = distance[:, None] ** np.arange(degree + 1)
        fitted[frame] = np.linalg.lstsq(powers * weight, values[first:last] * weight, rcond=None)[0][0]
    return fitted


def held(values: _Floats) -> NDArray[np.int64]:
    """Whole numbers that change only where `values` [N] leave them by more than `HOLD_PX`."""
    whole = np.empty(len(values), np.int64)
    current = 0
    for frame, value in enumerate(values):
        if frame == 0 or abs(value - current) > HOLD_PX:
            current = round(float(value))
        whole[frame] = current
    return whole
