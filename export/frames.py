"""Template frames from where users have them: a folder of pictures, or a video."""

from __future__ import annotations

import itertools
import re
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from compositor_backend.contract import FRAME_RATE_HZ
from export.errors import ExportError

Pixels = NDArray[np.uint8]
"""uint8 [H, W, 3] RGB."""

PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})
VIDEO_SUFFIXES = frozenset({".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v"})
MAX_PIXELS = 8192 * 8192
"""A picture that claims more is a decompression bomb, not a frame; one of an 8K video has half as many."""

# Pillow knows formats that run other programs; these decode in process.
_FORMATS = ("PNG", "JPEG")
_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})
# What Pillow raises on files that are truncated, foreign or hostile; its UnidentifiedImageError is an OSError.
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, MemoryError)


class FrameSource(Protocol):
    """Template frames in order; each iteration starts anew, and one frame is in memory at a time."""

    @property
    def names(self) -> Sequence[str] | None:
        """Names of the frames without suffix, None where they have none."""

    @property
    def origin(self) -> Sequence[int]:
        """For each frame, which of the source's own frames it is; as many as there are frames."""

    @property
    def source_count(self) -> int:
        """How many frames the source itself has."""

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height of the frames."""

    @property
    def note(self) -> str | None:
        """A sentence that the user should know of, e.g. that the frame rate was changed."""

    def __iter__(self) -> Iterator[Pixels]:
        """Frames, uint8 [H, W, 3] RGB, all of one size; `ExportError` if one cannot be read."""


def open_frames(path: Path) -> FrameSource:
    """The frames in a folder of pictures or in a video; `ExportError` if it is neither."""
    if path.is_dir():
        return PictureFolder.at(path)
    if not path.exists():
        raise ExportError(f"{path} is not there; a folder of pictures or a video is wanted")
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        raise ExportError(f"{path} is no folder and no video ({', '.join(sorted(VIDEO_SUFFIXES))})")
    return Video.at(path)


@dataclass(frozen=True)
class PictureFolder:
    """The pictures of a folder, in the order of the numbers in their names."""

    paths: tuple[Path, ...]
    note: None = None

    @classmethod
    def at(cls, folder: Path) -> PictureFolder:
        """The pictures in `folder`; hidden files are passed over."""
        paths = [p for p in folder.iterdir() if p.suffix.lower() in PICTURE_SUFFIXES and p.name[0] != "."]
        if not paths:
            raise ExportError(f"{folder} holds no pictures ({', '.join(sorted(PICTURE_SUFFIXES))})")
        paths.sort(key=lambda path: natural_order(path.stem))
        for one, other in itertools.pairwise(paths):
            if one.stem == other.stem:
                raise ExportError(
                    f"{folder} holds both {one.name} and {other.name}; one picture a frame is wanted"
                )
        return cls(tuple(paths))

    @property
    def names(self) -> list[str]:
        """File names without suffix."""
        return [path.stem for path in self.paths]

    @property
    def origin(self) -> range:
        """Each picture is a frame."""
        return range(len(self.paths))

    @property
    def source_count(self) -> int:
        """The number of pictures."""
        return len(self.paths)

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height of the first picture; `ExportError` if it is unreadable."""
        height, width = read_picture(self.paths[0]).shape[:2]
        return width, height

    def check_headers(self) -> None:
        """`ExportError` if a picture's header says that it cannot be a frame beside the first; none is decoded."""
        wanted = stored_size(self.paths[0])
        for path in self.paths[1:]:
            self._check_header(path, wanted)

    def __iter__(self) -> Iterator[Pixels]:
        """Frames; `ExportError` names a picture that is unreadable or of another size."""
        wanted = stored_size(self.paths[0])
        first: Pixels | None = None
        for path in self.paths:
            # A picture may be small on disk and huge in memory: its header is asked first.
            self._check_header(path, wanted)
            frame = read_picture(path)
            first = frame if first is None else first
            if frame.shape != first.shape:
                raise ExportError(f"{path} is {_size(frame)}; {self.paths[0].name} is {_size(first)}")
            yield frame

    def _check_header(self, path: Path, wanted: tuple[int, int]) -> None:
        found = stored_size(path)
        # EXIF data may turn one picture and not the other; then their sides are exchanged.
        if sorted(found) != sorted(wanted):
            sizes = [f"{width}x{height} px" for width, height in (found, wanted)]
            raise ExportError(f"{path} is {sizes[0]}; {self.paths[0].name} is {sizes[1]}")


@dataclass(frozen=True)
class Video:
    """The frames of a video at 25 a second: of another rate, the nearest frame in time is taken.

    `rate_hz` is the video's own rate, `source_count` how many frames it has.
    """

    path: Path
    size_px: tuple[int, int]
    origin: tuple[int, ...]
    rate_hz: float
    source_count: int
    names: None = None

    @classmethod
    def at(cls, path: Path) -> Video:
        """The video at `path`, decoded once to know its times and that all its frames are of one size."""
        times: list[float] = []
        size: tuple[int, int] | None = None
        for number, frame in enumerate(_decode(path)):
            found = _upright_size(frame)
            size = size or found
            if found != size:
                raise ExportError(
                    f"{path}, frame {number} is {found[0]}x{found[1]} px; frame 0 is {size[0]}x{size[1]} px"
                )
            if found[0] * found[1] > MAX_PIXELS:
                raise ExportError(f"{path} is {found[0]}x{found[1]} px, too large for a frame")
            times.append(_time(frame, number))
        if size is None:
            raise ExportError(f"{path} has no frames")
        origin, rate_hz = _resample(times)
        return cls(path, size, origin, rate_hz, len(times))

    @property
    def note(self) -> str | None:
        """Says so if the rate was changed."""
        if self.origin == tuple(range(self.source_count)):
            return None
        return (
            f"{self.path.name} has {self.rate_hz:.2f} frames a second: of its {self.source_count} frames the nearest "
            f"in time were taken, {len(self.origin)} at {FRAME_RATE_HZ} a second"
        )

    def __iter__(self) -> Iterator[Pixels]:
        """Frames; `ExportError` if the video cannot be read."""
        uses = np.bincount(self.origin, minlength=self.source_count).tolist()
        for frame, count in zip(_decode(self.path), uses, strict=False):
            if count:
                pixels = _upright(frame)
                for _ in range(count):
                    yield pixels


def read_picture(path: Path) -> Pixels:
    """A picture as uint8 [H, W, 3] RGB: turned as its EXIF data say, transparency left out."""
    with _opened(path) as picture:
        return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))


def stored_size(path: Path) -> tuple[int, int]:
    """Width and height by a picture's header, before any turn; `ExportError` if it can be no frame."""
    with _opened(path) as picture:
        return picture.width, picture.height


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """A picture whose header fits a frame; `ExportError` if it does not, or what is done with it fails."""
    try:
        with warnings.catch_warnings():
            # Pillow warns at half the size at which it refuses; here MAX_PIXELS decides.
            warnings.simplefilter("ignore")
            with Image.open(path, formats=_FORMATS) as picture:
                _check_kind(path, picture)
                yield picture
    except Image.DecompressionBombError:
        raise ExportError(f"{path} claims more pixels than a frame can have") from None
    except _UNREADABLE as error:
        raise ExportError(f"{path} cannot be read as a picture: {error}") from error


def natural_order(name: str) -> list[tuple[int, str]]:
    """A sort key by which ``2`` comes before ``10`` and ``frame_9`` before ``frame_10``."""
    parts = re.split(r"([0-9]+)", name)
    return [(int(part), "") if number % 2 else (-1, part) for number, part in enumerate(parts)]


def _check_kind(path: Path, picture: Image.Image) -> None:
    if picture.width * picture.height > MAX_PIXELS:
        raise ExportError(f"{path} claims to be {picture.width}x{picture.height} px, too large for a frame")
    if picture.mode not in _MODES:
        raise ExportError(f"{path} has pixels of the kind {picture.mode}; 8 bits a channel are wanted")


def _decode(path: Path) -> Iterator[Any]:
    """The frames of a video as PyAV gives them; `ExportError` if it cannot be read."""
    import av

    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ExportError(f"{path} has no picture track")
            container.streams.video[0].thread_type = "AUTO"
            yield from container.decode(video=0)
    except av.FFmpegError as error:
        raise ExportError(f"{path} cannot be read as a video: {error.strerror}") from error


def _time(frame: Any, number: int) -> float:
    """Seconds; where a container has no times, its frames follow each other at 25 a second."""
    return float(frame.time) if frame.time is not None else float(Fraction(number, FRAME_RATE_HZ))


def _resample(times: list[float]) -> tuple[tuple[int, ...], float]:
    """For each 25th of a second the frame whose time is nearest, and the mean rate in Hz."""
    if len(times) == 1:
        return (0,), float(FRAME_RATE_HZ)
    seconds = np.maximum.accumulate(np.array(times) - times[0])
    # Clocks of containers are coarse (1 ms in Matroska): at 25 a second every frame is to be taken once.
    rate_hz = (len(times) - 1) / max(float(seconds[-1]), 1e-3)
    ticks = np.arange(max(1, round(len(times) * FRAME_RATE_HZ / rate_hz))) / FRAME_RATE_HZ
    middles = (seconds[1:] + seconds[:-1]) / 2
    return tuple(np.searchsorted(middles, ticks - 1e-6).tolist()), rate_hz


def _upright(frame: Any) -> Pixels:
    """Pixels turned as the video's display matrix says: telephones hold their pictures sideways."""
    pixels: Pixels = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(pixels, _quarter_turns(frame)))


def _upright_size(frame: Any) -> tuple[int, int]:
    """Width and height after that turn."""
    return (frame.height, frame.width) if _quarter_turns(frame) % 2 else (frame.width, frame.height)


def _quarter_turns(frame: Any) -> int:
    """Counterclockwise."""
    degrees: float = frame.rotation
    return round(degrees / 90)


def _size(frame: Pixels) -> str:
    return f"{frame.shape[1]}x{frame.shape[0]} px"
