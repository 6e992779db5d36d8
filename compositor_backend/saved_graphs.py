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
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


class SavedGraphs:
    """The saved graphs of one runtime in a cache folder, which several processes may share."""

    def __init__(self, folder: Path, runtime: str, limit_bytes: int) -> None:
        self._root = folder / "graphs"
        self._folder = self._root / hashlib.sha256(runtime.encode()).hexdigest()[:16]
        self._limit_bytes = limit_bytes

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
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            path.replace(folder / f"{digest}.onnx")
        self._trim()

    def _trim(self) -> None:
        """Another process may take the same files away at the same time."""
        found = []
        for path in self._root.glob("*/*/*.onnx"):
            with suppress(OSError):
                status = path.stat()
                found.append((status.st_mtime_ns, status.st_size, path))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found)[:-1]:
            if total <= self._limit_bytes:
                return
            shutil.rmtree(path.parent, ignore_errors=True)
            total -= size
