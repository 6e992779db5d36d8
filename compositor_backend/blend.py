"""Brings a network's mouth into a frame: into the crop, to the face box's size, onto the frame's pixels."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from compositor_backend.geometry import INNER_OFFSET_PX, Family

Pixels: TypeAlias = NDArray[np.uint8]
"""uint8 [H,W,3], RGB."""

FEATHER_SHARE = 0.1
"""Width of the soft edge, as a share of the face box's side."""
_ALPHA_BITS = 7
_ALPHA_ONE = 1 << _ALPHA_BITS  # the largest for which 255 times alpha, rounded, fits 16 bits
_ALPHA_HALF = _ALPHA_ONE // 2


def place_in_crop(crop: Pixels, mouth: Pixels, family: Family, out: Pixels) -> None:
    """Fill `out` with `mouth` inside the border of `crop`: what was not drawn stays the original's."""
    border, inner = INNER_OFFSET_PX, family.inner
    out[:border] = crop[:border]
    out[-border:] = crop[-border:]
    out[inner, :border] = crop[inner, :border]
    out[inner, -border:] = crop[inner, -border:]
    out[inner, inner] = mouth


def resize(image: Pixels, width: int, height: int) -> Pixels:
    """`image` resized by Pillow's bicubic filter (antialiased where it shrinks); read-only."""
    rows, columns = image.shape[:2]
    pixels = np.ascontiguousarray(image)
    picture = Image.frombuffer("RGB", (columns, rows), pixels, "raw", "RGB", 0, 1)
    resized = picture.resize((width, height), Image.Resampling.BICUBIC)
    return np.frombuffer(resized.tobytes(), np.uint8).reshape(height, width, 3)


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
    down, across = _ramp(height), _ramp(width)
    alpha = np.outer(down, across)
    alpha = np.rint(alpha * _ALPHA_ONE).astype(np.int16)[..., None].repeat(3, axis=2)
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
