"""A small catalogue, and how long a fault may be felt."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.clones import Colour, small_catalogue, source_colour

PATIENCE = float(os.environ.get("LIPSTREAM_PATIENCE", "4"))
"""How many times longer than promised things may take: 1 in `make faults`, where nothing else runs on the machine."""
FAILS_WITHIN_S = 5 * PATIENCE
BACK_WITHIN_S = 15 * PATIENCE


@dataclass(frozen=True)
class Catalogue:
    """Avatars to serve: their model repository, their ids, and the colour of the face that they were made from."""

    avatars: Path
    ids: tuple[str, ...]
    source: Colour


def make_catalogue(folder: Path, count: int) -> Catalogue:
    """`count` avatars in a new model repository."""
    avatars = folder / "avatars"
    ids = small_catalogue(avatars, count)
    return Catalogue(avatars, tuple(ids), source_colour(avatars))


@pytest.fixture(scope="session")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    """Four avatars; not to be written to."""
    return make_catalogue(tmp_path_factory.mktemp("faults"), 4)
