"""What LiveTalking's avatars share: full frames, face crops, and a pickle of boxes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compositor_backend.geometry import Box
from export.boxes import boxes_of_frames
from export.errors import ExportError
from export.frames import PictureFolder, read_picture, stored_size
from export.importers.crops import LEAST_LIKENESS, likeness, samples
from export.importers.folders import boxes_found, frames_found, holds_pictures, numbered_pictures
from export.importers.pickles import read_numbers

FRAMES, FACES, BOXES = "full_imgs", "face_imgs", "coords.pkl"
ULTRALIGHT_FACE_PX = 168
OTHER_FORMAT = ("latents.pt", "mask_coords.pkl")
"""Of MuseTalk, whose diffusion network is no network of any family here."""
ULTRALIGHT_ORDER, WAV2LIP_ORDER = "x1, y1, x2, y2", "y1, y2, x1, x2"
_ORDERS = {ULTRALIGHT_ORDER: (0, 1, 2, 3), WAV2LIP_ORDER: (2, 0, 3, 1)}
"""For each order of the four numbers, where x1, y1, x2 and y2 stand."""


@dataclass(frozen=True)
class Pictures:
    """Frames with their boxes, and what to say of them."""

    frames: PictureFolder
    boxes: list[Box]
    face_px: int
    found: tuple[str, ...]
    assumed: tuple[str, ...]


def face_size(folder: Path) -> int | None:
    """Side in px of the face crops in an avatar of LiveTalking, None if `folder` is none."""
    if not (
        holds_pictures(folder / FRAMES) and holds_pictures(folder / FACES) and (folder / BOXES).is_file()
    ):
        return None
    if any((folder / name).exists() for name in OTHER_FORMAT):
        return None
    width, height = stored_size(PictureFolder.at(folder / FACES).paths[0])
    return width if width == height else None


def read_pictures(folder: Path, usual_order: str) -> Pictures:
    """Frames and boxes; the order of a box's numbers is the one whose cut-outs `face_imgs` shows."""
    frames, faces = numbered_pictures(folder / FRAMES), numbered_pictures(folder / FACES)
    coords = read_numbers(folder / BOXES, len(frames.paths))
    if not len(frames.paths) == len(faces.paths) == len(coords):
        raise ExportError(
            f"{folder} has {len(frames.paths)} pictures in {FRAMES}, {len(faces.paths)} in {FACES} and {len(coords)} "
            f"boxes in {BOXES}; as many of each are wanted"
        )
    order, alike = _order(folder, frames, faces, coords, usual_order)
    boxes = boxes_of_frames([_in_order(row, order) for row in coords], frames)
    unusual = f"; {usual_order} is usual for this kind of avatar" if order != usual_order else ""
    return Pictures(
        frames=frames,
        boxes=boxes,
        face_px=stored_size(faces.paths[0])[0],
        found=(
            frames_found(frames, folder / FRAMES),
            boxes_found(boxes, f"{BOXES}, as {order}: {FACES}/ shows what they cut, likeness {alike:.2f}"),
        ),
        assumed=(
            f"the numbers of a box are {order}, as {FACES}/ shows{unusual}",
            "frames are at 25 a second",
        ),
    )


def _in_order(row: tuple[int, ...], order: str) -> Box:
    x1, y1, x2, y2 = (row[place] for place in _ORDERS[order])
    return x1, y1, x2, y2


def _order(
    folder: Path, frames: PictureFolder, faces: PictureFolder, coords: list[tuple[int, ...]], usual: str
) -> tuple[str, float]:
    """The order by which boxes cut what the faces show, and how alike that is; of two alike the usual one."""
    numbers = samples(len(coords))
    pairs = [(read_picture(frames.paths[n]), read_picture(faces.paths[n]), coords[n]) for n in numbers]
    alike = {
        order: float(np.mean([likeness(frame, _in_order(row, order), face) for frame, face, row in pairs]))
        for order in _ORDERS
    }
    best = max(alike, key=lambda order: (alike[order], order == usual))
    if alike[best] < LEAST_LIKENESS:
        scores = ", ".join(f"{score:.2f} as {order}" for order, score in alike.items())
        raise ExportError(
            f"{folder / FACES} is not what {BOXES} cuts from {FRAMES}, in no order of its numbers (likeness {scores}; "
            f"{LEAST_LIKENESS} is wanted): the boxes are of other frames"
        )
    return best, alike[best]
