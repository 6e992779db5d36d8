"""Whether a model's files are those that were imported: what was written since is compared with its checksum.

``SHA256SUMS`` lies in the model's folder and is the last file that an import writes, in the form of ``sha256sum``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from server.errors import ModelLoadError

SUMS_FILE = "SHA256SUMS"
_LINE = re.compile(r"(?P<sha256>[0-9a-f]{64}) [ *](?P<name>.+)")
_BLOCK_BYTES = 1 << 20


def check_written_since(name: str, version_folder: Path) -> None:
    """Compare files of a model's version that are newer than ``SHA256SUMS`` with it.

    `ModelLoadError` names the one that differs. Files that it does not list are not looked at, and without it none is.
    """
    folder = version_folder.parent
    sums = folder / SUMS_FILE
    if not sums.exists():
        return
    try:
        recorded_ns = sums.stat().st_mtime_ns
        listed = dict(_lines(sums.read_text("utf-8")))
        for path in sorted(version_folder.rglob("*")):
            wanted = listed.get(path.relative_to(folder).as_posix())
            if wanted is not None and path.stat().st_mtime_ns > recorded_ns and _sha256(path) != wanted:
                raise ModelLoadError(f"{name}: {path} is damaged: its SHA-256 is not that in {SUMS_FILE}")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelLoadError(f"{name}: what {sums} lists cannot be compared with it: {error}") from error


def _lines(text: str) -> Iterator[tuple[str, str]]:
    """File names and their checksums."""
    for line in text.splitlines():
        if found := _LINE.fullmatch(line):
            yield found["name"], found["sha256"]


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
