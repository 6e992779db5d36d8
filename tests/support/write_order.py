"""Files of avatars that were written after their checksums: they are read whole when they are opened."""

from __future__ import annotations

from pathlib import Path


def newer_than_their_checksums(avatars: Path) -> list[str]:
    """Files of packs that are newer than ``avatar.json``."""
    files = list(avatars.glob("*/*.npy"))
    assert files, f"there is no avatar in {avatars}"
    return [
        str(path.relative_to(avatars))
        for path in files
        if path.stat().st_mtime_ns > (path.parent / "avatar.json").stat().st_mtime_ns
    ]
