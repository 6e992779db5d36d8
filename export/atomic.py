"""Folders that appear, and files that appear, whole or not at all.

A folder is built in a stage: a hidden folder inside the one that it is built for (a rename must not leave the file
system). As long as its process lives, the stage's lock is held. Once all is built, the list of what is to appear is
written into it: from then on it appears even across a kill, by this process or the next import. One that replaces
another changes places with it in a single rename, where the file system can: at no moment is there none.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from export.errors import ExportError

STAGE_PREFIX = ".staging-"
ROOT_LOCK = ".import.lock"
_STAGE_LOCK = "lock"
_READY = "ready.json"
_OLD_PREFIX = "old-"
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
"""From Linux's fcntl.h and fs.h."""


@contextmanager
def root_lock(root: Path) -> Iterator[None]:
    """Wait until nobody else renames anything in `root`; `root` is made if it is missing. Not reentrant."""
    root.mkdir(parents=True, exist_ok=True)
    with (root / ROOT_LOCK).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def staging(root: Path) -> Iterator[Path]:
    """A new hidden folder in `root` to build in; gone afterwards, with all that `publish` did not take out of it.

    Stages of processes that were killed are finished if they were ready, and removed if not.
    """
    with root_lock(root):
        settle_dead_stages(root)
        stage = Path(tempfile.mkdtemp(prefix=STAGE_PREFIX, dir=root))
        lock = (stage / _STAGE_LOCK).open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
    with lock:
        try:
            yield stage
        finally:
            with root_lock(root):
                _settle(root, stage)


def publish(root: Path, stage: Path, choose: Callable[[], Sequence[str]], *, many: bool = False) -> None:
    """Make folders of `stage` appear in `root`: those that `choose` names, called when nobody else renames.

    They take the place of those of the same names. If `choose` raises, nothing happens.

    All that is staged is brought to the disk before, file by file. Of `many` files that takes minutes: then the system
    is told to bring all there that is waiting, whoever wrote it.
    """
    if many:
        os.sync()
    else:
        _sync_tree(stage)
    with root_lock(root):
        waiting = {name: (stage / name).stat().st_ino for name in choose()}
        _mark_ready(stage, waiting)
        _put_up(root, stage, waiting)


def settle_dead_stages(root: Path) -> None:
    """Finish or remove the stages in `root` whose process is gone; the caller holds `root_lock`."""
    for stage in sorted(root.glob(f"{STAGE_PREFIX}*")):
        with (stage / _STAGE_LOCK).open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            _settle(root, stage)


def finish_ready_stages(root: Path) -> None:
    """Let folders appear that were ready when their process was killed."""
    if any(root.glob(f"{STAGE_PREFIX}*/{_READY}")):
        with root_lock(root):
            settle_dead_stages(root)


def _settle(root: Path, stage: Path) -> None:
    """Finish the renames of a stage that was ready, and remove it."""
    ready = stage / _READY
    if ready.exists():
        _put_up(root, stage, json.loads(ready.read_text(encoding="utf-8")))
    shutil.rmtree(stage, ignore_errors=True)


def _put_up(root: Path, stage: Path, waiting: Mapping[str, int]) -> None:
    """Let folders appear, named with their inodes: what has another one was exchanged before a kill."""
    for name, inode in waiting.items():
        if (stage / name).exists() and (stage / name).stat().st_ino == inode:
            _replace(stage / name, root / name)
    _sync_folder(root)


def _replace(new: Path, target: Path) -> None:
    """Move a folder to `target`; what was there is left in its stage."""
    if not target.exists():
        _move(new, target)
    elif not _exchange(new, target):
        # Of file systems that cannot exchange folders: for a moment there is none.
        _move(target, new.with_name(f"{_OLD_PREFIX}{new.name}"))
        _move(new, target)


def _exchange(one: Path, other: Path) -> bool:
    """Let two paths change places at once; False where the system or the file system cannot."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    return bool(rename(_AT_FDCWD, bytes(one), _AT_FDCWD, bytes(other), _RENAME_EXCHANGE) == 0)


def _move(source: Path, target: Path) -> None:
    source.rename(target)


def _mark_ready(stage: Path, waiting: Mapping[str, int]) -> None:
    """From here on a kill no longer undoes the import."""
    draft = stage / f"{_READY}.part"
    with draft.open("w", encoding="utf-8") as file:
        json.dump(dict(waiting), file)
        file.flush()
        os.fsync(file.fileno())
    _move(draft, stage / _READY)
    _sync_folder(stage)


def _sync_tree(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_dir():
            _sync_folder(path)
        else:
            with path.open("rb") as file:
                os.fsync(file.fileno())
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def replacing(out: Path) -> Iterator[Path]:
    """A path to write to, renamed to `out` when all went well and removed when not.

    An `ExportError` raised meanwhile speaks of `out`, where it spoke of that path.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=out.parent, prefix=f".{out.name}-", suffix=".onnx")
        os.close(descriptor)
    except OSError as error:
        raise ExportError(f"{out} cannot be written: {error.strerror}") from error
    draft = Path(name)
    try:
        yield draft
        # mkstemp lets nobody else read; a server run by another user has to.
        draft.chmod(0o644)
        draft.replace(out)
    except ExportError as error:
        raise ExportError(str(error).replace(str(draft), str(out))) from error
    except OSError as error:
        raise ExportError(f"{out} cannot be written: {error.strerror}") from error
    finally:
        draft.unlink(missing_ok=True)
