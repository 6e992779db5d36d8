"""Files that lie in many places and take room once: hard links, which share their pages in memory too."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


class SharedFile:
    """A file that is to lie in many places: by hard links, or copied where there can be none.

    Nobody may write to any of them in place; each can be removed without harm to the others.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def put(self, target: Path) -> None:
        """Make the file appear at `target`, where there is none."""
        try:
            os.link(self._path, target)
        except OSError:
            shutil.copyfile(self._path, target)
            # This one can be linked to where the first could not: on its file system, with no links to it yet.
            self._path = target
