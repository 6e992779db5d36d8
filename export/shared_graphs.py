"""Graphs that several avatars have in common: one file, with a hard link in each of their folders.

Which avatar has what is read from the manifests; nothing else is kept of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from compositor_backend.contract import AVATAR_ID_PATTERN
from compositor_backend.errors import PackError
from compositor_backend.manifest import ENCODER, MANIFEST_NAME, NETWORK, GraphEntry, Manifest
from compositor_backend.pack import file_sha256
from export.errors import ExportError
from export.served_graph import checkpoint_of
from export.shared_files import SharedFile

_Found = tuple[Path, GraphEntry]


class SharedGraphs:
    """The graphs of all avatars in a folder; the manifests are read when the first graph is looked for, and once.

    (11,000 of them take 2 s.) A graph is given only if its content is what its manifest says.
    """

    def __init__(self, avatars: Path) -> None:
        self._avatars = avatars

    def link_equal(self, path: Path) -> None:
        """Make the file at `path` one with an equal graph of any avatar, where there is one and links can be made."""
        sha256 = file_sha256(path)
        equal = (found for found in self._graphs() if found[1].sha256 == sha256)
        any(_take(found, path, os.link) for found in equal)

    def take_network(self, key: int, family: str | None, audio: str | None, out: Path) -> bool:
        """Make a network's graph that gives that AVATAR_KEY appear at `out`: it is of the same checkpoint.

        Weights of some modes are alike, so it has to be of that family and audio mode too, where they are said.
        """
        same = (
            (folder / f"{NETWORK}.onnx", manifest.graphs[NETWORK])
            for folder, manifest in self._manifests
            if manifest.network_key == key
            and family in (None, manifest.family)
            and audio in (None, manifest.audio_mode)
        )
        return any(_take(found, out, _share) for found in same)

    def take_encoder(self, checkpoint_sha256: str, out: Path) -> bool:
        """Make an encoder's graph appear at `out` that was exported from the checkpoint of that SHA-256 (hex)."""
        encoders = {entry.sha256: (path, entry) for path, entry in self._graphs(ENCODER)}
        made_from_it = (found for found in encoders.values() if _checkpoint_of(found[0]) == checkpoint_sha256)
        return any(_take(found, out, _share) for found in made_from_it)

    def _graphs(self, only: str | None = None) -> Iterator[_Found]:
        for folder, manifest in self._manifests:
            for name, entry in manifest.graphs.items():
                if only in (None, name):
                    yield folder / f"{name}.onnx", entry

    @cached_property
    def _manifests(self) -> list[tuple[Path, Manifest]]:
        """Those that can be read."""
        found = []
        for path in sorted(self._avatars.glob(f"*/{MANIFEST_NAME}")):
            if AVATAR_ID_PATTERN.fullmatch(path.parent.name):
                with suppress(PackError):
                    found.append((path.parent, Manifest.load(path.parent)))
        return found


def _take(found: _Found, out: Path, put: Callable[[Path, Path], None]) -> bool:
    """Put a graph at `out`, in place of what is there, if it is whole; its avatar may be exchanged meanwhile."""
    source, entry = found
    draft = out.with_name(f".{out.name}.shared")
    try:
        put(source, draft)
        if draft.stat().st_size != entry.bytes or file_sha256(draft) != entry.sha256:
            return False
        draft.replace(out)
        return True
    except (OSError, PackError):  # another file system, too many links, or gone: what is there stays
        return False
    finally:
        draft.unlink(missing_ok=True)


def _share(source: Path, target: Path) -> None:
    SharedFile(source).put(target)


def _checkpoint_of(path: Path) -> str | None:
    try:
        return checkpoint_of(path)
    except ExportError:
        return None
