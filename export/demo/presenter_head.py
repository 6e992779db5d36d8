"""The presenter's head without its mouth, as SVG in head coordinates.

Head coordinates are frame pixels round the head's own origin (just above the nostrils), y down.
The light comes from the upper left, warm; a cool rim light comes from the right.
"""

from __future__ import annotations

import math
import random

from export.demo.presenter_motion import Pose
from export.demo.presenter_svg import area, line, linear, soft_gradient, spot

# How far the features slide over the skull per unit of yaw and pitch: the nose stands out furthest.
FEATURE_SLIDE_PX = (2.6, 1.8)
NOSE_SLIDE_PX = (4.4, 2.6)
EYE_SCALE = 1.16
LID_TRAVEL_PX = 19.8
# How far the lids come down while the eye is open: an iris that shows whole seems to stare.
LID_AT_REST = 0.16
# Past this the ball no longer shows between the lids.
LID_SHUT = 0.95
STRAND_SEED = 7

SOFT_COLOURS = (
    "ffffff",
    "fff0d8",
    "ffe2c4",
    "f2a58a",
    "e88f7c",
    "c9785c",
    "b0664c",
    "8a4a38",
    "5a2c24",
    "3a1a16",
    "bcd8ff",
    "e8b27e",
    "000000",
)

FACE = (
    "M-20 -182 C54 -182 90 -128 92 -68 C94 -26 91 6 86 34 C80 62 62 84 36 99 C22 107 10 109 0 109 "
    "C-10 109 -22 107 -36 99 C-62 84 -80 62 -86 34 C-91 6 -94 -26 -92 -68 C-90 -128 -64 -182 -20 -182 Z"
)
BACK_HAIR = (
    "M0 -204 C76 -206 122 -152 124 -82 C126 -20 120 40 132 96 C138 128 128 152 104 158 C74 166 40 152 0 152 "
    "C-40 152 -74 166 -104 158 C-128 152 -138 128 -132 96 C-120 40 -126 -20 -124 -82 "
    "C-122 -152 -76 -206 0 -204 Z"
)
# The parting is at (-34, -178); each front lock sweeps from it over the forehead and down the cheek.
RIGHT_LOCK = (
    "M-36 -180 C10 -214 84 -196 108 -138 C122 -104 122 -52 119 -8 "
    "C117 38 126 70 130 100 C134 128 122 148 106 150 "
    "C96 140 104 112 98 84 C92 56 96 26 95 -4 C94 -40 90 -72 74 -94 C50 -126 4 -136 -36 -180 Z"
)
LEFT_LOCK = (
    "M-32 -181 C-66 -204 -104 -176 -114 -128 C-122 -92 -121 -50 -119 -8 C-117 38 -126 70 -130 100 "
    "C-134 128 -122 148 -106 150 C-96 140 -104 112 -98 84 C-92 56 -96 26 -95 -4 C-94 -44 -92 -70 -84 -92 "
    "C-74 -122 -48 -146 -32 -181 Z"
)


def definitions() -> str:
    """Gradients and clip paths that the other functions' drawings refer to."""
    hair = (
        '<linearGradient id="hair" x1="0" y1="0" x2="0.25" y2="1"><stop offset="0" stop-color="#5b3422"/>'
        '<stop offset="0.3" stop-color="#7a4a2e"/><stop offset="0.62" stop-color="#54301f"/>'
        '<stop offset="1" stop-color="#8a5835"/></linearGradient>'
    )
    skin = (
        '<radialGradient id="skin" gradientUnits="userSpaceOnUse" cx="-26" cy="-42" r="176">'
        '<stop offset="0" stop-color="#fbd3b4"/><stop offset="0.42" stop-color="#f3c09e"/>'
        '<stop offset="0.7" stop-color="#e3a583"/><stop offset="1" stop-color="#b97458"/></radialGradient>'
    )
    iris = (
        '<radialGradient id="iris" cx="0.5" cy="0.62" r="0.55"><stop offset="0" stop-color="#a9cf9a"/>'
        '<stop offset="0.55" stop-color="#5f9a7c"/><stop offset="0.85" stop-color="#2f6557"/>'
        '<stop offset="1" stop-color="#173a35"/></radialGradient>'
    )
    return (
        "<defs>"
        + "".join(soft_gradient(colour) for colour in SOFT_COLOURS)
        + hair
        + skin
        + iris
        + linear("hair-back", ((0.0, "452618"), (0.55, "331a10"), (1.0, "5a3420")))
        + linear("neck", ((0.0, "b87257"), (0.45, "d99a7a"), (1.0, "e9b494")))
        + linear("sclera", ((0.0, "cfc9cc"), (0.45, "f6f1ee"), (1.0, "fbf4ef")))
        + f'<clipPath id="face-clip"><path d="{FACE}"/></clipPath>'
        + f'<clipPath id="right-lock-clip"><path d="{RIGHT_LOCK}"/></clipPath>'
        + f'<clipPath id="left-lock-clip"><path d="{LEFT_LOCK}"/></clipPath>'
        + "</defs>"
    )


def back_hair() -> str:
    """The hair behind neck and shoulders."""
    return area(BACK_HAIR, "url(#hair-back)") + spot(0, 60, 110, 120, "000000", 0.5)


def neck(pose: Pose) -> str:
    """Neck and the chin's shadow on it."""
    path = (
        "M-50 40 C-46 90 -48 122 -56 146 C-74 166 -100 176 -122 184 L0 300 L122 184 C100 176 74 166 56 146 "
        "C48 122 46 90 50 40 Z"
    )
    shadow_x = 8 + 2.5 * pose.yaw
    return (
        area(path, "url(#neck)")
        + spot(shadow_x, 96, 74, 58, "8a4a38", 0.85)
        + spot(shadow_x + 16, 118, 54, 46, "8a4a38", 0.4)
        + spot(-34, 160, 20, 40, "ffe2c4", 0.4, 10)
        + spot(-20, 168, 11, 56, "b0664c", 0.26, -12)
        + spot(22, 168, 11, 56, "8a4a38", 0.26, 12)
        + spot(0, 212, 20, 12, "b0664c", 0.4)
        + spot(-46, 188, 44, 7, "ffe2c4", 0.45, 14)
        + spot(46, 190, 40, 6, "ffe2c4", 0.25, -14)
        + _necklace()
    )


def _necklace() -> str:
    """A fine chain with a pearl, below the face box."""
    pearl_y = 226
    return (
        line("M-55 150 C-44 190 -20 216 0 220 C20 216 44 190 55 150", "8a4a38", 1.6, 0.35)
        + line("M-55 149 C-44 189 -20 215 0 219 C20 215 44 189 55 149", "e8b27e", 1.1, 0.95)
        + spot(1.5, pearl_y + 3, 8, 6, "8a4a38", 0.5)
        + f'<circle cx="0" cy="{pearl_y}" r="4.8" fill="#efe6da"/>'
        + spot(1, pearl_y + 2, 4.5, 4.5, "8a4a38", 0.35)
        + spot(-1.4, pearl_y - 1.6, 2.4, 2.4, "ffffff", 0.9)
    )


def _skin_shading() -> str:
    """Light and shade on the bare face, in the face's clip."""
    return (
        spot(98, 10, 66, 130, "b0664c", 0.55, 4)
        + spot(-100, 34, 40, 100, "b0664c", 0.42, -4)
        + spot(0, 122, 74, 30, "b0664c", 0.5)
        + spot(0, -156, 130, 66, "8a4a38", 0.5)
        + spot(-22, -112, 66, 44, "fff0d8", 0.42)
        + spot(-55, 0, 46, 46, "e88f7c", 0.34, -20)
        + spot(57, 0, 46, 46, "e88f7c", 0.34, 20)
        + spot(-46, -24, 40, 28, "fff0d8", 0.36, -18)
        + spot(48, -24, 38, 26, "ffe2c4", 0.3, 18)
        + spot(-4, 94, 26, 17, "ffe2c4", 0.42)
        + spot(0, 122, 1, 1, "b0664c", 0.01)
        + spot(96, 36, 12, 70, "bcd8ff", 0.42, 8)
    )


def _nose() -> str:
    return (
        spot(13, -34, 11, 36, "c9785c", 0.34, -4)
        + spot(-12, -38, 7, 30, "e88f7c", 0.22, 4)
        + spot(-1.5, -40, 6.5, 40, "fff0d8", 0.6)
        + spot(0, 3, 25, 14, "e88f7c", 0.4)
        + spot(2, 15, 25, 8, "8a4a38", 0.36)
        + spot(15, 3, 8, 11, "b0664c", 0.34)
        + line("M-17 6.5 C-19.5 -1 -15.5 -7 -11.5 -6.5", "b0664c", 1.8, 0.32)
        + line("M17 6.5 C19.5 -1 15.5 -7 11.5 -6.5", "8a4a38", 1.8, 0.28)
        + spot(-8, 9.6, 6, 2.7, "3a1a16", 0.8, 14)
        + spot(8, 9.6, 6, 2.7, "3a1a16", 0.8, -14)
        + line("M-4 11.6 C-2 13 2 13 4 11.6", "8a4a38", 1.3, 0.4)
        + spot(-3, -3, 10, 8, "fff0d8", 0.75)
        + spot(-4, -5, 3.6, 3, "ffffff", 0.75)
    )


def _lash(x: float, y: float, dx: float, dy: float) -> str:
    return line(f"M{x:.2f} {y:.2f} q{dx * 0.35:.2f} {dy * 0.15:.2f} {dx:.2f} {dy:.2f}", "2a1512", 1.1, 0.8)


def _lowered(lid: float) -> float:
    """How far down the upper lid is, 0 to 1, for an eye that is closed by ``lid``."""
    return LID_AT_REST + (1.0 - LID_AT_REST) * lid


def _upper_lid_y(share: float, lid: float) -> float:
    """Height of the lid's edge at ``share`` (-1 inner corner to 1 outer), closed by ``lid``; y down."""
    bow: float = 1.0 - abs(share + 0.06) ** 2.3
    return (-11.5 + LID_TRAVEL_PX * _lowered(lid)) * bow - 1.2 * share


def _lashes(lid: float) -> str:
    strokes = []
    for share in (0.3, 0.55, 0.78, 0.95):
        x, y = 19.5 * share, _upper_lid_y(share, lid)
        rise = -4.0 + 8.0 * lid
        strokes.append(_lash(x, y, 1.2 + 4.2 * max(0.0, share), rise * (0.7 + 0.3 * share)))
    return "".join(strokes)


def _eye(pose: Pose, side: int) -> str:
    """One eye round its own origin, drawn with its outer corner to the right; ``side`` -1 mirrors it."""
    top = 2.0 * (-11.5 + LID_TRAVEL_PX * _lowered(pose.lid))
    name = f"eye-clip-{side + 1}"
    upper = f"C-13 {top * 0.5 + 2.2:.2f} -8 {top * 0.5 - 0.8:.2f} -1 {top * 0.5:.2f}"
    upper += f" C8 {top * 0.5 + 0.2:.2f} 15 {top * 0.25 - 2.0:.2f} 20 -2"
    under = "C14 6.6 6 8.6 0 8.6 C-8 8.6 -14 6.4 -19 2.5 Z"
    opening = f"M-19 2.5 {upper} {under}"
    iris_x, iris_y = side * (pose.gaze_x_px + 0.8 * pose.yaw) - 0.4, -0.6 + pose.gaze_y_px
    catch_x = side * -3.4 + iris_x
    ball = (
        area("M-22 -14 H23 V12 H-22 Z", "url(#sclera)")
        + spot(-18, 2, 7, 6, "e88f7c", 0.55)
        + f'<circle cx="{iris_x:.2f}" cy="{iris_y:.2f}" r="9.7" fill="url(#iris)"/>'
        + f'<circle cx="{iris_x:.2f}" cy="{iris_y:.2f}" r="4.5" fill="#0b0f10"/>'
        + spot(iris_x, iris_y + 5, 7, 4, "ffffff", 0.28)
        + spot(0, top * 0.5 - 0.5, 24, 8.5, "3a1a16", 0.5)
        + f'<circle cx="{catch_x:.2f}" cy="{iris_y - 3.4:.2f}" r="2.7" fill="#ffffff"/>'
        + f'<circle cx="{iris_x + side * 3.4:.2f}" cy="{iris_y + 3.6:.2f}" r="1.2" fill="#ffffff" '
        + 'fill-opacity="0.75"/>'
    )
    crease = top * 0.5 * 0.55 - 9.2
    around = (
        spot(1, -13, 28, 11, "b0664c", 0.5)
        + spot(3, -20, 22, 7, "ffe2c4", 0.35, -6)
        + spot(0, 13, 24, 7, "c9785c", 0.28)
        + f'<clipPath id="{name}"><path d="{opening}"/></clipPath>'
        + f'<g clip-path="url(#{name})">{ball if pose.lid < LID_SHUT else ""}</g>'
        + line(
            f"M-17 {-1.5 + crease * 0.25:.2f} C-9 {crease - 3.2:.2f} 8 {crease - 4.0:.2f} 20 -7.5",
            "8a4a38",
            1.5,
            0.5,
        )
        + line(f"M-18 2 {upper} l3 -1.8", "2a1512", 2.5, 0.92)
        + line(f"M20 -2 {under[:-2]}", "a8604c", 1.1, 0.55)
        + line("M-12 10.8 C-4 13.4 8 12.8 15 8.6", "c9785c", 1.4, 0.35)
    )
    return around + _lashes(pose.lid)


def _brow(pose: Pose) -> str:
    """One brow round its eye's origin, outer end to the right: a soft body and single hairs."""
    lift = -2.6 * pose.brow + 1.2 * pose.lid
    body = (
        f"M-23 {-25 + lift:.2f} C-12 {-34 + lift:.2f} 10 {-37 + lift:.2f} 29 {-24 + lift:.2f} "
        f"C14 {-29.5 + lift:.2f} -6 {-27.5 + lift:.2f} -22 {-19 + lift:.2f} Z"
    )
    hairs = []
    for step in range(12):
        share = step / 11
        x = -21 + 44 * share
        y = -22.5 + lift - 9.5 * math.sin(math.pi * min(1.0, 0.12 + 0.8 * share))
        hairs.append(
            line(f"M{x:.2f} {y + 1.5:.2f} l{3 + 3 * share:.2f} {-3.4 + 3.6 * share:.2f}", "4a2a1c", 0.9, 0.35)
        )
    return area(body, "#5b3826", 0.78) + "".join(hairs)


def _features(pose: Pose) -> str:
    eyes = "".join(
        f'<g transform="translate({side * 40} -66) scale({side * EYE_SCALE} {EYE_SCALE})">'
        f"{_eye(pose, side)}{_brow(pose)}</g>"
        for side in (-1, 1)
    )
    nose_x, nose_y = NOSE_SLIDE_PX[0] * pose.yaw, NOSE_SLIDE_PX[1] * pose.pitch
    slide_x, slide_y = FEATURE_SLIDE_PX[0] * pose.yaw, FEATURE_SLIDE_PX[1] * pose.pitch
    return (
        f'<g transform="translate({slide_x:.2f} {slide_y:.2f})">{eyes}</g>'
        f'<g transform="translate({nose_x:.2f} {nose_y:.2f})">{_nose()}</g>'
    )


def face(pose: Pose) -> str:
    """Skin, nose, eyes and brows; the mouth is drawn over it elsewhere."""
    slide_x = 0.7 * FEATURE_SLIDE_PX[0] * pose.yaw
    return (
        area(FACE, "url(#skin)")
        + f'<g clip-path="url(#face-clip)"><g transform="translate({slide_x:.2f} 0)">{_skin_shading()}</g>'
        + spot(-108, -30, 62, 190, "5a2c24", 0.6)
        + spot(108, -40, 62, 190, "5a2c24", 0.6)
        + "</g>"
        + _features(pose)
    )


def _strands(side: int) -> str:
    """Fine lighter and darker hairs along one front lock; the same every time."""
    rng = random.Random(STRAND_SEED + side)
    strokes = []
    for _ in range(34):
        share = rng.random()
        outer = 84 + 38 * share
        x0, y0 = -34 + side * 2, -181 + 3 * rng.random()
        bend = -196 + 84 * (1 - share)
        end_x, end_y = 100 + 30 * share + rng.uniform(-3, 3), 146 - 20 * abs(share - 0.4)
        path = (
            f"M{x0:.1f} {y0:.1f} C{side * outer * 0.55:.1f} {bend:.1f} {side * outer:.1f} {bend + 40:.1f} "
            f"{side * outer:.1f} -20 C{side * (outer - 3):.1f} 40 "
            f"{side * (end_x + 4):.1f} 70 {side * end_x:.1f} {end_y:.1f}"
        )
        colour = rng.choice(("b07a4c", "94603a", "c8935f", "3c2114", "2e180f"))
        strokes.append(line(path, colour, rng.uniform(0.6, 1.5), rng.uniform(0.16, 0.42)))
    return "".join(strokes)


def front_hair(pose: Pose) -> str:
    """The two locks from the parting, with their shine, strands and a rim of cool light on the right."""
    slide = -0.8 * pose.yaw
    left = (
        area(LEFT_LOCK, "url(#hair)")
        + f'<g clip-path="url(#left-lock-clip)">{_strands(-1)}{spot(-92, -120, 20, 44, "e8b27e", 0.42, 24)}'
        + f"{spot(-104, 60, 16, 50, 'e8b27e', 0.25)}{spot(-92, 0, 10, 110, '000000', 0.4)}</g>"
    )
    right = (
        area(RIGHT_LOCK, "url(#hair)")
        + f'<g clip-path="url(#right-lock-clip)">{_strands(1)}{spot(50, -150, 52, 20, "e8b27e", 0.5, 30)}'
        + f"{spot(114, 70, 12, 60, 'e8b27e', 0.25)}{spot(94, 0, 10, 110, '000000', 0.4)}"
        + f"{line('M60 -186 C104 -166 122 -110 121 -50 C119 0 120 40 131 92', 'bcd8ff', 3.0, 0.34)}</g>"
    )
    return f'<g transform="translate({slide:.2f} 0)">{left}{right}</g>'
