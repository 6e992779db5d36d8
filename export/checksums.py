"""The checksums of a network's files, kept beside them so that ``sha256sum -c SHA256SUMS`` reads them too.

A pack's manifest has the checksums of the pack. A network's folder has no manifest: Triton reads its graph, and a
flipped bit in a weight would only show in the pictures.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from compositor_backend.pack import file_sha256
from export.errors import ExportError
from export.onnx_guard import CLONE_FILE

SUMS_FILE = "SHA256SUMS"
_MODEL_FILE = Path("1") / "model.onnx"
_FILES = (_MODEL_FILE, Path("1") / CLONE_FILE)
_LINE = re.compile(r"([0-9a-f]{64})  ([0-9a-zA-Z._/-]{1,200})")
_MOST_BYTES = 1 << 16


def record_sums(folder: Path) -> None:
    """Write the checksum of the graph in a model's folder beside it."""
    write_sums(folder, {_MODEL_FILE: file_sha256(folder / _MODEL_FILE)})


def write_sums(folder: Path, digests: Mapping[Path, str]) -> None:
    """Write checksums (SHA-256, hex) of files in a model's folder, by their paths in it."""
    lines = [f"{digest}  {path.as_posix()}\n" for path, digest in digests.items()]
    (folder / SUMS_FILE).write_text("".join(lines), encoding="utf-8")


def compare_sums(folder: Path) -> bool:
    """Whether the graph in a model's folder has a checksum to compare with; `ExportError` if it is not its own.

    So is what sets a clone apart, where there is a checksum of it.
    """
    sums = folder / SUMS_FILE
    try:
        with sums.open("rb") as file:
            text = file.read(_MOST_BYTES).decode("ascii")
    except FileNotFoundError:
        return False
    except (OSError, UnicodeDecodeError) as error:
        raise ExportError(f"{sums} cannot be read: {error}") from error
    found = [_LINE.fullmatch(line) for line in text.splitlines()]
    recorded = {match[2]: match[1] for match in found if match}
    if None in found or _MODEL_FILE.as_posix() not in recorded:
        raise ExportError(f"{sums} is damaged; lines of a SHA-256 and a file's name are wanted")
    for name in _FILES:
        digest = recorded.get(name.as_posix())
        if digest is not None and file_sha256(folder / name) != digest:
            raise ExportError(f"{folder / name} is damaged: its SHA-256 is not that in {SUMS_FILE}")
    return True
