"""The Go lip-sync servers, version 2: a package of two videos, boxes, features and the graph."""

from __future__ import annotations

import itertools
from pathlib import Path

from compositor_backend.geometry import Box
from export.boxes import boxes_of_frames, read_boxes
from export.errors import ExportError
from export.frames import FrameSource, open_frames
from export.importers import go_servers
from export.importers.base import Evidence, Source, Wanted
from export.importers.crops import LEAST_LIKENESS, likeness, samples
from export.importers.features import feature_files
from export.importers.folders import boxes_found
from export.importers.weights import hearing

NAME = "go-v2"
LABEL = "a package of the Go servers, version 2"
LAYOUT = (
    "full_body_video.mp4, cache/crop_rectangles.json with a box for each frame, checkpoint/model_best.onnx "
    "(and crops_328_video.mp4, aud_ave.npy)"
)
_FRAMES, _CROPS = "full_body_video.mp4", "crops_328_video.mp4"
_BOXES = Path("cache") / "crop_rectangles.json"
_COMPARED_FRAMES = 100
"""How far into the videos crops are compared; a box that is wrong is wrong in all of them, as a rule."""


def detect(folder: Path, wanted: Wanted) -> Evidence | None:
    """See `Importer`."""
    if not (folder / _FRAMES).is_file() or not (folder / _BOXES).is_file():
        return None
    return go_servers.evidence(folder, _BOXES, wanted, f"{_FRAMES} and {_BOXES}")


def read(folder: Path, wanted: Wanted) -> Source:
    """See `Importer`."""
    video = open_frames(folder / _FRAMES)
    all_boxes = read_boxes(folder / _BOXES)
    boxes = boxes_of_frames(all_boxes, video)
    weights = go_servers.network(folder, wanted)
    features = feature_files(folder)
    heard = hearing(weights, wanted, features, [folder, folder / go_servers.NETWORK.parent])
    width, height = video.size_px
    return Source(
        frames=video,
        boxes=boxes,
        network=heard.network,
        encoder=heard.encoder,
        found=(
            f"{len(boxes)} frames of {width}x{height} px ({_FRAMES})",
            boxes_found(boxes, str(_BOXES)),
            *_compared(folder, video, boxes),
            *(str(table) for table in features),
            *heard.found,
        ),
        assumed=heard.assumed,
        notes=(*([video.note] if video.note else []), *_about_crops(folder), *heard.notes),
    )


def _about_crops(folder: Path) -> list[str]:
    if not (folder / _CROPS).is_file():
        return []
    return [
        f"{_CROPS} is lossy: faces are cut from the full frames instead, 328 px of which the network sees [4:324], "
        "as it was trained"
    ]


def _compared(folder: Path, frames: FrameSource, boxes: list[Box]) -> list[str]:
    """Compare some crops with what the boxes cut; `ExportError` if they are of other boxes."""
    if not (folder / _CROPS).is_file():
        return []
    crops = open_frames(folder / _CROPS)
    if len(crops.origin) != len(boxes):
        raise ExportError(
            f"{folder / _CROPS} has {len(crops.origin)} frames and {_FRAMES} {len(boxes)}; as many of each are wanted"
        )
    numbers = samples(min(len(boxes), _COMPARED_FRAMES))
    chosen = set(numbers)
    found = []
    for number, (frame, crop) in enumerate(
        itertools.islice(zip(frames, crops, strict=False), numbers[-1] + 1)
    ):
        if number in chosen:
            found.append(likeness(frame, boxes[number], crop))
            if found[-1] < LEAST_LIKENESS:
                raise ExportError(
                    f"{folder / _CROPS}, frame {number} is not what {_BOXES} cuts from {_FRAMES} (likeness "
                    f"{found[-1]:.2f} of 1): the boxes are of another video; without {_CROPS} nothing is compared"
                )
    return [f"{_CROPS} shows what the boxes cut (likeness {min(found):.2f} or more in {len(found)} frames)"]
