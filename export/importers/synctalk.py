"""SyncTalk_2D: a training data set with a network of the 328 family."""

from __future__ import annotations

from pathlib import Path

from export.importers import dataset
from export.importers.base import Evidence, Source, Wanted

NAME = "synctalk-2d"
LABEL = "a SyncTalk_2D data set"
LAYOUT = dataset.LAYOUT.format("328")


def detect(folder: Path, wanted: Wanted) -> Evidence | None:
    """See `Importer`."""
    return dataset.detect(folder, wanted, "328")


def read(folder: Path, wanted: Wanted) -> Source:
    """See `Importer`."""
    return dataset.read(folder, wanted)
