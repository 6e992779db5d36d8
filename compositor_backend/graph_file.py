"""An ONNX graph in an avatar's folder, as its manifest describes it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class GraphFile:
    """A graph on disk: its size and SHA-256 (hex), and the bytes of activations that one row of a batch takes."""

    path: Path
    sha256: str
    nbytes: int
    row_bytes: int
