"""Graphs that several avatars have in common: one file, with a hard link in each of their folders.

Which avatar has what is read from the manifests; nothing else is kept of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from compositor_backend.contract import AVATAR_ID_PATTERN
from compositor_backend.errors import PackError
from compositor_backend.manifest import ENCODER, MANIFEST_NAME, NETWORK, GraphEntry, Manifest
from compositor_backend.pack import file_sha256
from export.errors import ExportError
from export.served_graph import checkpoint_of


def share_equal(avatars: Path, path: Path) -> None:
    """Make the file at `path` one with an equal graph of any avatar, where there is one and links can be made."""
    if not path.exists():
        return
    sha256 = file_sha256(path)
    for folder, manifest in _manifests(avatars):
        for name, entry in manifest.graphs.items():
            if entry.sha256 == sha256 and _link(folder / f"{name}.onnx", path, entry):
                return


def find_network(avatars: Path, key: int) -> Path | None:
    """A network's graph that gives that AVATAR_KEY: it was exported from the same checkpoint."""
    for folder, manifest in _manifests(avatars):
        path, entry = folder / f"{NETWORK}.onnx", manifest.graphs[NETWORK]
        if manifest.network_key == key and _is_whole(path, entry):
            return path
    return None


def find_encoder(avatars: Path, checkpoint_sha256: str) -> Path | None:
    """An audio encoder's graph that was exported from the checkpoint of that SHA-256 (hex)."""
    seen = set()
    for folder, manifest in _manifests(avatars):
        entry = manifest.graphs.get(ENCODER)
        if entry is None or entry.sha256 in seen:
            continue
        seen.add(entry.sha256)
        path = folder / f"{ENCODER}.onnx"
        if _is_whole(path, entry) and _was_made_from(path, checkpoint_sha256):
            return path
    return None


def _manifests(avatars: Path) -> Iterator[tuple[Path, Manifest]]:
    """Those that can be read, of all avatars."""
    for path in sorted(avatars.glob(f"*/{MANIFEST_NAME}")):
        if AVATAR_ID_PATTERN.fullmatch(path.parent.name):
            with suppress(PackError):
                yield path.parent, Manifest.load(path.parent)


def _is_whole(path: Path, entry: GraphEntry) -> bool:
    try:
        return path.stat().st_size == entry.bytes and file_sha256(path) == entry.sha256
    except (OSError, PackError):
        return False


def _was_made_from(path: Path, checkpoint_sha256: str) -> bool:
    try:
        return checkpoint_of(path) == checkpoint_sha256
    except ExportError:
        return False


def _link(source: Path, target: Path, entry: GraphEntry) -> bool:
    """Put a link to `source` in place of `target`, if its content is what its manifest says."""
    if not _is_whole(source, entry):
        return False
    draft = target.with_name(f".{target.name}.link")
    try:
        os.link(source, draft)
    except OSError:  # another file system, or too many links: the copy stays
        return False
    draft.replace(target)
    return True
