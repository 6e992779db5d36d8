"""LiveTalking's ultralight avatars: frames, face crops of 168 px, a pickle of boxes, a network of the 160 family."""

from __future__ import annotations

from pathlib import Path

from export.errors import ExportError
from export.importers.base import Evidence, Source, Wanted
from export.importers.livetalking import (
    BOXES,
    FACES,
    FRAMES,
    ULTRALIGHT_FACE_PX,
    ULTRALIGHT_ORDER,
    face_size,
    read_pictures,
)
from export.importers.weights import Weights, find_weights, hearing

NAME = "livetalking-ultralight"
LABEL = "an ultralight avatar of LiveTalking"
LAYOUT = f"{FRAMES}/, {FACES}/ of {ULTRALIGHT_FACE_PX} px, {BOXES}, ultralight.pth"
_FAMILY = "160"


def detect(folder: Path, wanted: Wanted) -> Evidence | None:
    """See `Importer`."""
    if face_size(folder) != ULTRALIGHT_FACE_PX:
        return None
    if wanted.checkpoint is None and _weights(folder, wanted) is None:
        return Evidence("", f"{folder} holds no ultralight.pth: say which network with --checkpoint")
    return Evidence(f"{FRAMES}/, {FACES}/ of {ULTRALIGHT_FACE_PX} px and {BOXES}")


def read(folder: Path, wanted: Wanted) -> Source:
    """See `Importer`."""
    weights = _weights(folder, wanted)
    if weights is None:
        raise ExportError(f"{folder} holds no ultralight.pth; say which network with --checkpoint")
    if weights.family != _FAMILY:
        raise ExportError(
            f"{weights.path} is a network of the {weights.family} family; faces of {ULTRALIGHT_FACE_PX} px want one "
            f"of the {_FAMILY} family"
        )
    pictures = read_pictures(folder, ULTRALIGHT_ORDER)
    heard = hearing(weights, wanted)
    return Source(
        frames=pictures.frames,
        boxes=pictures.boxes,
        network=heard.network,
        encoder=heard.encoder,
        found=(*pictures.found, *heard.found),
        assumed=(*pictures.assumed, *heard.assumed),
        notes=(
            f"faces are cut from the full frames; {FACES}/ was compared with them and is not used",
            *heard.notes,
        ),
    )


def _weights(folder: Path, wanted: Wanted) -> Weights | None:
    return find_weights([folder], wanted)
