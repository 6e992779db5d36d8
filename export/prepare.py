"""From a video of somebody to face boxes: found in each frame, smoothed, and drawn on a sheet to be checked."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compositor_backend import contract
from compositor_backend.geometry import FAMILIES, Box
from export.atomic import publish, staging
from export.box_smoothing import Measured, is_jump, smooth_boxes
from export.errors import ExportError
from export.face_rules import rule_of
from export.frames import FrameSource, Pixels
from export.landmarks import VERSION, FaceFinder, Faces
from export.prepare_sheet import draw_prepared

DEFAULT_FAMILY = "328"
BOXES_FILE, SHEET_FILE, RECORD_FILE = "crop_rects.json", "contact-sheet.png", "prepare.json"
MIN_SIDE_PX = 48
"""A face that is smaller has fewer pixels than any network draws: it would be blown up several times."""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class BoxSettings:
    """How boxes are made: by the rule of which family, and over how many frames without a face they are bridged."""

    family: str = DEFAULT_FAMILY
    fill_frames: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot work, before anything is read."""
        rule_of(self.family)
        if self.fill_frames < 0:
            raise ExportError(f"--fill is {self.fill_frames}; 0 or more frames are wanted")


@dataclass(frozen=True)
class FaceBoxes:
    """The boxes of a source's frames, as found and as smoothed, and what the user should know of them."""

    boxes: tuple[Box, ...]
    measured: Measured
    notes: tuple[str, ...] = ()


def find_boxes(
    frames: FrameSource, finder: FaceFinder, settings: BoxSettings, progress: Progress | None = None
) -> FaceBoxes:
    """The face box of each frame; `ExportError` names the first frame in which there is not one face of some size."""
    width, height = frames.size_px
    measured, gaps = _fill(_measure(frames, finder, settings, progress), settings.fill_frames)
    boxes = smooth_boxes(measured, FAMILIES[settings.family].square_boxes, width, height)
    notes = [
        f"{_frames(first, last)}: no face was found; the box was filled in from the frames around"
        for first, last in gaps
    ]
    return FaceBoxes(tuple(boxes), measured, tuple(notes))


def _measure(
    frames: FrameSource, finder: FaceFinder, settings: BoxSettings, progress: Progress | None
) -> Measured:
    """float64 [N, 4]; rows of NaN where no face was found, no more of them in a row than may be filled."""
    rule, total = rule_of(settings.family), len(frames.origin)
    rows, missing = np.full((total, 4), np.nan), 0
    for number, faces in enumerate(_faces(frames, finder)):
        if number < total and faces.points is not None:
            rows[number] = _large_enough(number, rule(faces.points))
        missing = 0 if faces.points is not None else missing + 1
        if faces.count > 1:
            raise ExportError(f"frame {number}: {faces.count} faces were found; one is wanted")
        if missing > settings.fill_frames or (missing and missing == number + 1):
            raise ExportError(f"frame {number + 1 - missing}: no face was found")
        if progress is not None:
            progress("faces", number + 1, total)
    if missing:
        raise ExportError(f"frame {total - missing}: no face was found, nor in any frame after it")
    return rows


def _faces(frames: FrameSource, finder: FaceFinder) -> Iterator[Faces]:
    """The faces of each frame; a frame that a video of a lower rate repeats is looked at once."""
    last: Pixels | None = None
    faces = Faces(0)
    for frame in frames:
        if frame is not last:
            faces = finder.find(frame)
        last = frame
        yield faces


def _large_enough(number: int, rectangle: Measured) -> Measured:
    width = float(rectangle[2] - rectangle[0])
    # Of a face in profile the mesh may turn the sides about: no box can be made of that either.
    if width < MIN_SIDE_PX:
        raise ExportError(
            f"frame {number}: the face is {max(0, round(width))} px wide; {MIN_SIDE_PX} px or more are wanted"
        )
    return rectangle


def _fill(measured: Measured, most: int) -> tuple[Measured, list[tuple[int, int]]]:
    """Rows of NaN as straight lines between their neighbours, and the first and last frame of each gap."""
    known = np.flatnonzero(~np.isnan(measured[:, 0]))
    gaps = [(int(a) + 1, int(b) - 1) for a, b in itertools.pairwise(known) if b - a > 1]
    for first, last in gaps:
        if last - first >= most or is_jump(measured[first - 1], measured[last + 1]):
            raise ExportError(f"{_frames(first, last)}: no face was found, and it is elsewhere afterwards")
    every = np.arange(len(measured))
    columns = [np.interp(every, known, measured[known, side]) for side in range(4)]
    return np.stack(columns, axis=1), gaps


def _frames(first: int, last: int) -> str:
    return f"frame {first}" if first == last else f"frames {first} to {last}"


# --- what is written ---
@contextmanager
def prepared_folder(
    out: Path, avatar_id: str, source: tuple[Path, FrameSource], found: FaceBoxes, family: str, replace: bool
) -> Iterator[Path]:
    """``out/<id>`` with boxes, sheet and a record of both, which appears when all within went well.

    What is yielded is the folder as it is being made: `BOXES_FILE` and `SHEET_FILE` are in it.
    """
    refuse_existing(out, avatar_id, replace)
    try:
        with staging(out) as stage:
            folder = stage / avatar_id
            folder.mkdir()
            _write(folder, source, found, family)
            yield folder
            publish(out, stage, lambda: [avatar_id])
    except OSError as error:
        raise ExportError(f"{out} cannot be written: {error.strerror or error}") from error


def refuse_existing(out: Path, avatar_id: str, replace: bool) -> None:
    """`ExportError` if the folder is there already: its boxes may have been corrected by hand."""
    contract.check_avatar_id(avatar_id)
    if (out / avatar_id).exists() and not replace:
        raise ExportError(f"{out / avatar_id} is there already; say --replace to prepare it anew")


def _write(folder: Path, source: tuple[Path, FrameSource], found: FaceBoxes, family: str) -> None:
    path, frames = source
    lines = ",\n".join(json.dumps(list(box)) for box in found.boxes)
    (folder / BOXES_FILE).write_text(f"[\n{lines}\n]\n", encoding="ascii")
    record = {
        "frames": str(path.resolve()),
        "count": len(found.boxes),
        "size_px": list(frames.size_px),
        "family": family,
        "landmarks": f"mediapipe {VERSION}",
        "notes": [note for note in (frames.note, *found.notes) if note],
    }
    (folder / RECORD_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    draw_prepared(frames, found.boxes, found.measured).save(folder / SHEET_FILE, "PNG", optimize=True)
