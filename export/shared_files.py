"""Copies of a file that take no room of their own, where the file system can do that."""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import suppress
from pathlib import Path

_FICLONE = 0x40049409
"""From linux/fs.h; Python names it from 3.12 on."""


class SharedFile:
    """A file that is to lie in many places: by reflinks (btrfs, XFS), by hard links, or, if neither works, copied.

    Nobody may write to any of them in place; each can be removed without harm to the others.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def put(self, target: Path) -> None:
        """Make the file appear at `target`, where there is none."""
        for share in (_reflink, os.link):
            with suppress(OSError):
                share(self._path, target)
                return
        shutil.copyfile(self._path, target)
        # This one can be linked to where the first could not: on its file system, and with no links to it yet.
        self._path = target


def _reflink(source: Path, target: Path) -> None:
    try:
        with source.open("rb") as old, target.open("xb") as new:
            fcntl.ioctl(new, _FICLONE, old.fileno())
    except OSError:
        target.unlink(missing_ok=True)
        raise
