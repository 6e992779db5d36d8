"""The mouth's shape: five numbers that the voices' tracks give and the presenter draws."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MOUTH_CHANNELS = ("open", "width", "tuck", "tongue", "press")


class MouthShape(NamedTuple):
    """One shape of the mouth.

    `open` 0…1, jaw and lips (0: lips just closed); `width` -1…1, from rounded ("oo") over neutral to spread
    ("ee"); `tuck` 0…1, lower lip under the upper teeth (f, v); `tongue` 0…1, its tip raised and seen (l, th, n);
    `press` 0…1, lips pressed together (p, b, m), which closes the mouth whatever `open` says.
    """

    open: float = 0.0
    width: float = 0.0
    tuck: float = 0.0
    tongue: float = 0.0
    press: float = 0.0


REST = MouthShape()


def lip_openings(track: NDArray[np.float32]) -> NDArray[np.float32]:
    """Visible opening between the inner lips, f32 [n] in 0…1, of shapes f32 [n, 5]."""
    opened, _, tuck, _, press = np.clip(track, [0, -1, 0, 0, 0], 1).T
    # A tucked lip covers most of the gap but leaves the edge of the teeth to be seen.
    return np.asarray(opened * (1 - press) * (1 - 0.7 * tuck), np.float32)


def lip_opening(shape: MouthShape) -> float:
    """Visible opening between the inner lips of one shape, 0…1."""
    return float(lip_openings(np.array([shape], np.float32))[0])
