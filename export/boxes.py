"""Face boxes from where users have them: a JSON of rectangles, or a folder of 110-point landmarks."""

from __future__ import annotations

import json
from pathlib import Path

from compositor_backend.geometry import Box
from export.errors import ExportError
from export.frames import natural_order

LANDMARKS = 110
_LEFT, _RIGHT, _TOP = 1, 31, 52
"""Points of the jaw's two sides and of the bridge of the nose: they fix the box of the 328 and 160 families."""


def read_boxes(path: Path, names: list[str] | None = None) -> list[Box]:
    """Face boxes, one a frame, in the frames' order.

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
    geometry).
    """
    try:
        lines = path.read_text(encoding="ascii").splitlines()
        points = [tuple(float(word) for word in line.split()) for line in lines if line.strip()]
    except (OSError, ValueError) as error:
        raise ExportError(f"{path} cannot be read as landmarks: {error}") from error
    if len(points) != LANDMARKS or any(len(point) != 2 for point in points):
        raise ExportError(f"{path} has {len(points)} lines; {LANDMARKS} lines of x and y are wanted")
    try:
        x1, x2, y1 = int(points[_LEFT][0]), int(points[_RIGHT][0]), int(points[_TOP][1])
    except (ValueError, OverflowError):
        raise ExportError(f"{path} holds a number that is not finite") from None
    return x1, y1, x2, y1 + (x2 - x1)


def _landmark_files(folder: Path, names: list[str] | None) -> list[Path]:
    if names is None:
        files = sorted(folder.glob("*.lms"), key=natural_order)
        if not files:
            raise ExportError(f"{folder} holds no .lms files")
        return files
    files = [folder / f"{name}.lms" for name in names]
    for file in files:
        if not file.is_file():
            raise ExportError(f"{file} is not there; every frame wants its landmarks")
    return files


def _rectangles(path: Path) -> list[Box]:
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ExportError(f"{path} cannot be read as JSON: {error}") from error
    if isinstance(loaded, dict):
        loaded = _in_order(path, loaded)
    if not isinstance(loaded, list) or not loaded:
        raise ExportError(f"{path} holds a {type(loaded).__name__}; a list of [x1, y1, x2, y2] is wanted")
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
    if isinstance(value, list) and len(value) == 4:
        numbers = [
            v for v in value if isinstance(v, (int, float)) and not isinstance(v, bool) and abs(v) < 2**31
        ]
        if len(numbers) == 4:
            return int(numbers[0]), int(numbers[1]), int(numbers[2]), int(numbers[3])
    raise ExportError(f"{path}, frame {frame}: {str(value)[:80]} is no box; [x1, y1, x2, y2] is wanted")
