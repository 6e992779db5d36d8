"""The training data set that SyncTalk_2D and Ultralight share: pictures, landmarks, audio features."""

from __future__ import annotations

from pathlib import Path

from export.boxes import box_of_landmarks, boxes_of_frames, read_boxes
from export.errors import ExportError
from export.importers.base import Evidence, Source, Wanted
from export.importers.features import feature_files
from export.importers.folders import boxes_found, frames_found, holds_pictures, numbered_pictures
from export.importers.weights import Weights, find_weights, hearing

FRAMES, LANDMARKS = "full_body_img", "landmarks"
LAYOUT = f"{FRAMES}/ with pictures, {LANDMARKS}/ with .lms files of 110 points, a .pth of the {{}} family"


def detect(folder: Path, wanted: Wanted, family: str) -> Evidence | None:
    """Evidence of such a data set with a network of that family, or with none that could be found."""
    if not holds_pictures(folder / FRAMES):
        return None
    first = min((folder / LANDMARKS).glob("*.lms"), default=None)
    if first is None:
        return None
    try:
        box_of_landmarks(first)
    except ExportError as error:
        return Evidence("", str(error))
    weights = _weights(folder, wanted)
    if weights is None:
        places = ", ".join(str(place) for place in _places(folder))
        return Evidence("", f"no .pth with a network lies in {places}: say which with --checkpoint")
    found = f"{FRAMES}/, {LANDMARKS}/ and a network of the {weights.family} family"
    return Evidence(found) if weights.family == family else None


def read(folder: Path, wanted: Wanted) -> Source:
    """The avatar of such a data set; landmarks belong to the picture of the same name."""
    weights = _weights(folder, wanted)
    if weights is None:
        raise ExportError(f"{folder} has no network beside it; say which with --checkpoint")
    pictures = numbered_pictures(folder / FRAMES)
    boxes = boxes_of_frames(read_boxes(folder / LANDMARKS, pictures.names), pictures)
    features = feature_files(folder)
    heard = hearing(weights, wanted, features, _places(folder))
    return Source(
        frames=pictures,
        boxes=boxes,
        network=heard.network,
        encoder=heard.encoder,
        found=(
            frames_found(pictures, folder / FRAMES),
            boxes_found(boxes, f"of {LANDMARKS}/*.lms, square"),
            *(str(table) for table in features),
            *heard.found,
        ),
        assumed=(*heard.assumed, "frames are at 25 a second, as the data set's are"),
        notes=(*_left_out(folder, pictures.names), *heard.notes),
    )


def _weights(folder: Path, wanted: Wanted) -> Weights | None:
    return find_weights(_places(folder), wanted)


def _places(folder: Path) -> list[Path]:
    """Where a network is looked for: the data set itself, and where training puts its checkpoints."""
    here = folder.resolve()
    return [folder, folder / "checkpoint", here.parent.parent / "checkpoint" / here.name]


def _left_out(folder: Path, names: list[str]) -> list[str]:
    notes = []
    extra = sorted({path.stem for path in (folder / LANDMARKS).glob("*.lms")} - set(names))
    if extra:
        shown = ", ".join(extra[:3]) + (", …" if len(extra) > 3 else "")
        notes.append(f"{len(extra)} landmark files belong to no picture and are left out ({shown})")
    if (folder / "parsing").is_dir():
        notes.append("parsing/ is left out: the network's own mask is drawn, not that of a face parser")
    return notes
