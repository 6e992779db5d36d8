from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.user_folders import MAKERS, Fresh, UserFolder


@pytest.fixture(scope="session")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, UserFolder]:
    """Folders made so far, by maker; not to be changed."""
    return {}


@pytest.fixture
def fresh(
    originals: dict[str, UserFolder], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Fresh:
    """A folder of a format that the test may change."""

    def make(maker: str) -> UserFolder:
        if maker not in originals:
            originals[maker] = MAKERS[maker](tmp_path_factory.mktemp("folders") / maker)
        original, root = originals[maker], tmp_path_factory.getbasetemp()
        made = next(
            folder for folder in (original.path, *original.path.parents) if folder.parent.parent == root
        )
        shutil.copytree(made, tmp_path / maker)
        return replace(original, path=tmp_path / maker / original.path.relative_to(made))

    return make
