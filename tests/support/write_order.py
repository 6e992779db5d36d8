"""Files of a model repository that were written after their checksums: they are read whole when they are opened."""

from __future__ import annotations

from pathlib import Path


def newer_than_their_checksums(avatars: Path) -> list[str]:
    """Files of packs that are newer than ``avatar.json``, and networks newer than ``SHA256SUMS``."""
    pairs = [(path.parent / "avatar.json", path) for path in avatars.glob("*/*.npy")]
    pairs += [(path.parents[1] / "SHA256SUMS", path) for path in avatars.glob("*/1/model.onnx")]
    assert pairs, f"there is no avatar in {avatars}"
    return [
        str(path.relative_to(avatars))
        for sums, path in pairs
        if path.stat().st_mtime_ns > sums.stat().st_mtime_ns
    ]
