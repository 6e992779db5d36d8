"""Ultralight and FeatherTalk: a training data set with a network of the 160 family, under older or newer key names."""

from __future__ import annotations

from pathlib import Path

from export.importers import dataset
from export.importers.base import Evidence, Source, Wanted

NAME = "ultralight"
LABEL = "an Ultralight or FeatherTalk data set"
LAYOUT = dataset.LAYOUT.format("160")


def detect(folder: Path, wanted: Wanted) -> Evidence | None:
    """See `Importer`."""
    return dataset.detect(folder, wanted, "160")


def read(folder: Path, wanted: Wanted) -> Source:
    """See `Importer`."""
    return dataset.read(folder, wanted)
