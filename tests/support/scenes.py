"""Textured frames, mouths and avatar packs for tests."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compositor_backend.manifest import GraphEntry
from compositor_backend.pack import AvatarPack
from export.pack_writer import PackSettings, write_pack

Pixels = NDArray[np.uint8]
Box = tuple[int, int, int, int]
KEY = -1234567890123456789


def textured(width: int, height: int, seed: int) -> Pixels:
    """uint8 [H,W,3]: gradients of three slopes under noise, all of it different for each seed."""
    rng = np.random.default_rng(seed)
    down, across = np.mgrid[:height, :width].astype(np.float32)
    base = np.stack([across * 0.3 + 40 * seed, down * 0.4, (across + down) * 0.25 + 90], axis=-1) % 256
    noise = rng.integers(-40, 41, (height, width, 3), dtype=np.int16)
    pixels: Pixels = np.clip(base + noise, 0, 255).astype(np.uint8)
    return pixels


def mouths(count: int, size_px: int, seed: int = 0) -> Pixels:
    """uint8 [count,S,S,3]: random, so that no pixel is right by chance."""
    return np.random.default_rng(seed).integers(0, 256, (count, size_px, size_px, 3), dtype=np.uint8)


def keys(count: int, key: int = KEY) -> NDArray[np.int64]:
    return np.full((count, 1), key, np.int64)


def settings(avatar_id: str = "ann", **changes: Any) -> PackSettings:
    values: dict[str, Any] = {
        "avatar_id": avatar_id,
        "family": "328",
        "audio_mode": "ave",
        "audio_shape": (32, 16, 16),
        "network_key": KEY,
        "graphs": {"network": GraphEntry(1, "0" * 64, 1000), "encoder": GraphEntry(1, "1" * 64, 1000)},
    }
    return PackSettings(**(values | changes))


def write_avatar(
    avatars: Path, frames: Sequence[Pixels], boxes: Sequence[Box], avatar_id: str = "ann", **changes: Any
) -> Path:
    """The folder of a new pack."""
    folder = avatars / avatar_id
    write_pack(folder, settings(avatar_id, **changes), zip(frames, boxes, strict=True))
    return folder


def age(folder: Path, by_s: int = 60) -> Path:
    """Make the files in a folder older, as if it had been made a while ago; the folder.

    Times of files tick in milliseconds only: a file changed right after it was made may bear the same time.
    """
    for path in folder.iterdir():
        status = path.stat()
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns - by_s * 10**9))
    return folder


def open_avatar(
    avatars: Path, frames: Sequence[Pixels], boxes: Sequence[Box], avatar_id: str = "ann", **changes: Any
) -> AvatarPack:
    return AvatarPack(write_avatar(avatars, frames, boxes, avatar_id, **changes))
