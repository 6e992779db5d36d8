"""The presenter's mouth: lips, teeth, tongue and the jaw's pull on the skin, drawn over a bare face.

Mouth coordinates are frame pixels round the middle of the closed lips' line, y down.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.demo.mouth import MouthShape, clip_shape, lip_opening
from export.demo.presenter_svg import area, line, linear, soft_gradient, spot

# Gap between the lips at lip_opening 1.
FULL_GAP_PX = 30.0
# Share of the gap that the upper lip rises; the rest is the jaw's.
UPPER_LIP_SHARE = 0.22
CHIN_DROP_PX = 11.0

MOUTH_COLOURS = ("ffd2c2", "b0664c", "8a4a38", "5a2c24", "140506", "e8a08c", "ffe2c4", "c05a68")

# Half-width of the jaw's pull, and where it starts, is full, and has faded below the chin.
PULL_HALF_WIDTH_PX = 86.0
PULL_EDGE_PX = 62.0
PULL_ROWS_PX = (-34.0, -8.0, 14.0, 36.0, 50.0, 73.0, 79.0, 83.0)
PULL_SHARES = (0.0, 0.08, 0.42, 0.82, 0.97, 1.0, 0.45, 0.0)


@dataclass(frozen=True)
class Lips:
    """Geometry of one mouth shape, in mouth coordinates (pixels)."""

    half_width: float
    inner_half_width: float
    corner_y: float
    upper_y: float
    """Upper lip's inner edge in the middle."""
    lower_y: float
    """Lower lip's inner edge in the middle."""
    upper_thickness: float
    lower_thickness: float

    @property
    def gap(self) -> float:
        """Distance of the lips' inner edges in the middle."""
        return self.lower_y - self.upper_y

    def control_y(self, middle_y: float) -> float:
        """Height of both control points of the cubic between the corners that passes ``middle_y``."""
        return (middle_y - 0.25 * self.corner_y) / 0.75


def lips_of(shape: MouthShape) -> Lips:
    """Where the lips' edges lie for ``shape``."""
    pose = clip_shape(shape)
    opening = lip_opening(pose)
    gap = FULL_GAP_PX * opening
    spread, rounded = max(0.0, pose.width), max(0.0, -pose.width)
    half_width = 34.0 + 8.0 * spread - 13.0 * rounded - 2.5 * opening - 1.5 * pose.press
    upper_y = -UPPER_LIP_SHARE * gap
    fullness = (1.0 - 0.12 * spread) * (1.0 + 0.22 * rounded)
    return Lips(
        half_width=half_width,
        inner_half_width=half_width - 3.5 - 4.0 * rounded,
        corner_y=-5.6 - 1.6 * spread * (1.0 - opening) + 3.4 * rounded + 5.6 * opening,
        upper_y=upper_y,
        lower_y=upper_y + gap,
        upper_thickness=8.6 * fullness * (1.0 - 0.42 * pose.press),
        lower_thickness=11.4 * fullness * (1.0 - 0.38 * pose.press) * (1.0 - 0.5 * pose.tuck),
    )


def definitions() -> str:
    """Gradients that ``draw`` refers to."""
    return (
        "<defs>"
        + "".join(soft_gradient(colour) for colour in MOUTH_COLOURS)
        + linear("lip-upper", ((0.0, "cf7671"), (0.55, "bd5f5f"), (1.0, "a84d50")))
        + linear("lip-lower", ((0.0, "b65858"), (0.4, "d47a74"), (1.0, "c06a63")))
        + linear("cavity", ((0.0, "16070a"), (0.6, "2c0d12"), (1.0, "3a1218")))
        + linear("tooth", ((0.0, "cfc8c8"), (0.45, "f7f3f1"), (1.0, "ece6e4")))
        + linear("tooth-low", ((0.0, "cfc8c6"), (1.0, "a69c9c")))
        + linear("tongue", ((0.0, "d4717c"), (0.5, "b9525f"), (1.0, "7d2c38")))
        + "</defs>"
    )


def _upper_lip(lips: Lips) -> str:
    w, c, top = lips.half_width, lips.corner_y, lips.upper_y - lips.upper_thickness
    inner = lips.control_y(lips.upper_y)
    return (
        f"M{-w:.2f} {c:.2f} C{-w * 0.66:.2f} {top + 3.4:.2f} {-w * 0.36:.2f} {top - 1.4:.2f} "
        f"{-w * 0.17:.2f} {top - 0.8:.2f} "
        f"C{-w * 0.08:.2f} {top - 0.5:.2f} {-w * 0.05:.2f} {top + 1.3:.2f} 0 {top + 1.3:.2f} "
        f"C{w * 0.05:.2f} {top + 1.3:.2f} {w * 0.08:.2f} {top - 0.5:.2f} {w * 0.17:.2f} {top - 0.8:.2f} "
        f"C{w * 0.36:.2f} {top - 1.4:.2f} {w * 0.66:.2f} {top + 3.4:.2f} {w:.2f} {c:.2f} "
        f"L{lips.inner_half_width:.2f} {c:.2f} C{lips.inner_half_width * 0.55:.2f} {inner:.2f} "
        f"{-lips.inner_half_width * 0.55:.2f} {inner:.2f} {-lips.inner_half_width:.2f} {c:.2f} Z"
    )


def _lower_lip(lips: Lips) -> str:
    w, c, low = lips.half_width, lips.corner_y, lips.lower_y + lips.lower_thickness
    inner, outer = lips.control_y(lips.lower_y), lips.control_y(low)
    return (
        f"M{-w:.2f} {c:.2f} C{-w * 0.58:.2f} {outer:.2f} {w * 0.58:.2f} {outer:.2f} {w:.2f} {c:.2f} "
        f"L{lips.inner_half_width:.2f} {c:.2f} C{lips.inner_half_width * 0.55:.2f} {inner:.2f} "
        f"{-lips.inner_half_width * 0.55:.2f} {inner:.2f} {-lips.inner_half_width:.2f} {c:.2f} Z"
    )


def _hole(lips: Lips) -> str:
    w, c = lips.inner_half_width, lips.corner_y
    up, low = lips.control_y(lips.upper_y), lips.control_y(lips.lower_y)
    return (
        f"M{-w:.2f} {c:.2f} C{-w * 0.55:.2f} {up:.2f} {w * 0.55:.2f} {up:.2f} {w:.2f} {c:.2f} "
        f"C{w * 0.55:.2f} {low:.2f} {-w * 0.55:.2f} {low:.2f} {-w:.2f} {c:.2f} Z"
    )


# Left edge, right edge and lower edge of the upper teeth on one side, in the skull's place: they don't move.
UPPER_TEETH = ((0.15, 7.4, 5.8), (7.6, 13.4, 5.0), (13.6, 18.6, 5.3), (18.8, 23.4, 4.0), (23.6, 28.0, 2.8))
LOWER_TEETH = ((0.1, 4.6), (4.8, 9.4), (9.6, 14.2), (14.4, 19.0))


def _upper_teeth(lips: Lips) -> str:
    top = lips.upper_y - 6.0
    row = []
    for left, right, edge in UPPER_TEETH:
        for side in (-1, 1):
            a, b = side * left, side * right
            bow = side * 1.3
            row.append(
                f"M{a:.2f} {top:.2f} L{a:.2f} {edge - 1.3:.2f} Q{a:.2f} {edge:.2f} {a + bow:.2f} {edge:.2f} "
                f"L{b - bow:.2f} {edge:.2f} Q{b:.2f} {edge:.2f} {b:.2f} {edge - 1.3:.2f} L{b:.2f} {top:.2f} Z"
            )
    return area(f"M-28 {top:.2f} H28 V1 L20 3 L0 4.4 L-20 3 L-28 1 Z", "#a89c9c") + area(
        " ".join(row), "url(#tooth)"
    )


def _lower_teeth(lips: Lips) -> str:
    visible = 4.2 * min(1.0, max(0.0, (lips.gap - 5.0) / 12.0))
    if visible <= 0.0:
        return ""
    top, bottom = lips.lower_y - visible, lips.lower_y + 8.0
    row = []
    for left, right in LOWER_TEETH:
        for side in (-1, 1):
            a, b, drop = side * left, side * right, -0.012 * left * left
            row.append(
                f"M{a:.2f} {bottom:.2f} L{a:.2f} {top + drop + 0.8:.2f} "
                f"L{b:.2f} {top + drop:.2f} L{b:.2f} {bottom:.2f} Z"
            )
    return area(" ".join(row), "url(#tooth-low)")


def _tongue(lips: Lips, tongue: float) -> str:
    low_top = lips.lower_y - 0.36 * lips.gap
    raised_top = min(low_top, 4.6)
    top = low_top + (raised_top - low_top) * tongue
    half = lips.inner_half_width * (0.74 - 0.2 * tongue)
    bottom = lips.lower_y + 12.0
    path = (
        f"M{-half:.2f} {bottom:.2f} C{-half * 1.02:.2f} {top - 1:.2f} {-half * 0.5:.2f} {top:.2f} "
        f"0 {top:.2f} "
        f"C{half * 0.5:.2f} {top:.2f} {half * 1.02:.2f} {top - 1:.2f} {half:.2f} {bottom:.2f} Z"
    )
    shine = spot(-2, top + 3.2, half * 0.5, 2.6, "ffd2c2", 0.28 + 0.3 * tongue)
    furrow = line(f"M0 {top + 1.5:.2f} L0 {bottom:.2f}", "7d2c38", 1.6, 0.45 * (1 - 0.6 * tongue))
    return area(path, "url(#tongue)") + spot(0, top + 1, half, 3.0, "c05a68", 0.4) + shine + furrow


def _inside(lips: Lips, tongue: float) -> str:
    """What shows between the lips: dark depth, tongue, teeth, and the lips' shadow on them."""
    if lips.gap <= 0.02:
        return ""
    hole, w, c = _hole(lips), lips.inner_half_width, lips.corner_y
    shade = (
        spot(0, lips.upper_y - 0.4, w * 1.3, 2.2 + 0.06 * lips.gap, "140506", 0.62)
        + spot(-w, c, w * 0.5, 6 + 0.5 * lips.gap, "140506", 0.85)
        + spot(w, c, w * 0.5, 6 + 0.5 * lips.gap, "140506", 0.9)
    )
    rim_y = lips.control_y(lips.lower_y)
    rim = line(
        f"M{-w:.2f} {c:.2f} C{-w * 0.55:.2f} {rim_y:.2f} {w * 0.55:.2f} {rim_y:.2f} {w:.2f} {c:.2f}",
        "220a0d",
        2.0,
        0.85,
    )
    return (
        f'<clipPath id="hole"><path d="{hole}"/></clipPath><g clip-path="url(#hole)">'
        + area(hole, "url(#cavity)")
        + _tongue(lips, tongue)
        + _lower_teeth(lips)
        + _upper_teeth(lips)
        + shade
        + rim
        + "</g>"
    )


def _skin_around(lips: Lips, pose: MouthShape) -> str:
    """Folds and shadows of the skin that follow the lips."""
    w, c = lips.half_width, lips.corner_y
    spread, rounded = max(0.0, pose.width), max(0.0, -pose.width)
    opening = lips.gap / FULL_GAP_PX
    low = lips.lower_y + lips.lower_thickness
    parts = [
        spot(0, low + 5.5, 27 - 5 * rounded, 8, "b0664c", 0.5 + 0.12 * rounded),
        spot(0, lips.upper_y - lips.upper_thickness - 7, 4.6, 10, "b0664c", 0.24),
        spot(-6.5, lips.upper_y - lips.upper_thickness - 6, 4, 9, "ffe2c4", 0.32),
    ]
    for side in (-1, 1):
        fold = 0.15 + 0.3 * spread + 0.12 * opening - 0.08 * rounded
        parts += [
            spot(side * (w + 9), c - 13, 6.5, 23, "b0664c", fold, side * -26),
            spot(side * (w + 15), c - 16, 13, 20, "ffe2c4", 0.1 + 0.3 * spread, side * -26),
            spot(side * (w + 1.5), c + 0.5, 7.5, 5.5, "8a4a38", 0.5 + 0.2 * spread),
            spot(side * (w + 4), c + 12, 9, 14, "b0664c", 0.12 + 0.2 * opening, side * 14),
        ]
    return "".join(parts)


def _shine(lips: Lips, pose: MouthShape) -> str:
    """Light on the lips, weaker where they are pressed or tucked in."""
    strength = (1.0 - 0.6 * pose.press) * (1.0 - 0.6 * pose.tuck)
    middle = lips.lower_y + 0.42 * lips.lower_thickness
    return (
        spot(-4, middle, lips.half_width * 0.46, 3.1, "ffd2c2", 0.62 * strength)
        + spot(-7, middle - 0.3, 7, 1.7, "ffd2c2", 0.6 * strength)
        + spot(
            -lips.half_width * 0.2,
            lips.upper_y - 0.72 * lips.upper_thickness,
            8,
            1.9,
            "ffd2c2",
            0.42 * strength,
        )
        + spot(
            lips.half_width * 0.24,
            lips.upper_y - 0.68 * lips.upper_thickness,
            7,
            1.7,
            "ffd2c2",
            0.24 * strength,
        )
        + spot(lips.half_width * 0.62, lips.lower_y * 0.6 + 3, 10, 7, "8a4a38", 0.3)
    )


def _seam(lips: Lips) -> str:
    """The closed lips' line; it goes as they part, except in the corners."""
    w, c = lips.half_width - 2.0, lips.corner_y
    mid = lips.control_y(0.5 * (lips.upper_y + lips.lower_y))
    closed = max(0.0, 1.0 - lips.gap / 4.0)
    across = line(
        f"M{-w:.2f} {c:.2f} C{-w * 0.55:.2f} {mid:.2f} {w * 0.55:.2f} {mid:.2f} {w:.2f} {c:.2f}",
        "7c3438",
        1.5,
        0.8 * closed,
    )
    corners = "".join(
        line(
            f"M{side * lips.inner_half_width:.2f} {c:.2f} L{side * (w + 1):.2f} {c - 0.4:.2f}",
            "6e2c30",
            1.5,
            0.75,
        )
        for side in (-1, 1)
    )
    return across + corners


def draw(shape: MouthShape) -> str:
    """The mouth with the skin's folds around it, in mouth coordinates."""
    pose = clip_shape(shape)
    lips = lips_of(pose)
    return (
        _skin_around(lips, pose)
        + _inside(lips, pose.tongue)
        + area(_lower_lip(lips), "url(#lip-lower)")
        + area(_upper_lip(lips), "url(#lip-upper)")
        + _shine(lips, pose)
        + _seam(lips)
    )


def pull_jaw(skin: NDArray[np.uint8], opening: float, mouth_x: float, mouth_y: float) -> NDArray[np.uint8]:
    """Moves the chin down with the lower lip by stretching the skin's rows; the rim of the box stays.

    Args:
        skin: the bare face, uint8 [side, side, 3].
        opening: ``lip_opening``, 0 to 1.
        mouth_x: the mouth's origin in box pixels, to the right.
        mouth_y: the same, downward.

    """
    if opening <= 0.0:
        return skin
    side = skin.shape[0]
    centres = np.arange(side, dtype=np.float32) + 0.5
    rows = np.interp(centres - mouth_y, PULL_ROWS_PX, PULL_SHARES).astype(np.float32)
    edge = np.clip((PULL_HALF_WIDTH_PX - np.abs(centres - mouth_x)) / PULL_EDGE_PX, 0.0, 1.0)
    columns = (edge * edge * (3.0 - 2.0 * edge)).astype(np.float32)
    source = (
        np.arange(side, dtype=np.float32)[:, None] - CHIN_DROP_PX * opening * rows[:, None] * columns[None, :]
    )
    return _sample_rows(skin, source)


def _sample_rows(skin: NDArray[np.uint8], source: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Each pixel from height ``source`` (float32 [side, side]) of its own column, linearly interpolated."""
    side = skin.shape[0]
    above = np.clip(source.astype(np.int64), 0, side - 2)
    share = ((source - above) * 256.0).astype(np.uint16)[..., None]
    flat = skin.reshape(side * side, 3)
    at = above * side + np.arange(side)
    upper, lower = flat[at], flat[at + side]
    mixed = (upper * (256 - share) + lower * share + 128) >> 8
    return np.asarray(mixed, dtype=np.uint8)
