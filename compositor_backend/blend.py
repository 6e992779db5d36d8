"""Brings a network's mouth into a frame: to the size that it has there, onto the frame's pixels."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from compositor_backend.geometry import Family
from compositor_backend.native import Plan, Side, column_side, load_kernel

Pixels: TypeAlias = NDArray[np.uint8]
"""uint8 [H,W,3], RGB."""

FEATHER_SHARE = 0.1
"""Width of the soft edge, as a share of the face box's side."""
_ROUNDING = 1e-9
"""Of a pixel: what float arithmetic may add to a place that is a whole number."""
_ALPHA_BITS = 7
_ALPHA_ONE = 1 << _ALPHA_BITS  # the largest for which 255 times alpha, rounded, fits 16 bits
_ALPHA_HALF = _ALPHA_ONE // 2


@dataclass(frozen=True)
class Paste:
    """Where in a face box the mouth lies: whole pixels `rows` and `columns`, drawn from `source` of the mouth.

    `source` is x1, y1, x2, y2 in pixels of the mouth, fractions included. The rest of the box, a border of a
    pixel or a few that the network does not draw, keeps the frame's own pixels.
    """

    rows: slice
    columns: slice
    source: tuple[float, float, float, float]


@lru_cache(maxsize=4096)
def paste_area(width: int, height: int, family: Family) -> Paste:
    """How a mouth lies in a face box of that size: the box is the crop, scaled, and the mouth is its inner square."""
    left, right, x1, x2 = _span(width, family)
    top, bottom, y1, y2 = _span(height, family)
    return Paste(slice(top, bottom), slice(left, right), (x1, y1, x2, y2))


def _span(side: int, family: Family) -> tuple[int, int, float, float]:
    """First and one-past-last pixel of a side that lie wholly in the mouth, and where these begin and end in it."""
    scale = family.crop_px / side
    first = math.ceil(family.border_px / scale - _ROUNDING)
    last = math.floor((family.border_px + family.network_px) / scale + _ROUNDING)
    if first >= last:  # a box of a pixel or two: the mouth fills it
        return 0, side, 0.0, float(family.network_px)
    start, stop = (place * scale - family.border_px for place in (first, last))
    return first, last, max(0.0, start), min(float(family.network_px), stop)


def paste(under: Pixels, mouth: Pixels, family: Family, blend: str) -> None:
    """Draw a network's mouth (uint8 [S,S,3] RGB) over the face box `under`, by the blend of that name.

    Resampled by Pillow's filter of the family's name (antialiased where it shrinks), rows before columns, each
    rounded to 8 bits: by the compiled kernel if it was built, else by Pillow itself, a step or two apart.
    """
    height, width = under.shape[:2]
    area = paste_area(width, height, family)
    inner = under[area.rows, area.columns]
    if _KERNEL is None:
        BLENDS[blend](inner, resize_mouth(mouth, area, family.paste_filter))
    else:
        _KERNEL.paste(inner, np.ascontiguousarray(mouth), _plan(width, height, family, blend))


def resize_mouth(mouth: Pixels, paste: Paste, by: str = "bicubic") -> Pixels:
    """The part `paste.source` of `mouth` (its rows a multiple of 4 bytes long) at its size in the frame; read-only.

    Pillow's filter of that name (antialiased where it shrinks), down the columns first: for that a row is just bytes,
    which Pillow takes as they lie in memory when they are called pixels of four bytes. So where the mouth shrinks,
    fewer rows are left to be turned into Pillow's own form of RGB.
    """
    from PIL import Image  # here, since a compositor that has the kernel does without it and its 1.5 MB

    rows, row_bytes = len(mouth), mouth[0].size
    height, width = paste.rows.stop - paste.rows.start, paste.columns.stop - paste.columns.start
    x1, y1, x2, y2 = paste.source
    way = Image.Resampling[FILTERS[by].pillow]
    words = Image.frombuffer("RGBX", (row_bytes // 4, rows), np.ascontiguousarray(mouth), "raw", "RGBX", 0, 1)
    low = words.resize((row_bytes // 4, height), way, (0, y1, row_bytes // 4, y2))
    picture = Image.frombuffer("RGB", (row_bytes // 3, height), low.tobytes(), "raw", "RGB", 0, 1)
    small = picture.resize((width, height), way, (x1, 0, x2, height))
    return np.frombuffer(small.tobytes(), np.uint8).reshape(height, width, 3)


def crop_face(face: Pixels, family: Family) -> Pixels:
    """What a network sees of a face box's pixels: uint8 [S,S,3] RGB."""
    if family.crop_filter == SAMPLED:
        crop = sample(face, family.crop_px, family.crop_px)
    else:
        crop = resize(face, family.crop_px, family.crop_px, family.crop_filter)
    return crop[family.inner, family.inner]


def resize(image: Pixels, width: int, height: int, by: str = "bicubic") -> Pixels:
    """`image` resized by Pillow's filter of that name (antialiased where it shrinks); read-only."""
    from PIL import Image

    rows, columns = image.shape[:2]
    pixels = np.ascontiguousarray(image)
    picture = Image.frombuffer("RGB", (columns, rows), pixels, "raw", "RGB", 0, 1)
    resized = picture.resize((width, height), Image.Resampling[FILTERS[by].pillow])
    return np.frombuffer(resized.tobytes(), np.uint8).reshape(height, width, 3)


def sample(image: Pixels, width: int, height: int) -> Pixels:
    """`image` resized as OpenCV's INTER_LINEAR does it, to a step: never out of more than two by two pixels."""
    top, bottom, down = _neighbours(height, image.shape[0])
    left, right, across = _neighbours(width, image.shape[1])
    down, across = down[:, None, None], across[:, None]
    lines = image[top] * (1 - down) + image[bottom] * down
    mixed = lines[:, left] * (1 - across) + lines[:, right] * across
    # Halves go up, whatever float arithmetic makes of them.
    pixels: Pixels = (mixed + (0.5 + _ROUNDING)).astype(np.uint8)
    return pixels


def _neighbours(side: int, source_px: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """Of each of `side` pixels: the source pixels on either side of its centre, and how much the second counts."""
    centres: NDArray[np.float64] = np.clip(
        (np.arange(side) + 0.5) * (source_px / side) - 0.5, 0, source_px - 1
    )
    before = centres.astype(np.intp)
    after: NDArray[np.intp] = np.minimum(before + 1, source_px - 1)
    return before, after, centres - before


# --- filters ---
def _bicubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic convolution kernel with a = -0.5 (IEEE Transactions on ASSP 29, 1981), as Pillow has it."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _bilinear(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(0.0, 1.0 - np.abs(x))


@dataclass(frozen=True)
class Filter:
    """A resampling filter: its weight at a distance in pixels, nought from `support` on, and Pillow's name of it."""

    weight: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    support: int
    pillow: str


FILTERS = {
    "bicubic": Filter(_bicubic, 2, "BICUBIC"),
    "bilinear": Filter(_bilinear, 1, "BILINEAR"),
}
"""By the name in the table of families."""
SAMPLED = "sampled"
"""The other name there: `sample`, which is no such filter, since it does not widen where it shrinks."""


# --- for the kernel ---
_KERNEL = load_kernel()
_WEIGHT_ONE = 1 << 14


@lru_cache(maxsize=1024)
def _plan(width: int, height: int, family: Family, blend: str) -> Plan:
    area = paste_area(width, height, family)
    inner_height, inner_width = area.rows.stop - area.rows.start, area.columns.stop - area.columns.start
    x1, y1, x2, y2 = area.source
    across, down = (_alpha(side, blend) for side in (inner_width, inner_height))
    edge = int(np.count_nonzero(across[: inner_width // 2] < _ALPHA_ONE))
    return Plan(
        rows=Side(*_weights(inner_height, y1, y2, family)),
        columns=column_side(*_weights(inner_width, x1, x2, family)),
        down=down,
        across=across.repeat(3),
        edge=3 * edge,
    )


def _weights(
    side: int, start: float, stop: float, family: Family
) -> tuple[NDArray[np.int32], NDArray[np.int16]]:
    """The family's filter from `start` … `stop` of a side of the mouth to `side` pixels: first pixel, weights.

    The weights, cut at the mouth's ends, are brought to a sum of one.
    """
    by, source_px = FILTERS[family.paste_filter], family.network_px
    scale = (stop - start) / side
    stretch = max(scale, 1.0)
    centres = start + (np.arange(side) + 0.5) * scale
    taps = min(source_px, math.ceil(2 * by.support * stretch) + 1)
    first = np.floor(centres - by.support * stretch + 0.5).astype(np.int32)
    first = np.clip(first, 0, source_px - taps)
    places = first[:, None] + np.arange(taps)
    weights = by.weight((places + 0.5 - centres[:, None]) / stretch)
    weights = np.rint(weights / weights.sum(axis=1, keepdims=True) * _WEIGHT_ONE).astype(np.int16)
    # What rounding left over or took goes to the heaviest tap, lest flat colours change.
    weights[np.arange(side), weights.argmax(axis=1)] += (_WEIGHT_ONE - weights.sum(axis=1)).astype(np.int16)
    return first, weights


def _alpha(side: int, blend: str) -> NDArray[np.int16]:
    """Alpha along a side, 7 bits."""
    if blend == "hard":
        return np.full(side, _ALPHA_ONE, np.int16)
    alpha: NDArray[np.int16] = np.rint(_ramp(side) * _ALPHA_ONE).astype(np.int16)
    return alpha


# --- blending ---
def hard(under: Pixels, face: Pixels) -> None:
    """Overwrite `under` with `face`, of the same size."""
    under[:] = face


def feather(under: Pixels, face: Pixels) -> None:
    """Overwrite `under` with `face`, of the same size, fading to `under` at the edge.

    The edge is `FEATHER_SHARE` of a side wide; in it, alpha is a smoothstep of the distance to the box's end.
    """
    height, width = under.shape[:2]
    blended = [
        (rows, columns, _mix(under[rows, columns], face[rows, columns], alpha))
        for rows, columns, alpha in _edges(height, width)
    ]
    under[:] = face
    for rows, columns, pixels in blended:
        under[rows, columns] = pixels


def _mix(under: Pixels, over: Pixels, alpha: NDArray[np.int16]) -> NDArray[np.int16]:
    mixed = np.subtract(over, under, dtype=np.int16)
    mixed *= alpha
    mixed += _ALPHA_HALF
    mixed >>= _ALPHA_BITS
    mixed += under
    return mixed


_Edge: TypeAlias = tuple[slice, slice, NDArray[np.int16]]


@lru_cache(maxsize=64)
def _edges(height: int, width: int) -> tuple[_Edge, ...]:
    """The four strips of a box in which alpha is less than one, and alpha there, [h,w,3]."""
    product = np.outer(_alpha(height, "feather"), _alpha(width, "feather")) + _ALPHA_HALF
    alpha = (product >> _ALPHA_BITS)[..., None].repeat(3, axis=2)
    top, left = _edge_px(height), _edge_px(width)
    middle, every = slice(top, height - top), slice(None)
    places = [
        (slice(0, top), every),
        (slice(height - top, height), every),
        (middle, slice(0, left)),
        (middle, slice(width - left, width)),
    ]
    return tuple((rows, columns, alpha[rows, columns].copy()) for rows, columns in places)


def _edge_px(side: int) -> int:
    return max(1, round(FEATHER_SHARE * side)) if side > 1 else 0


def _ramp(side: int) -> NDArray[np.float64]:
    """Alpha along one side: from nought just outside the edge to one."""
    edge = _edge_px(side)
    distance = np.minimum(np.arange(side), np.arange(side)[::-1]) + 0.5
    part: NDArray[np.float64] = np.clip(distance / edge, 0.0, 1.0) if edge else np.ones(side)
    return part * part * (3.0 - 2.0 * part)


BLENDS: dict[str, Callable[[Pixels, Pixels], None]] = {"hard": hard, "feather": feather}
"""How a face of the box's size is laid over the frame's pixels, by the name in the manifest."""
