"""Reads text that comes from users, of which nobody knows how long it is."""

from __future__ import annotations

from pathlib import Path

from export.errors import ExportError


def read_text(path: Path, most_bytes: int, encoding: str = "utf-8") -> str:
    """The text of a file; `OSError` or `UnicodeDecodeError` if it cannot be read, `ExportError` if it is longer.

    Of a longer file no more than `most_bytes` are read.
    """
    with path.open("rb") as file:
        data = file.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise ExportError(f"{path} is longer than {most_bytes} bytes, which is more than it can have to say")
    return data.decode(encoding)
