"""LiveTalking's wav2lip avatars: frames, face crops, a pickle of boxes, and elsewhere a network for all of them."""

from __future__ import annotations

from pathlib import Path

from compositor_backend.geometry import FAMILIES
from export.errors import ExportError
from export.importers.base import Evidence, Source, Wanted
from export.importers.livetalking import (
    BOXES,
    FACES,
    FRAMES,
    ULTRALIGHT_FACE_PX,
    WAV2LIP_ORDER,
    face_size,
    read_pictures,
)
from export.importers.weights import Weights, find_weights, hearing

NAME = "livetalking-wav2lip"
LABEL = "a wav2lip avatar of LiveTalking"
LAYOUT = f"{FRAMES}/, {FACES}/, {BOXES}, and a Wav2Lip network (.pth of 96 px, or .onnx)"
_PATTERN = "wav2lip*.pth"


def detect(folder: Path, wanted: Wanted) -> Evidence | None:
    """See `Importer`."""
    side_px = face_size(folder)
    if side_px in (None, ULTRALIGHT_FACE_PX):
        return None
    if wanted.checkpoint is None and _weights(folder, wanted) is None:
        return Evidence("", _no_network(folder))
    return Evidence(f"{FRAMES}/, {FACES}/ of {side_px} px and {BOXES}")


def read(folder: Path, wanted: Wanted) -> Source:
    """See `Importer`."""
    weights = _weights(folder, wanted)
    if weights is None:
        raise ExportError(_no_network(folder))
    family = FAMILIES[weights.family]
    if not family.any_face:
        raise ExportError(
            f"{weights.path} is a network of the {family.name} family; a Wav2Lip network is wanted"
        )
    pictures = read_pictures(folder, WAV2LIP_ORDER)
    heard = hearing(weights, wanted)
    notes = [f"faces are cut from the full frames; {FACES}/ was compared with them and is not used"]
    if pictures.face_px != family.crop_px:
        notes.append(
            f"{FACES}/ has {pictures.face_px} px, and the network sees {family.crop_px}: that is followed"
        )
    return Source(
        frames=pictures.frames,
        boxes=pictures.boxes,
        network=heard.network,
        encoder=heard.encoder,
        found=(*pictures.found, *heard.found),
        assumed=(*pictures.assumed, *heard.assumed),
        notes=(*notes, *heard.notes, "avatars with these weights share one network"),
    )


def _weights(folder: Path, wanted: Wanted) -> Weights | None:
    return find_weights([folder], wanted) or find_weights([_models(folder)], wanted, _PATTERN)


def _models(folder: Path) -> Path:
    """LiveTalking keeps avatars in ``data/avatars/<name>`` and networks in ``models``."""
    here = folder.resolve()
    return (here.parents[2] if len(here.parents) > 2 else here) / "models"


def _no_network(folder: Path) -> str:
    return f"no Wav2Lip network lies in {folder} or {_models(folder)}: say which with --checkpoint"
