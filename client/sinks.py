"""Where frames go: a folder of JPEG files, an MP4 with sound, or nowhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from client._mp4 import Mp4Writer
from client._requests import Frame
from client.audio import Recording
from client.errors import SinkError

_FRAME_FILE = re.compile(r"(\d{6})\.jpg")


class Sink(Protocol):
    """Takes an utterance's frames in order, then `close` or, where it broke off, `abort`. Methods may block.

    `frames` counts what has been written, `path` says where it is (None: nowhere).
    """

    frames: int
    path: Path | None

    def write(self, frame: Frame) -> None:
        """Take the next frame; `SinkError` if it cannot be written."""

    def close(self) -> None:
        """The utterance is complete."""

    def abort(self) -> None:
        """No more frames will come; keep what is written."""


class NullSink:
    """Counts frames and their bytes."""

    def __init__(self) -> None:
        self.frames = 0
        self.bytes = 0
        self.path: Path | None = None

    def write(self, frame: Frame) -> None:
        """See `Sink`."""
        self.frames += 1
        self.bytes += len(frame.jpeg)

    def close(self) -> None:
        """See `Sink`."""

    def abort(self) -> None:
        """See `Sink`."""


class JpegFolderSink:
    """Files ``000000.jpg``, ``000001.jpg`` … in a folder, made if need be.

    Frames of an earlier run are replaced; on `close` those of a longer run that are left over are removed, so
    that the folder holds this utterance and no mixture. Nothing but six digits and ``.jpg`` is touched.
    """

    def __init__(self, folder: Path | str) -> None:
        self.frames = 0
        self.path: Path | None = Path(folder)
        self._folder = Path(folder)
        with _named(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)

    def write(self, frame: Frame) -> None:
        """See `Sink`."""
        path = self._folder / f"{self.frames:06d}.jpg"
        with _named(path):
            try:
                path.write_bytes(frame.jpeg)
            except OSError:
                # Half a JPEG is worse than none.
                with suppress(OSError):
                    path.unlink(missing_ok=True)
                raise
        self.frames += 1

    def close(self) -> None:
        """See `Sink`."""
        with _named(self._folder):
            for path in self._folder.iterdir():
                match = _FRAME_FILE.fullmatch(path.name)
                if match and int(match.group(1)) >= self.frames:
                    path.unlink()

    def abort(self) -> None:
        """See `Sink`."""


class Mp4Sink:
    """An MP4 of H.264 (yuv420p, limited range, BT.601 matrix) and AAC, 25 frames/s, sound and frames starting together.

    Written as ``<name>.partial.mp4`` beside its place and renamed when complete: an older file of that
    name is whole until then. Broken off, the partial file stays, playable if the disk had room for its
    index.
    """

    def __init__(self, path: Path | str, speech: Recording) -> None:
        """`speech` is what the frames say; it is cut where the frames end."""
        self.frames = 0
        self._final = Path(path)
        self._partial = self._final.with_name(f"{self._final.stem}.partial.mp4")
        self.path: Path | None = self._partial
        with _named(self._partial):
            self._final.parent.mkdir(parents=True, exist_ok=True)
        self._writer = Mp4Writer(self._partial, speech)

    def write(self, frame: Frame) -> None:
        """See `Sink`."""
        self._writer.write(frame.jpeg)
        self.frames += 1

    def close(self) -> None:
        """See `Sink`."""
        if self.frames == 0:
            self.abort()
            raise SinkError(f"{self._final} was not written: there are no frames")
        self._writer.close()
        with _named(self._final):
            self._partial.replace(self._final)
        self.path = self._final

    def abort(self) -> None:
        """See `Sink`."""
        with suppress(SinkError):
            self._writer.close()
        if self.frames == 0:
            with suppress(OSError):
                self._partial.unlink(missing_ok=True)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """An operating system's error with the file's name and in one sentence."""
    try:
        yield
    except OSError as error:
        raise SinkError(f"{path} cannot be written: {error.strerror or error}") from error
