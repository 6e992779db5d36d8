"""Builds the demo's avatar: the presenter's frames, drawn, and the committed networks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.avatar import AvatarSettings, NetworkSource, Progress, build_avatar
from export.demo import presenter

DEMO_ID = "demo"
WEIGHTS = Path(__file__).parent / "weights"
UNET_FILE = "unet.onnx"
ENCODER_FILE = "audio_encoder.onnx"
_STAMP = "demo.sha256"
# What the avatar is made from: if none of it changed, the avatar need not be built again.
_ROOM = Path(__file__).parent.parent
_SOURCES = ("*.py", "demo/presenter*.py", "demo/mouth.py", "demo/avatar.py", "../compositor_backend/*.py")


@dataclass(frozen=True)
class PresenterFrames:
    """The presenter's template frames, mouth at rest, drawn one by one."""

    names: None = None
    count: int = presenter.N_FRAMES

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """Frames, uint8 [720, 1280, 3] RGB."""
        return (presenter.render_frame(index) for index in range(self.count))


def build_demo_avatar(avatars: Path, replace: bool = False, progress: Progress | None = None) -> bool:
    """Build the avatar ``demo`` in `avatars`; False if it is there already, of the same code and weights."""
    stamp = avatars / f"avatar_{DEMO_ID}" / _STAMP
    made_from = _source_hash()
    if not replace and stamp.is_file() and stamp.read_text(encoding="ascii") == made_from:
        return False
    settings = AvatarSettings(
        avatar_id=DEMO_ID,
        avatars=avatars,
        network=NetworkSource(WEIGHTS / UNET_FILE),
        encoder=WEIGHTS / ENCODER_FILE,
        encoder_name=DEMO_ID,
        blend="feather",
        replace=True,
    )
    boxes = [presenter.face_box(index) for index in range(presenter.N_FRAMES)]
    folder = build_avatar(settings, PresenterFrames(), boxes, progress)
    (folder / _STAMP).write_text(made_from, encoding="ascii")
    return True


def _source_hash() -> str:
    digest = hashlib.sha256()
    files = [WEIGHTS / UNET_FILE, WEIGHTS / ENCODER_FILE]
    for pattern in _SOURCES:
        files += sorted(_ROOM.glob(pattern))
    for file in files:
        digest.update(hashlib.sha256(file.read_bytes()).digest() if file.is_file() else b"")
    return digest.hexdigest()
