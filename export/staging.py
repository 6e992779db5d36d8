"""Folders that appear whole or not at all: built under a hidden name, then renamed."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from export.errors import ExportError

_PREFIX = ".staging-"
_LOCK = ".import.lock"


@contextmanager
def staging(root: Path) -> Iterator[Path]:
    """A new hidden folder in `root` to build in, removed afterwards with all that was not moved out of it.

    One import writes to `root` at a time, a second is refused; so a hidden folder that is already there was
    left by an import that was killed, and is removed.
    """
    root.mkdir(parents=True, exist_ok=True)
    with (root / _LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ExportError(f"another import is writing to {root}; try again when it is done") from None
        for abandoned in root.glob(f"{_PREFIX}*"):
            shutil.rmtree(abandoned, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=root))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def publish(staged: Path, target: Path) -> None:
    """Move a finished folder to its place; one that stood there is removed with the staging folder."""
    # mkdtemp and the system's umask leave folders that a server run by another user could not read.
    staged.chmod(0o755)
    if target.exists():
        # A folder cannot be renamed over a full one: the old one steps aside.
        target.rename(staged.parent / f"{staged.name}.old")
    staged.rename(target)
