"""The presenter's idle motion: where head, shoulders, lids and gaze are in each template frame.

Every movement is a sum of half cosines, which stand still at both ends of the clip: played to and fro
(ping-pong) the clip has no jerk where it turns round.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

FPS = 25
N_FRAMES = 251

# Frame of full closure. Natural blinks come every 2 to 4 seconds, now and then as a pair.
BLINK_FRAMES = (41, 102, 131, 142, 203)
BLINK_CLOSING_FRAMES = 3.0
BLINK_OPENING_FRAMES = 5.0
# Frame at which the gaze jumps, and where to (pixels right, pixels down).
GAZE_JUMPS = (
    (24, 1.9, 0.3),
    (52, 0.5, 0.0),
    (74, -1.2, 0.7),
    (101, 0.2, 0.0),
    (120, 0.8, -0.4),
    (143, -0.4, 0.1),
    (166, -2.1, -0.4),
    (188, -0.9, 0.4),
    (204, 0.0, 0.0),
)
GAZE_JUMP_FRAMES = 3.0


@dataclass(frozen=True)
class Pose:
    """What moves from template frame to template frame; lengths in frame pixels, angles in degrees."""

    x_px: float
    """Head, to the right of its middle position."""
    y_px: float
    """Head, below its middle position."""
    roll_deg: float
    yaw: float
    """Turn of the head, about -1 to 1, positive to the picture's right."""
    pitch: float
    """Nod, about -1 to 1, positive downward."""
    breath: float
    """-1 (breathed out) to 1 (breathed in)."""
    lid: float
    """0 (open) to 1 (closed)."""
    gaze_x_px: float
    gaze_y_px: float
    brow: float
    """About -1 to 1, positive raised."""


def _sway(turn: float, *terms: tuple[int, float]) -> float:
    """Sum of ``amplitude * cos(half_waves * pi * turn)``, whose slope is zero at turn 0 and 1."""
    return sum(amplitude * math.cos(half_waves * math.pi * turn) for half_waves, amplitude in terms)


def _smoothstep(value: float) -> float:
    bounded = min(1.0, max(0.0, value))
    return bounded * bounded * (3.0 - 2.0 * bounded)


def _lid(index: int) -> float:
    """How far the lids are closed; closing is faster than opening, as in people."""
    closed = 0.0
    for middle in BLINK_FRAMES:
        away = index - middle
        frames = BLINK_OPENING_FRAMES if away > 0 else BLINK_CLOSING_FRAMES
        closed = max(closed, 1.0 - _smoothstep(abs(away) / frames))
    return closed


def _gaze(index: int) -> tuple[float, float]:
    x_px = y_px = 0.0
    for frame, to_x_px, to_y_px in GAZE_JUMPS:
        share = _smoothstep((index - frame) / GAZE_JUMP_FRAMES)
        x_px += (to_x_px - x_px) * share
        y_px += (to_y_px - y_px) * share
    return x_px, y_px


def pose_at(index: int) -> Pose:
    """The pose of template frame ``index``, 0 to ``N_FRAMES - 1``."""
    turn = index / (N_FRAMES - 1)
    breath = _sway(turn, (5, 1.0))
    gaze_x_px, gaze_y_px = _gaze(index)
    return Pose(
        x_px=_sway(turn, (2, 3.8), (3, 2.6), (7, 0.8)),
        y_px=_sway(turn, (3, 1.5), (4, 1.2), (8, 0.4)) - 1.1 * breath,
        roll_deg=_sway(turn, (2, 0.8), (5, 0.65)),
        yaw=_sway(turn, (3, 0.7), (4, 0.55), (7, 0.15)),
        pitch=_sway(turn, (2, 0.45), (6, 0.45)),
        breath=breath,
        lid=_lid(index),
        gaze_x_px=gaze_x_px,
        gaze_y_px=gaze_y_px,
        brow=_sway(turn, (4, 0.5), (9, 0.4)),
    )
