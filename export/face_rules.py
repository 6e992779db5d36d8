"""The face box that a family of networks was trained on, measured from landmarks of the face mesh."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from compositor_backend.geometry import FAMILIES
from export.errors import ExportError
from export.landmarks import Points

Rectangle = NDArray[np.float64]
"""float64 [4]: x1, y1, x2, y2 in px."""
Rule = Callable[[Points], Rectangle]

LEFT_JAW, RIGHT_JAW = 234, 454
"""Sides of the face's oval below the ears' upper ends, left and right in the picture.

The 110-point rule takes points 1 and 31 of a jaw contour of 33 that begins at the eyes' height: the mesh has its
oval there at 127 and 234 (356 and 454), which lie within 1 % of the face's width from each other in x. Numbers
are those of MediaPipe's canonical face model.
"""
BRIDGE = (6, 197)
"""The bridge of the nose goes down the mesh as 168 (between the eyes), 6, 197, 195, 5 to the tip, 4.

Point 52 of 110 is the second of the four on the bridge, a third of the way down: between 6 and 197.
"""
CHIN_PADDING_PX = 10
"""Below the chin, as Wav2Lip's own scripts add to the box of their detector (source: their default padding)."""


def rule_of(family: str) -> Rule:
    """The rule of the family of that name; `ExportError` if there is none."""
    known = FAMILIES.get(family)
    if known is None:
        raise ExportError(f"the family is {family[:80]!r}; {', '.join(FAMILIES)} are known")
    return jaw_square if known.square_boxes else whole_face


def jaw_square(points: Points) -> Rectangle:
    """The square from one side of the jaw to the other, its top on the bridge of the nose."""
    x1, x2 = points[LEFT_JAW, 0], points[RIGHT_JAW, 0]
    y1 = points[list(BRIDGE), 1].mean()
    return np.array([x1, y1, x2, y1 + (x2 - x1)])


def whole_face(points: Points) -> Rectangle:
    """The rectangle around all of the face, from the hairline to below the chin."""
    (x1, y1), (x2, y2) = points.min(axis=0), points.max(axis=0)
    return np.array([x1, y1, x2, y2 + CHIN_PADDING_PX])
