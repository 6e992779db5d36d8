"""The studio behind the presenter, and her clothes, as SVG in frame pixels."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from export.demo.presenter_motion import Pose
from export.demo.presenter_svg import area, line, linear, rasterize, soft_gradient, spot

FRAME_SIZE = (1280, 720)

STUDIO_COLOURS = ("fff1d6", "ffc98a", "2c4a52", "9fc4c8", "0c1a20", "6fae7c")
# x, width, height, colour of the book spines of one shelf, left to right.
BOOKS = (
    (900, 20, 92, "a4584a"),
    (922, 16, 80, "d9c6a8"),
    (940, 24, 98, "3d6a74"),
    (966, 14, 74, "c98b4e"),
    (982, 20, 88, "7b8f86"),
    (1120, 22, 90, "2f5560"),
    (1144, 18, 78, "dcb98a"),
    (1164, 26, 96, "94564a"),
)


def _window() -> str:
    panes = "".join(
        f'<rect x="{x}" y="{y}" width="112" height="150" fill="url(#sky)"/>'
        for x in (70, 192)
        for y in (60, 220)
    )
    return (
        '<rect x="56" y="46" width="262" height="338" rx="4" fill="#dfe7e4"/>'
        + panes
        + spot(190, 210, 330, 320, "fff1d6", 0.75)
    )


def _shelves() -> str:
    boards = "".join(
        f'<rect x="870" y="{y}" width="360" height="14" fill="#7d5a43"/>' for y in (210, 350, 490)
    )
    spines = "".join(
        f'<rect x="{x}" y="{base - height}" width="{width}" height="{height}" fill="#{colour}"/>'
        for base, shift in ((210, 0), (350, -12), (490, 24))
        for x, width, height, colour in ((x + shift, w, h, c) for x, w, h, c in BOOKS)
    )
    lamp = (
        '<path d="M1040 150 h52 l14 46 h-80 Z" fill="#ffe3b4"/>'
        + spot(1066, 180, 150, 120, "ffc98a", 0.8)
        + spot(1066, 178, 60, 44, "fff1d6", 0.95)
    )
    vase = '<path d="M1046 350 c-16 -26 -10 -52 8 -60 h20 c18 8 24 34 8 60 Z" fill="#d7cfc2"/>'
    return boards + spines + lamp + vase


def _plant() -> str:
    leaves = "".join(
        f'<path d="M{x} 600 C{x + bend * 0.3} 540 {x + bend * 0.4} 480 {x + bend} {top} '
        f'C{x + bend * 0.9} {top + 60} {x + bend * 0.6} 560 {x + 8} 604 Z" fill="#{colour}"/>'
        for x, bend, top, colour in (
            (150, -110, 430, "3f7a58"),
            (156, -60, 388, "56946a"),
            (162, 6, 372, "48845f"),
            (168, 66, 396, "5f9f72"),
            (172, 116, 448, "3c7353"),
        )
    )
    return (
        leaves
        + '<path d="M110 596 h108 l-14 110 h-80 Z" fill="#c9b7a2"/>'
        + spot(190, 640, 50, 80, "0c1a20", 0.3)
    )


def _backdrop() -> str:
    wall = linear("wall", ((0.0, "5f8488"), (0.6, "456a70"), (1.0, "33535a")), x2=1.0, y2=0.5)
    sky = linear("sky", ((0.0, "f4fbff"), (1.0, "ffeccb")))
    blur = (
        '<filter id="far" x="-0.1" y="-0.1" width="1.2" height="1.2">'
        '<feGaussianBlur stdDeviation="11"/></filter>'
    )
    defs = "".join(soft_gradient(colour) for colour in STUDIO_COLOURS) + wall + sky + blur
    return (
        f"<defs>{defs}</defs>"
        + '<rect width="1280" height="720" fill="url(#wall)"/>'
        + '<g filter="url(#far)"><rect width="1280" height="720" fill="url(#wall)"/>'
        + f"{_window()}{_shelves()}{_plant()}</g>"
        + spot(330, 250, 560, 480, "fff1d6", 0.28)
        + spot(660, 330, 420, 380, "9fc4c8", 0.42)
        + spot(1280, 720, 620, 420, "0c1a20", 0.5)
        + spot(0, 760, 560, 260, "0c1a20", 0.42)
        + spot(1240, -20, 420, 200, "0c1a20", 0.4)
    )


@cache
def backdrop() -> NDArray[np.uint8]:
    """The empty studio, out of focus: uint8 [720, 1280, 3], RGB. Read only."""
    picture = np.ascontiguousarray(rasterize(_backdrop(), (0, 0, *FRAME_SIZE))[..., :3])
    picture.flags.writeable = False
    return picture


def clothes_definitions() -> str:
    """Gradients that ``clothes`` refers to."""
    return (
        "<defs>"
        + linear("blazer", ((0.0, "2f6470"), (0.5, "21495a"), (1.0, "142f3d")), x2=0.5)
        + linear("lapel", ((0.0, "3b7682"), (1.0, "1f4656")), x2=0.3)
        + linear("blouse", ((0.0, "fffaf2"), (1.0, "d9cdc0")), x2=0.3)
        + soft_gradient("0c1a20")
        + soft_gradient("9fd0dc")
        + soft_gradient("a08c7c")
        + "</defs>"
    )


def _blouse() -> str:
    return (
        area("M-116 184 C-80 214 -34 250 0 268 C34 250 80 214 116 184 L150 460 H-150 Z", "url(#blouse)")
        + area("M-92 166 C-66 204 -34 244 0 274 L-20 314 C-70 272 -104 226 -116 182 Z", "#fffaf3")
        + area("M92 166 C66 204 34 244 0 274 L20 314 C70 272 104 226 116 182 Z", "#efe4d8")
        + spot(0, 300, 34, 70, "a08c7c", 0.4)
        + line("M-1 296 C-3 340 -2 380 0 460", "a08c7c", 1.6, 0.55)
        + line("M-30 330 C-22 370 -26 410 -20 450", "b9a898", 3.0, 0.3)
        + line("M30 326 C24 366 28 410 22 450", "b9a898", 3.0, 0.35)
    )


def _blazer() -> str:
    right = "M106 172 C146 190 222 198 260 238 C292 290 310 380 316 470 L40 470 C60 380 98 260 106 172 Z"
    left = (
        "M-106 172 C-146 190 -222 198 -260 238 C-292 290 -310 380 -316 470 "
        "L-40 470 C-60 380 -98 260 -106 172 Z"
    )
    return (
        area(left, "url(#blazer)")
        + area(right, "url(#blazer)")
        + spot(-196, 226, 90, 26, "9fd0dc", 0.4, -22)
        + spot(196, 224, 86, 20, "9fd0dc", 0.36, 22)
        + spot(238, 350, 54, 150, "0c1a20", 0.5)
        + spot(-236, 400, 40, 130, "0c1a20", 0.42)
        + line("M-236 300 C-214 350 -208 410 -214 470", "0c1a20", 3.4, 0.4)
        + line("M236 300 C214 350 208 410 214 470", "0c1a20", 3.4, 0.45)
        + line("M-196 330 C-180 366 -150 396 -132 440", "9fd0dc", 4.0, 0.1)
        + line("M188 330 C172 366 150 396 132 440", "0c1a20", 5.0, 0.22)
    )


def _lapels() -> str:
    left = (
        "M-104 168 C-130 208 -140 250 -144 286 L-106 292 L-118 322 C-84 380 -58 420 -36 472 "
        "L-30 440 C-62 350 -94 262 -104 168 Z"
    )
    right = left.replace("-", "")
    return (
        area(left, "url(#lapel)")
        + area(right, "url(#lapel)")
        + line("M-144 286 L-106 292 L-118 322", "12303c", 1.8, 0.55)
        + line("M144 286 L106 292 L118 322", "12303c", 1.8, 0.55)
        + line("M-108 182 C-128 216 -136 250 -140 282", "9fd0dc", 1.4, 0.4)
        + line("M-118 324 C-84 382 -58 420 -37 470", "0c1a20", 3.0, 0.35)
        + line("M118 324 C84 382 58 420 37 470", "0c1a20", 3.0, 0.35)
    )


def clothes(pose: Pose) -> str:
    """Blouse and blazer in shoulder coordinates: frame pixels round the head's middle position, y down."""
    return _blouse() + _blazer() + _lapels() + spot(6, 190 - pose.breath, 110, 34, "0c1a20", 0.22)
