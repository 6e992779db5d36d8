"""Face boxes from where users have them: a JSON of rectangles, or a folder of 110-point landmarks."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path

from compositor_backend.errors import PackError
from compositor_backend.geometry import Box, check_box
from export.bounded import read_text
from export.errors import ExportError
from export.frames import FrameSource, natural_order

LANDMARKS = 110
_LEFT, _RIGHT, _TOP = 1, 31, 52
"""Points of the jaw's two sides and of the bridge of the nose: they fix the box of the 328 and 160 families."""
_MOST_PX = 1e6
MAX_BOXES_BYTES = 4 << 20
"""Twenty thousand boxes, 13 minutes of frames, however loosely they are written; parsed they can take 20 times that."""
MAX_LANDMARKS_BYTES = 64 << 10


def read_boxes(path: Path, names: Sequence[str] | None = None) -> list[Box]:
    """Face boxes, one a frame, in the frames' order; `ExportError` says what is wrong.

    `path` is a JSON file, ``[[x1, y1, x2, y2], …]`` or ``{"0": {"rect": [x1, y1, x2, y2]}, …}``, or a folder of
    ``.lms`` files; where the frames have `names`, each wants the landmarks of its own name.
    """
    if path.is_dir():
        return [box_of_landmarks(file) for file in _landmark_files(path, names)]
    if not path.is_file():
        raise ExportError(f"{path} is not there; a crop_rects.json or a folder of landmarks is wanted")
    return _rectangles(path)


def box_of_landmarks(path: Path) -> Box:
    """The square box of a ``.lms`` file: 110 lines "x y" in px.

    From point 1 to point 31 in x, as high as wide, its top at point 52 (source: the published training code's
    geometry, which cuts fractions off).
    """
    try:
        lines = read_text(path, MAX_LANDMARKS_BYTES, "ascii").splitlines()
        points = [tuple(float(word) for word in line.split()) for line in lines if line.strip()]
    except (OSError, ValueError) as error:
        raise ExportError(f"{path} cannot be read as landmarks: {error}") from error
    if len(points) != LANDMARKS:
        raise ExportError(f"{path} has {len(points)} lines; {LANDMARKS} lines of x and y are wanted")
    for number, point in enumerate(points, 1):
        if len(point) != 2 or not all(math.isfinite(value) and abs(value) < _MOST_PX for value in point):
            raise ExportError(f"{path}, line {number}: {list(point)} is no point; x and y in px are wanted")
    x1, x2, y1 = int(points[_LEFT][0]), int(points[_RIGHT][0]), int(points[_TOP][1])
    return x1, y1, x2, y1 + (x2 - x1)


def boxes_of_frames(boxes: Sequence[Box], frames: FrameSource) -> list[Box]:
    """The box of each frame; `ExportError` if their numbers differ, a box is empty or not inside the frames.

    For a video whose rate was changed, boxes may also be those of its own frames.
    """
    origin, (width, height) = frames.origin, frames.size_px
    if len(boxes) == len(origin):
        chosen = list(boxes)
    elif len(boxes) == frames.source_count:
        chosen = [boxes[frame] for frame in origin]
    else:
        raise ExportError(
            f"there are {len(origin)} frames and {len(boxes)} face boxes; as many of each are wanted"
        )
    for number, box in enumerate(chosen):
        try:
            check_box(box, width, height)
        except PackError as error:
            raise ExportError(f"frame {number}: {error}") from error
    return chosen


def _landmark_files(folder: Path, names: Sequence[str] | None) -> list[Path]:
    if names is None:
        return _numbered(folder)
    files = [folder / f"{name}.lms" for name in names]
    for number, file in enumerate(files):
        if not file.is_file():
            raise ExportError(f"{file} is not there; frame {number} wants its landmarks")
    return files


def _numbered(folder: Path) -> list[Path]:
    """The landmark files in the order of their numbers, none of which may be missing in between."""
    files = sorted(folder.glob("*.lms"), key=lambda path: natural_order(path.stem))
    if not files:
        raise ExportError(f"{folder} holds no .lms files")
    numbers = [int(file.stem) if file.stem.isascii() and file.stem.isdecimal() else None for file in files]
    for earlier, later in itertools.pairwise(numbers):
        if earlier is not None and later is not None and later != earlier + 1:
            raise ExportError(
                f"{folder} has no landmarks of frame {earlier + 1}, but of {earlier} and {later}"
            )
    return files


def _rectangles(path: Path) -> list[Box]:
    try:
        loaded = json.loads(read_text(path, MAX_BOXES_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise ExportError(f"{path} cannot be read as JSON: {error}") from error
    if isinstance(loaded, dict):
        loaded = _in_order(path, loaded)
    if not isinstance(loaded, list) or not loaded:
        raise ExportError(f"{path} holds {_shorten(loaded)}; a list of [x1, y1, x2, y2] is wanted")
    return [_box(path, frame, value) for frame, value in enumerate(loaded)]


def _in_order(path: Path, by_frame: dict[str, object]) -> list[object]:
    """The rectangles of an object whose keys are the frame numbers 0 … n-1."""
    rects = []
    for frame in range(len(by_frame)):
        entry = by_frame.get(str(frame))
        if not isinstance(entry, dict) or "rect" not in entry:
            raise ExportError(f'{path} has no "{frame}": {{"rect": [x1, y1, x2, y2]}}')
        rects.append(entry["rect"])
    return rects


def _box(path: Path, frame: int, value: object) -> Box:
    if isinstance(value, list) and len(value) == 4 and all(map(_is_pixel, value)):
        x1, y1, x2, y2 = (int(number) for number in value)
        return x1, y1, x2, y2
    raise ExportError(f"{path}, frame {frame}: {_shorten(value)} is no box; [x1, y1, x2, y2] is wanted")


def _is_pixel(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _MOST_PX


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
