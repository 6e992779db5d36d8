"""The Go lip-sync servers, version 1: a folder for each model, with its graph, pictures and boxes."""

from __future__ import annotations

from pathlib import Path

from export.boxes import boxes_of_frames, read_boxes
from export.importers import go_servers
from export.importers.base import Evidence, Source, Wanted
from export.importers.folders import boxes_found, frames_found, holds_pictures, numbered_pictures
from export.importers.weights import hearing

NAME = "go-v1"
LABEL = "a model folder of the Go servers, version 1"
LAYOUT = "frames/ with pictures, crop_rects.json with a list of boxes, checkpoint/model_best.onnx"
_FRAMES, _BOXES = "frames", "crop_rects.json"


def detect(folder: Path, wanted: Wanted) -> Evidence | None:
    """See `Importer`."""
    if not holds_pictures(folder / _FRAMES) or not (folder / _BOXES).is_file():
        return None
    return go_servers.evidence(folder, Path(_BOXES), wanted, f"{_FRAMES}/ and {_BOXES}")


def read(folder: Path, wanted: Wanted) -> Source:
    """See `Importer`."""
    pictures = numbered_pictures(folder / _FRAMES)
    boxes = boxes_of_frames(read_boxes(folder / _BOXES), pictures)
    weights = go_servers.network(folder, wanted)
    heard = hearing(weights, wanted, folders=[folder, folder / go_servers.NETWORK.parent])
    return Source(
        frames=pictures,
        boxes=boxes,
        network=heard.network,
        encoder=heard.encoder,
        found=(frames_found(pictures, folder / _FRAMES), boxes_found(boxes, _BOXES), *heard.found),
        assumed=(*heard.assumed, "frames are at 25 a second, as those servers play them"),
        notes=heard.notes,
    )
