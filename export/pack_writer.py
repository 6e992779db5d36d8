"""Writes an avatar pack (`avatar.json` and its ``.npy`` files) from frames, one frame at a time."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compositor_backend.blend import crop_face
from compositor_backend.compositor import region_segments, stacked_runs
from compositor_backend.errors import PackError
from compositor_backend.geometry import FAMILIES, Box, SegmentGrid, check_box, restart_interval
from compositor_backend.jpeg import (
    MARKER_BYTES,
    Header,
    JpegSettings,
    encode,
    marker_offsets,
    read_header,
    with_comment,
)
from compositor_backend.manifest import (
    MANIFEST_NAME,
    MAX_SIDE_PX,
    PACK_FILES,
    FileEntry,
    GraphEntry,
    Manifest,
)
from compositor_backend.pack import AvatarPack, file_sha256
from compositor_backend.splice import place

DEFAULT_QUALITY = 75
DEFAULT_INTERVAL = 4
"""MCUs between restart markers.

Fewer mean more bytes in every frame, more mean that a larger region is encoded for every frame. Measured at
1280x720, quality 75, 4:2:0, boxes of 180 px anywhere; "drawn" frames are 44 kB large, "noise" 270 kB:

========  ============  ============  =================  ==================
interval  bytes, drawn  bytes, noise  region encoded     composing, drawn
========  ============  ============  =================  ==================
1         +31.8 %       +3.9 %        37,600 px          0.32 ms
2         +15.7 %       +1.9 %        39,900 px          0.34 ms
4         +7.7 %        +1.0 %        45,700 px          0.33 ms
8         +3.8 %        +0.5 %        60,200 px          0.39 ms
16        +1.8 %        +0.3 %        79,200 px          0.39 ms
80        +0.3 %        +0.1 %        249,200 px         0.70 ms
========  ============  ============  =================  ==================

Decoding slows by 2 to 7 % (libjpeg-turbo) and 2 to 13 % (FFmpeg) at any interval, with no trend beyond noise.
"""


@dataclass(frozen=True)
class PackSettings:
    """Everything in the manifest that does not follow from the frames.

    `interval_wanted` is the wanted restart interval in MCUs; the nearest divisor of a row's MCUs is taken. `comment`
    stands in every frame's JPEG.
    """

    avatar_id: str
    family: str
    audio_mode: str
    audio_shape: tuple[int, ...]
    network_key: int
    graphs: Mapping[str, GraphEntry]
    quality: int = DEFAULT_QUALITY
    subsampling: str = "420"
    blend: str = "hard"
    interval_wanted: int = DEFAULT_INTERVAL
    comment: str = ""


class _Stream:
    """A ``.npy`` file that grows by rows; the number of rows is filled in when it is closed."""

    def __init__(self, path: Path, dtype: np.dtype[Any], row_shape: tuple[int, ...]) -> None:
        self.path = path
        self.rows = 0
        self._dtype = dtype
        self._row_shape = row_shape
        self._file = path.open("xb")
        self._file.write(self._header())

    def append(self, rows: NDArray[Any]) -> None:
        """Write `rows` [n, *row_shape]."""
        self._file.write(np.ascontiguousarray(rows, self._dtype).data)
        self.rows += len(rows)

    def finish(self) -> FileEntry:
        """Fill in the number of rows, close the file and describe it."""
        self._file.seek(0)
        self._file.write(self._header())
        self._file.close()
        size = self.path.stat().st_size
        return FileEntry(size, file_sha256(self.path), self._dtype.name, (self.rows, *self._row_shape))

    def discard(self) -> None:
        """Close the file, whatever state it is in, and remove it."""
        # What is still buffered may not fit the disk; it is of no use any more.
        with suppress(OSError):
            self._file.close()
        self.path.unlink(missing_ok=True)

    def _header(self) -> bytes:
        """The header for the rows so far; numpy pads it, so its length does not depend on their number."""
        text = io.BytesIO()
        shape = (self.rows, *self._row_shape)
        np.lib.format.write_array_header_1_0(  # type: ignore[no-untyped-call]
            text, {"descr": self._dtype.str, "fortran_order": False, "shape": shape}
        )
        return text.getvalue()


class PackWriter:
    """Writes a pack into `folder` (made if missing) frame by frame; memory does not grow with their number.

    Use as a context manager: the pack is whole only after `finish`, and left without it, nothing stays.
    A pack that is there already is never written to. Settings out of range are a `PackError`, and so is a
    full disk.
    """

    def __init__(self, folder: Path, settings: PackSettings) -> None:
        self.frames = 0
        self._folder = folder
        self._settings = settings
        if (folder / MANIFEST_NAME).exists():
            raise PackError(f"{folder} holds a pack already; a new folder is wanted")
        draft = self._manifest((1, 1), 1, dict.fromkeys(PACK_FILES, FileEntry(1, "0" * 64, "uint8", (1,))))
        Manifest.from_json(draft.to_json(), "the new manifest")
        self._made_folder = not folder.exists()
        self._streams: dict[str, _Stream] = {}
        self._grid: SegmentGrid | None = None
        self._header: Header | None = None
        self._finished = False

    def add(self, frame: NDArray[np.uint8], box: Box) -> None:
        """Append a frame (uint8 [H,W,3] RGB) and its face box.

        `PackError` if the frame's size differs from the first one's, the box is empty or not inside the
        frame, or the disk is full.
        """
        grid = self._check_frame(frame)
        x1, y1, x2, y2 = check_box(box, grid.width, grid.height)
        region = grid.region(box)
        family = FAMILIES[self._settings.family]
        with _reporting(self._folder):
            self._append("faces", crop_face(frame[y1:y2, x1:x2], family).transpose(2, 0, 1)[None])
            self._append("rects", np.array([box], np.int32))
            self._append("region_data", frame[region.y1 : region.y2, region.x1 : region.x2].reshape(-1))
            self._append("region_boxes", np.array([region.box], np.int32))
            self._append_scan(frame, grid)
        self.frames += 1

    def finish(self) -> Manifest:
        """Complete the files, write the manifest and return it; `PackError` without frames, or disk full."""
        if self._grid is None or self._header is None:
            raise PackError("the avatar has no frames; one or more are wanted")
        with _reporting(self._folder):
            comment = self._settings.comment.encode()
            header = with_comment(self._header.data, comment) if comment else self._header.data
            self._append("jpeg_header", np.frombuffer(header, np.uint8))
            files = {name: self._streams[name].finish() for name in PACK_FILES}
            manifest = self._manifest((self._grid.width, self._grid.height), self._grid.interval, files)
            manifest.save(self._folder)
        self._finished = True
        return manifest

    def __enter__(self) -> PackWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._finished:
            self._discard()

    def _check_frame(self, frame: NDArray[np.uint8]) -> SegmentGrid:
        """The grid of the avatar's frames, laid out by the first of them."""
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or not frame.size:
            raise PackError(f"a frame is {frame.dtype} {list(frame.shape)}; uint8 [H, W, 3] is wanted")
        height, width = frame.shape[:2]
        if self._grid is None:
            self._grid = self._first_grid(width, height)
        if (width, height) != (self._grid.width, self._grid.height):
            raise PackError(
                f"a frame is {width}x{height} px; the first is {self._grid.width}x{self._grid.height}"
            )
        return self._grid

    def _first_grid(self, width: int, height: int) -> SegmentGrid:
        if max(width, height) > MAX_SIDE_PX:
            raise PackError(f"a frame is {width}x{height} px; {MAX_SIDE_PX} is the most a JPEG can have")
        settings = self._settings
        interval = restart_interval(width, settings.subsampling, settings.interval_wanted)
        return SegmentGrid(width, height, settings.subsampling, interval)

    def _append_scan(self, frame: NDArray[np.uint8], grid: SegmentGrid) -> None:
        """Encode the frame and append its entropy-coded data, cut into segments."""
        settings = self._settings
        jpeg = encode(frame, JpegSettings(settings.quality, settings.subsampling, grid.interval))
        header = read_header(jpeg)
        if self._header is None:
            self._header = header
        scan = np.frombuffer(jpeg, np.uint8)[len(header.data) :]
        ends = marker_offsets(scan) + MARKER_BYTES
        if ends.size != grid.segments or header.data != self._header.data:
            raise PackError(
                f"the encoder made {ends.size} segments or new tables; {grid.segments} and the old are wanted"
            )
        start = self._append("scan_data", scan)
        self._append("scan_offsets", start + np.concatenate([[0], ends])[None])

    def _append(self, name: str, rows: NDArray[Any]) -> int:
        """Append to a file, made now if there is none; how many rows were there before."""
        if name not in self._streams:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._streams[name] = _Stream(self._folder / f"{name}.npy", rows.dtype, rows.shape[1:])
        before = self._streams[name].rows
        self._streams[name].append(rows)
        return before

    def _manifest(self, size: tuple[int, int], interval: int, files: dict[str, FileEntry]) -> Manifest:
        settings = self._settings
        return Manifest(
            id=settings.avatar_id,
            width=size[0],
            height=size[1],
            frames=max(1, self.frames),
            family=settings.family,
            audio_mode=settings.audio_mode,
            audio_shape=settings.audio_shape,
            network_key=settings.network_key,
            quality=settings.quality,
            subsampling=settings.subsampling,
            restart_interval=interval,
            blend=settings.blend,
            created_by=f"lipstream {_version()}",
            files=files,
            graphs=settings.graphs,
        )

    def _discard(self) -> None:
        """Remove what was written."""
        for stream in self._streams.values():
            stream.discard()
        if self._streams:
            (self._folder / MANIFEST_NAME).unlink(missing_ok=True)
        if self._made_folder:
            # The folder stays if somebody else has put something into it.
            with suppress(OSError):
                self._folder.rmdir()


@contextmanager
def _reporting(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise PackError(f"{folder} cannot be written: {error.strerror or error}") from error


def write_pack(
    folder: Path,
    settings: PackSettings,
    frames: Iterable[tuple[NDArray[np.uint8], Box]],
    progress: Callable[[int], None] | None = None,
) -> Manifest:
    """Write a whole pack into `folder`; `progress` is called with the number of frames written so far.

    A `PackError` about a frame names its number, counted from 0.
    """
    with PackWriter(folder, settings) as writer:
        for number, (frame, box) in enumerate(frames):
            try:
                writer.add(frame, box)
            except PackError as error:
                raise PackError(f"frame {number}: {error}") from error
            if progress is not None:
                progress(writer.frames)
        return writer.finish()


def write_idle(folder: Path, mouths: Iterable[NDArray[np.uint8]]) -> None:
    """Add idle frames to the pack in `folder`, which nobody uses yet.

    `mouths` are those of all its frames in order, uint8 [n,S,S,3] RGB at a time, drawn to silence by the network
    whose key is the pack's. `PackError` if there are too few or too many, or the disk is full.
    """
    with AvatarPack(folder) as pack, _reporting(folder):
        files = _write_idle_files(pack, mouths)
        manifest = pack.manifest
        dataclasses.replace(manifest, files={**manifest.files, **files}, idle_key=manifest.network_key).save(
            folder
        )


def _write_idle_files(pack: AvatarPack, mouths: Iterable[NDArray[np.uint8]]) -> dict[str, FileEntry]:
    """The two files, or, where anything fails, none of them."""
    dtypes: dict[str, type[np.generic]] = {"idle_data": np.uint8, "idle_offsets": np.int64}
    streams: dict[str, _Stream] = {}
    with ExitStack() as on_failure:
        for name, dtype in dtypes.items():
            streams[name] = _Stream(pack.folder / f"{name}.npy", np.dtype(dtype), ())
            on_failure.callback(streams[name].discard)
        _append_all_idle(pack, streams, mouths)
        files = {name: stream.finish() for name, stream in streams.items()}
        on_failure.pop_all()
    return files


def _append_all_idle(
    pack: AvatarPack, streams: dict[str, _Stream], mouths: Iterable[NDArray[np.uint8]]
) -> None:
    done = 0
    streams["idle_offsets"].append(np.zeros(1, np.int64))
    for batch in mouths:
        end = done + len(batch)
        if end > pack.frames:
            raise PackError(f"mouths came for {end} frames or more; {pack.frames} are wanted")
        for run in stacked_runs(pack, range(done, end)):
            _append_idle(pack, streams, run, batch[run[0] - done :])
        done = end
    if done != pack.frames:
        raise PackError(f"mouths came for {done} frames; {pack.frames} are wanted")


def _append_idle(
    pack: AvatarPack, streams: dict[str, _Stream], run: list[int], mouths: NDArray[np.uint8]
) -> None:
    segments, first = region_segments(pack, run, mouths), 0
    for frame in run:
        region = pack.regions[frame]
        rows = np.array(place(pack.grid, region, segments, first))
        streams["idle_offsets"].append(streams["idle_data"].rows + rows[1:] - rows[0])
        streams["idle_data"].append(segments.data[rows[0] : rows[-1]])
        first += region.segments


def _version() -> str:
    try:
        return importlib.metadata.version("lipstream")
    except importlib.metadata.PackageNotFoundError:
        return "from a source tree"
