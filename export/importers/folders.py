"""What lies in a folder: numbered pictures, and what to say of them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path

from compositor_backend.geometry import Box
from export.errors import ExportError
from export.frames import PICTURE_SUFFIXES, PictureFolder

_LAST_NUMBER = re.compile(r"([0-9]+)[^0-9]*\Z")
_MOST_NAMES = 12


def holds_pictures(folder: Path) -> bool:
    """Whether there is a folder with pictures in it."""
    return folder.is_dir() and any(p.suffix.lower() in PICTURE_SUFFIXES for p in folder.iterdir())


def numbered_pictures(folder: Path) -> PictureFolder:
    """The pictures of a folder in the order of their numbers, which no number may be missing from.

    Boxes belong to frames by their place: where a frame was lost, all after it would get their neighbour's. Headers
    are read too, so that a picture of another size, or one that is no frame at all, is known before the long work.
    """
    pictures = PictureFolder.at(folder)
    numbers = [_number(path) for path in pictures.paths]
    for (earlier, _), (later, path) in itertools.pairwise(zip(numbers, pictures.paths, strict=True)):
        if later == earlier:
            raise ExportError(
                f"{path} has the number {later}, as another picture there has; one a frame is wanted"
            )
        if later != earlier + 1:
            raise ExportError(
                f"{folder} has no picture number {earlier + 1}, but {earlier} and {later}: "
                "which boxes belong to the frames after it cannot be told; number them without gaps"
            )
    pictures.check_headers()
    return pictures


def frames_found(pictures: PictureFolder, folder: Path) -> str:
    """The sentence about the frames of a folder."""
    width, height = pictures.size_px
    first, last = pictures.paths[0].name, pictures.paths[-1].name
    return f"{_count(len(pictures.paths), 'frame')} of {width}x{height} px ({folder.name}/{first} to {last})"


def boxes_found(boxes: Sequence[Box], where: str) -> str:
    """The sentence about face boxes."""
    widths = [x2 - x1 for x1, _, x2, _ in boxes]
    heights = [y2 - y1 for _, y1, _, y2 in boxes]
    least, most = f"{min(widths)}x{min(heights)}", f"{max(widths)}x{max(heights)}"
    size = least if least == most else f"{least} to {most}"
    return f"{_count(len(boxes), 'face box', 'es')}, {size} px ({where})"


def contents(folder: Path) -> str:
    """The names in a folder, for a sentence: folders with a slash, the first dozen of them."""
    names = sorted(f"{p.name[:60]}/" if p.is_dir() else p.name[:60] for p in folder.iterdir())
    if not names:
        return "nothing"
    shown = ", ".join(repr(name)[1:-1] for name in names[:_MOST_NAMES])
    return shown if len(names) <= _MOST_NAMES else f"{shown} and {len(names) - _MOST_NAMES} more"


def _number(path: Path) -> int:
    found = _LAST_NUMBER.search(path.stem)
    if found is None:
        raise ExportError(f"{path} has no number in its name; frames are numbered")
    return int(found[1])


def _count(number: int, one: str, plural: str = "s") -> str:
    return f"{number} {one}{'' if number == 1 else plural}"
