"""What both layouts of the Go lip-sync servers share: boxes in one file, the graph in another."""

from __future__ import annotations

from pathlib import Path

from export.boxes import read_boxes
from export.errors import ExportError
from export.importers.base import Evidence, Wanted
from export.importers.weights import Weights, find_weights

NETWORK = Path("checkpoint") / "model_best.onnx"


def evidence(folder: Path, boxes: Path, wanted: Wanted, found: str) -> Evidence:
    """Of a folder in which frames and `boxes` were `found`: whether the rest can be read."""
    try:
        read_boxes(folder / boxes)
    except ExportError as error:
        return Evidence("", str(error))
    if wanted.checkpoint is None and not (folder / NETWORK).is_file():
        return Evidence("", f"{folder / NETWORK} is not there: say which network with --checkpoint")
    return Evidence(found)


def network(folder: Path, wanted: Wanted) -> Weights:
    """The weights of the graph, or of what was said in its place; `ExportError` if there are none."""
    weights = find_weights([folder / NETWORK.parent], wanted, NETWORK.name)
    if weights is None:
        raise ExportError(f"{folder / NETWORK} is not there; say which network with --checkpoint")
    return weights
