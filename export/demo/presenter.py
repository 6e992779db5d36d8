"""The demo's presenter: a face drawn by code, with idle motion and a mouth that takes any shape.

Everything that depends on the mouth lies inside the face box, and inside the part of it that a lip-sync
network of the 328 family repaints; ``render_frame`` and ``render_box`` therefore agree to the pixel.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from export.demo import presenter_head as head
from export.demo import presenter_mouth as mouths
from export.demo import presenter_studio as studio
from export.demo.mouth import REST, MouthShape, lip_opening
from export.demo.presenter_motion import FPS, N_FRAMES, Pose, pose_at
from export.demo.presenter_studio import FRAME_SIZE
from export.demo.presenter_svg import over, rasterize

__all__ = [
    "BOX_SIDE_PX",
    "FPS",
    "FRAME_SIZE",
    "N_FRAMES",
    "face_box",
    "measure_opening",
    "opening_px",
    "render_box",
    "render_frame",
]

BOX_SIDE_PX = 190
# Upper edge of the box in head coordinates: on the bridge of the nose, just under the eyes.
BOX_TOP_PX = -50.0
HEAD_PX = (640.0, 292.0)
# The head rolls about the top of the neck.
PIVOT_PX = 120.0
MOUTH_PX = 46.0
# Where the body is in the frame, as x, y, width, height: head, then shoulders. Elsewhere is only the studio.
BODY_VIEWS_PX = ((494, 74, 292, 386), (310, 460, 660, 260))
# What the mouth's drawing can reach round its origin: left, up, width, height.
MOUTH_VIEW_PX = (-72, -50, 144, 106)

# The inner mouth is dark, or as grey as teeth; lips and skin are neither. First the limit of 0, then of 1.
DARK_RED = (150.0, 95.0)
GREY_BLUE_SHARE = (0.66, 0.74)
# Rows searched, from the mouth's origin: the lips' inner edges never leave them.
SEARCH_ROWS_PX = (-11, 28)
SEARCH_HALF_COLUMNS = 4


def _checked(index: int) -> int:
    if not 0 <= index < N_FRAMES:
        raise ValueError(
            f"template frame {index} was asked for, but the presenter has frames 0 to {N_FRAMES - 1}"
        )
    return index


def _head_transform(pose: Pose) -> str:
    x, y = HEAD_PX[0] + pose.x_px, HEAD_PX[1] + pose.y_px
    return f"translate({x:.3f} {y:.3f}) rotate({pose.roll_deg:.4f} 0 {PIVOT_PX})"


def _mouth_in_head(pose: Pose) -> tuple[float, float]:
    return head.FEATURE_SLIDE_PX[0] * pose.yaw, MOUTH_PX + head.FEATURE_SLIDE_PX[1] * pose.pitch


def _in_frame(pose: Pose, x: float, y: float) -> tuple[float, float]:
    """Head coordinates to frame pixels."""
    angle = math.radians(pose.roll_deg)
    below = y - PIVOT_PX
    frame_x = x * math.cos(angle) - below * math.sin(angle)
    frame_y = x * math.sin(angle) + below * math.cos(angle) + PIVOT_PX
    return HEAD_PX[0] + pose.x_px + frame_x, HEAD_PX[1] + pose.y_px + frame_y


def face_box(index: int) -> tuple[int, int, int, int]:
    """The face box x1, y1, x2, y2 of template frame ``index`` in pixels; square, x2 and y2 exclusive."""
    pose = pose_at(_checked(index))
    middle_x, middle_y = _in_frame(pose, 0.0, BOX_TOP_PX + BOX_SIDE_PX / 2)
    x1, y1 = round(middle_x - BOX_SIDE_PX / 2), round(middle_y - BOX_SIDE_PX / 2)
    return x1, y1, x1 + BOX_SIDE_PX, y1 + BOX_SIDE_PX


def _mouth_in_box(index: int) -> tuple[float, float]:
    pose = pose_at(index)
    x, y = _in_frame(pose, *_mouth_in_head(pose))
    x1, y1, _, _ = face_box(index)
    return x - x1, y - y1


def _shoulders(pose: Pose) -> str:
    x, y = HEAD_PX[0] + 0.35 * pose.x_px, HEAD_PX[1] - 1.6 * pose.breath
    wide = 1.0 + 0.004 * pose.breath
    moved = f"translate({x:.3f} {y:.3f}) scale({wide:.5f} 1)"
    return f'<g transform="{moved}">{head.neck(pose)}{studio.clothes(pose)}</g>'


def _body(pose: Pose) -> tuple[str, str]:
    """Drawings for ``BODY_VIEWS_PX``; the hair ends above the second view, which so does without."""
    moved = _head_transform(pose)
    shades = head.definitions() + studio.clothes_definitions()
    shoulders = _shoulders(pose)
    upper = (
        f'{shades}<g transform="{moved}">{head.back_hair()}</g>{shoulders}'
        f'<g transform="{moved}">{head.face(pose)}{head.front_hair(pose)}</g>'
    )
    return upper, shades + shoulders


@lru_cache(maxsize=4)
def _bare_frame(index: int) -> NDArray[np.uint8]:
    """The template frame without a mouth: uint8 [720, 1280, 3]. Read only."""
    frame = studio.backdrop().copy()
    for body, view in zip(_body(pose_at(index)), BODY_VIEWS_PX, strict=True):
        left, top, width, height = view
        patch = frame[top : top + height, left : left + width]
        patch[...] = over(patch, rasterize(body, view))
    frame.flags.writeable = False
    return frame


@lru_cache(maxsize=N_FRAMES)
def _bare_box(index: int) -> NDArray[np.uint8]:
    x1, y1, x2, y2 = face_box(index)
    box = _bare_frame(index)[y1:y2, x1:x2].copy()
    box.flags.writeable = False
    return box


def render_box(index: int, mouth: MouthShape = REST) -> NDArray[np.uint8]:
    """What ``render_frame`` shows inside ``face_box``: uint8 [side, side, 3], RGB.

    The frame's other layers are kept after the first call, so that later calls draw the mouth only.
    """
    skin = _bare_box(_checked(index))
    pose = pose_at(index)
    x1, y1, _, _ = face_box(index)
    mouth_x, mouth_y = _mouth_in_head(pose)
    placed = f"{_head_transform(pose)} translate({mouth_x:.3f} {mouth_y:.3f})"
    in_box_x, in_box_y = _mouth_in_box(index)
    box = mouths.pull_jaw(skin, lip_opening(mouth), in_box_x, in_box_y).copy()
    left, top = round(in_box_x) + MOUTH_VIEW_PX[0], round(in_box_y) + MOUTH_VIEW_PX[1]
    _, _, width, height = MOUTH_VIEW_PX
    drawing = rasterize(
        f'{mouths.definitions()}<g transform="{placed}">{mouths.draw(mouth)}</g>',
        (x1 + left, y1 + top, width, height),
    )
    patch = box[top : top + height, left : left + width]
    patch[...] = over(patch, drawing)
    return box


def render_frame(index: int, mouth: MouthShape = REST) -> NDArray[np.uint8]:
    """Template frame ``index`` (0 to ``N_FRAMES - 1``) with the given mouth: uint8 [720, 1280, 3], RGB."""
    frame = _bare_frame(_checked(index)).copy()
    x1, y1, x2, y2 = face_box(index)
    frame[y1:y2, x1:x2] = render_box(index, mouth)
    return frame


def opening_px(index: int, mouth: MouthShape) -> float:
    """The gap between the lips' inner edges in the middle of the mouth, in frame pixels."""
    _checked(index)
    return mouths.lips_of(mouth).gap


def _ramp(values: NDArray[np.float32], at_zero: float, at_one: float) -> NDArray[np.float32]:
    return np.clip((values - at_zero) / (at_one - at_zero), 0.0, 1.0)


def measure_opening(box_pixels: NDArray[np.uint8], index: int) -> float:
    """The mouth's opening in frame pixels, read from the pixels of the face box of template frame ``index``.

    Down the middle (the mean of a few columns), what is dark or as colourless as teeth counts as inside the
    mouth, and so does everything between two such places (the tongue has the lips' colour). Limits are soft,
    so that the measure stays steady under blur and JPEG.

    Args:
        box_pixels: uint8 [side, side, 3], RGB, drawn, generated or decoded.
        index: the template frame, which says where the mouth is.

    """
    if box_pixels.shape != (BOX_SIDE_PX, BOX_SIDE_PX, 3):
        raise ValueError(f"a box of shape {box_pixels.shape} was given, not {(BOX_SIDE_PX, BOX_SIDE_PX, 3)}")
    x, y = (round(value) for value in _mouth_in_box(_checked(index)))
    rows = slice(y + SEARCH_ROWS_PX[0], y + SEARCH_ROWS_PX[1])
    columns = slice(x - SEARCH_HALF_COLUMNS, x + SEARCH_HALF_COLUMNS + 1)
    middle = box_pixels[rows, columns].mean(axis=1, dtype=np.float32)
    red, blue = middle[:, 0], middle[:, 2]
    inside = np.maximum(_ramp(red, *DARK_RED), _ramp(blue / np.maximum(red, 1.0), *GREY_BLUE_SHARE))
    from_above = np.maximum.accumulate(inside)
    from_below = np.maximum.accumulate(inside[::-1])[::-1]
    return float(np.minimum(from_above, from_below).sum())
