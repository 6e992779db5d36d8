"""Template frames from where users have them: a folder of pictures, or a video."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from compositor_backend.contract import FRAME_RATE_HZ
from export.errors import ExportError

PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp"})
VIDEO_SUFFIXES = frozenset({".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v"})
MAX_PIXELS = 16384 * 16384
"""A picture that claims more is a decompression bomb, not a frame."""


class FrameSource(Protocol):
    """Template frames in order; each iteration starts anew, and one frame is in memory at a time."""

    @property
    def names(self) -> list[str] | None:
        """Names of the frames without suffix, None where they have none."""

    @property
    def count(self) -> int | None:
        """How many frames there are, None where only reading them tells."""

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """Frames, uint8 [H, W, 3] RGB."""


def open_frames(path: Path) -> FrameSource:
    """The frames in a folder of pictures or in a video; `ExportError` if it is neither."""
    if path.is_dir():
        return PictureFolder.at(path)
    if not path.exists():
        raise ExportError(f"{path} is not there; a folder of pictures or a video is wanted")
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        raise ExportError(f"{path} is no folder and no video ({', '.join(sorted(VIDEO_SUFFIXES))})")
    return Video(path)


@dataclass(frozen=True)
class PictureFolder:
    """The pictures of a folder, in the order of the numbers in their names."""

    paths: tuple[Path, ...]

    @classmethod
    def at(cls, folder: Path) -> PictureFolder:
        """The pictures in `folder`."""
        paths = [p for p in folder.iterdir() if p.suffix.lower() in PICTURE_SUFFIXES]
        if not paths:
            raise ExportError(f"{folder} holds no pictures ({', '.join(sorted(PICTURE_SUFFIXES))})")
        return cls(tuple(sorted(paths, key=natural_order)))

    @property
    def names(self) -> list[str]:
        """File names without suffix."""
        return [path.stem for path in self.paths]

    @property
    def count(self) -> int:
        """Number of pictures."""
        return len(self.paths)

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """Frames, uint8 [H, W, 3] RGB; `ExportError` names a picture that is unreadable or of another size."""
        first: NDArray[np.uint8] | None = None
        for path in self.paths:
            frame = read_picture(path)
            first = frame if first is None else first
            if frame.shape != first.shape:
                raise ExportError(f"{path} is {_size(frame)}; {self.paths[0].name} is {_size(first)}")
            yield frame


@dataclass(frozen=True)
class Video:
    """The frames of a video at 25 a second: of another rate, the nearest frame in time is taken."""

    path: Path
    names: None = None
    count: None = None

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """Frames, uint8 [H, W, 3] RGB; `ExportError` if the video cannot be read."""
        import av

        try:
            with av.open(str(self.path)) as container:
                if not container.streams.video:
                    raise ExportError(f"{self.path} has no picture track")
                yield from _at_frame_rate(container.decode(video=0))
        except av.FFmpegError as error:
            raise ExportError(f"{self.path} cannot be read as a video: {error.strerror}") from error


def read_picture(path: Path) -> NDArray[np.uint8]:
    """A picture as uint8 [H, W, 3] RGB, transparency left out."""
    try:
        with warnings.catch_warnings():
            # Pillow warns at half the size at which it refuses; here MAX_PIXELS decides.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as picture:
                if picture.width * picture.height > MAX_PIXELS:
                    raise ExportError(
                        f"{path} claims to be {picture.width}x{picture.height} px, too large for a frame"
                    )
                return np.asarray(picture.convert("RGB"))
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise ExportError(f"{path} cannot be read as a picture: {error}") from error


def natural_order(path: Path) -> list[tuple[int, str]]:
    """A sort key by which 2.jpg comes before 10.jpg."""
    parts = re.split(r"(\d+)", path.stem)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def _at_frame_rate(frames: Iterator[Any]) -> Iterator[NDArray[np.uint8]]:
    """At each 25th of a second the frame whose time is nearest."""
    previous: Any = None
    start, emitted = 0.0, 0
    for frame in frames:
        if previous is None:
            start = frame.time or 0.0
        else:
            # All ticks before the middle between the two belong to the earlier frame.
            middle = ((previous.time or 0.0) + (frame.time or 0.0)) / 2 - start
            while emitted / FRAME_RATE_HZ < middle:
                yield previous.to_ndarray(format="rgb24")
                emitted += 1
        previous = frame
    if previous is not None:
        last = (previous.time or 0.0) - start
        while emitted == 0 or emitted / FRAME_RATE_HZ <= last + 1e-6:
            yield previous.to_ndarray(format="rgb24")
            emitted += 1


def _size(frame: NDArray[np.uint8]) -> str:
    return f"{frame.shape[1]}x{frame.shape[0]} px"
