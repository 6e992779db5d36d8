"""Optimised graphs on disk: what onnxruntime makes of a graph once, kept for the next time it is opened.

    <cache folder>/graphs/<runtime>/<SHA-256 of the graph>/<SHA-256 of the file>.onnx

`runtime` tells what a saved graph is bound to: onnxruntime's version, the processor, and the session's options. A file
that is not what its name says counts as absent. Saved graphs are taken away, the least recently used first, where all
of them are larger than a limit; they are made again when wanted.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

_TRIMS = 64
"""Looking at thousands of saved graphs takes a while: a process does so once for each such part of the limit."""


class SavedGraphs:
    """The saved graphs of one runtime in a cache folder, which several processes may share."""

    def __init__(self, folder: Path, runtime: str, limit_bytes: int) -> None:
        self._root = folder / "graphs"
        self._folder = self._root / hashlib.sha256(runtime.encode()).hexdigest()[:16]
        self._limit_bytes = limit_bytes
        self._untrimmed_bytes = limit_bytes  # what earlier processes left is not known: the first save looks

    def find(self, sha256: str) -> bytes | None:
        """The saved graph of the graph with that SHA-256 (hex), None if there is none that is whole."""
        try:
            paths = sorted((self._folder / sha256).glob("*.onnx"))
            for path in paths:
                data = path.read_bytes()
                if hashlib.sha256(data).hexdigest() == path.stem:
                    os.utime(path)
                    return data
        except OSError:
            return None
        return None

    def save(self, sha256: str, write: Callable[[Path], None]) -> None:
        """Keep what `write` writes to the path that it is given; `OSError` if that cannot be kept."""
        folder = self._folder / sha256
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".saving-", dir=self._folder) as draft:
            path = Path(draft) / "graph.onnx"
            write(path)
            data = path.read_bytes()
            path.replace(folder / f"{hashlib.sha256(data).hexdigest()}.onnx")
        self._untrimmed_bytes += len(data)
        if self._untrimmed_bytes >= self._limit_bytes // _TRIMS:
            self._untrimmed_bytes = 0
            self._trim()

    def _trim(self) -> None:
        found = list(self._found())
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found)[:-1]:
            if total <= self._limit_bytes:
                return
            shutil.rmtree(path.parent, ignore_errors=True)
            total -= size

    def _found(self) -> Iterator[tuple[int, int, Path]]:
        """Time of the last use, size and path of each; others may take them away at the same time."""
        for runtime in _folders(self._root):
            for graph in _folders(runtime):
                with suppress(OSError):
                    for entry in os.scandir(graph):
                        status = entry.stat()
                        yield status.st_mtime_ns, status.st_size, Path(entry.path)


def _folders(folder: Path) -> list[Path]:
    """The folders in a folder; hidden ones are left out, since somebody is just writing them."""
    try:
        return [Path(entry.path) for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] != "."]
    except OSError:
        return []
