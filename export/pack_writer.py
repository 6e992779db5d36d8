"""Writes an avatar pack (`avatar.json` and its ``.npy`` files) from frames, one frame at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from compositor_backend.manifest import Manifest

Box = tuple[int, int, int, int]
"""x1, y1, x2, y2 of a face box in px; x2 and y2 are the first column and row outside."""


@dataclass(frozen=True)
class PackSettings:
    """Everything in the manifest that does not follow from the frames.

    `interval_wanted` is the wanted restart interval in MCUs; the divisor of a row's MCUs nearest to it is taken.
    """

    avatar_id: str
    family: str
    audio_mode: str
    audio_shape: tuple[int, ...]
    encoder: str | None
    network: str
    network_key: int
    quality: int = 75
    subsampling: str = "420"
    blend: str = "hard"
    interval_wanted: int = 4


class PackWriter:
    """Writes a pack into `folder` (made if missing) frame by frame; memory use does not grow with their number.

    Use as a context manager; the pack is whole only after `finish`. Left by an exception, the files it wrote are removed.
    """

    def __init__(self, folder: Path, settings: PackSettings) -> None:
        raise NotImplementedError

    def add(self, frame: NDArray[np.uint8], box: Box) -> None:
        """Append a frame (uint8 [H,W,3] RGB) and its face box.

        `PackError` if the frame's size differs from the first one's, the box is empty or not inside the frame, or the
        disk is full.
        """
        raise NotImplementedError

    def finish(self) -> Manifest:
        """Complete the files, write the manifest and return it; `PackError` if there was no frame or the disk is full."""
        raise NotImplementedError

    def __enter__(self) -> PackWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        raise NotImplementedError


def write_pack(
    folder: Path,
    settings: PackSettings,
    frames: Iterable[tuple[NDArray[np.uint8], Box]],
    progress: Callable[[int], None] | None = None,
) -> Manifest:
    """Write a whole pack into `folder`; `progress` is called with the number of frames written so far."""
    raise NotImplementedError
