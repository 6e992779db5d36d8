"""The avatar pack: everything about an avatar that does not depend on speech, mapped from disk.

A pack lies in the avatar's folder, as plain ``.npy`` files beside the manifest (`compositor_backend.manifest`):

==============  ================  ====================================================================
file            dtype, shape      content
==============  ================  ====================================================================
faces           u8 [N,3,S,S]      what the network sees of the face box, RGB, planar: FACE itself
rects           i32 [N,4]         face box x1, y1, x2, y2
scan_data       u8 [·]            entropy-coded data of the frames' JPEGs, markers (RST, EOI) included
scan_offsets    i64 [N,S+1]       where each segment starts in it, and where the last one's marker ends
region_data     u8 [·]            the frame's own pixels in its region, RGB, one frame after the other
region_boxes    i32 [N,4]         the region: the face box grown to whole segments
jpeg_header     u8 [·]            SOI … SOS of every frame, any comment (COM) included
idle_data       u8 [·]            the regions' segments with the mouth of silence, markers in place; may be left out
idle_offsets    i64 [R+1]         where each of all regions' rows of segments starts in it, and where the last one ends
==============  ================  ====================================================================

The files are mapped, so processes share them in the page cache. They must never be changed in place: an
importer writes a new folder and renames it over the old one; whoever has the old files mapped keeps them.

Where somebody does change them, it is noticed: the importer writes the manifest last, so a file that is newer was
written since, and is compared with its checksum when it is opened; and `PackCache` looks at each request whether a
file is still the one that was opened.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import mmap
import os
import re
import resource
import struct
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from compositor_backend.contract import check_avatar_id
from compositor_backend.errors import DamagedAvatarError, PackError, UnknownAvatarError
from compositor_backend.geometry import FAMILIES, Region, SegmentGrid, check_box
from compositor_backend.graph_file import GraphFile
from compositor_backend.jpeg import Header, JpegSettings, encode, marker_codes, marker_offsets, read_header
from compositor_backend.manifest import IDLE_FILES, MANIFEST_NAME, PACK_FILES, FileEntry, Manifest
from compositor_backend.memory import Rest, give_back
from compositor_backend.settings import DEFAULT_PACK_IDLE_S, Settings
from compositor_backend.splice import Segments, join

_HASH_BLOCK_BYTES = 1 << 20
_NPY_HEADER_LIMIT_BYTES = 1024
_NPY_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00(?P<length>..)(?P<text>"
    rb"\{'descr': '(?P<descr>[<|]\w\d)', 'fortran_order': False, 'shape': \((?P<shape>[\d, ]{1,99})\), \} *\n)",
    re.DOTALL,
)
"""Version 1.0 of the format, as numpy writes it: rows first, little-endian."""


class AvatarFolder:
    """An avatar's folder, opened for its manifest and graphs alone; `PackError` says what is wrong.

    A subclass maps those of the pack's files that it names in `FILES`; their arrays are read-only. A file that is newer
    than the manifest, which an importer writes last, is read whole and compared with its checksum.
    """

    FILES: ClassVar[tuple[str, ...]] = ()

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = Manifest.load(folder)
        self.family = FAMILIES[self.manifest.family]
        entries = self.manifest.files
        self.nbytes = sum(entries[name].bytes for name in self.FILES if name in entries)
        self._imported_ns = _written_ns(folder / MANIFEST_NAME)
        self._map_files()

    def _map_files(self) -> None:
        """Open what `FILES` names."""

    @property
    def frames(self) -> int:
        """Number of template frames."""
        return self.manifest.frames

    def graph(self, name: str) -> GraphFile:
        """One of the avatar's graphs, which its manifest must name."""
        entry = self.manifest.graphs[name]
        return GraphFile(self.folder / f"{name}.onnx", entry.sha256, entry.bytes, entry.row_bytes)

    def forget_files(self) -> None:
        """Drop the manifest's table of files, which only opening and verifying need.

        It is a third of what an open pack takes, and a server has thousands open.
        """
        self.manifest = dataclasses.replace(self.manifest, files={})

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npy"

    def _map(self, name: str, dtype: type[np.generic], shape: tuple[int | None, ...]) -> NDArray[Any]:
        """A file's array, mapped, if dtype and shape (None: any length) are as wanted."""
        path, entry = self._path(name), self.manifest.files[name]
        wanted_dtype = np.dtype(dtype)
        fits = len(entry.shape) == len(shape) and all(
            want in (None, have) for want, have in zip(shape, entry.shape, strict=True)
        )
        if entry.dtype != wanted_dtype.name or not fits:
            wanted = str(list(shape)).replace("None", "·")
            raise PackError(
                f"{path} holds {entry.dtype} {list(entry.shape)}; {wanted_dtype} {wanted} is wanted"
            )
        return _map_array(path, entry, wanted_dtype, self._imported_ns)

    def _map_faces(self) -> NDArray[np.uint8]:
        size_px = self.family.network_px
        return self._map("faces", np.uint8, (self.manifest.frames, 3, size_px, size_px))


class FacePack(AvatarFolder):
    """What a lip-sync network needs of an avatar: `faces`, uint8 [N,3,S,S], what it sees of each frame's face."""

    FILES = ("faces",)

    def _map_files(self) -> None:
        self.faces = self._map_faces()


class AvatarPack(AvatarFolder):
    """An open pack, with all its files.

    Opening checks all that indexes into the mapped data, so damage can spoil pixels but never read out of
    bounds; `verify` compares every file with its checksum.
    """

    FILES = (*PACK_FILES, *IDLE_FILES)

    def _map_files(self) -> None:
        frames = self.manifest.frames
        self.jpeg_settings = JpegSettings(
            self.manifest.quality, self.manifest.subsampling, self.manifest.restart_interval
        )
        self.grid = SegmentGrid(
            self.manifest.width,
            self.manifest.height,
            self.manifest.subsampling,
            self.manifest.restart_interval,
        )
        self.faces = self._map_faces()
        self.rects: NDArray[np.int32] = self._map("rects", np.int32, (frames, 4))
        self.scan_offsets: NDArray[np.int64] = self._map(
            "scan_offsets", np.int64, (frames, self.grid.segments + 1)
        )
        self.scan: memoryview = self._map("scan_data", np.uint8, (None,)).data
        self.header = self._checked_header()
        self.regions = self._checked_regions()
        self._region_data: NDArray[np.uint8] = self._map("region_data", np.uint8, (None,))
        self._region_starts = self._checked_region_starts()
        self._check_offsets()
        self._map_idle()

    def _map_idle(self) -> None:
        """Idle frames, of an avatar that has them."""
        self.has_idle = "idle_data" in self.manifest.files
        if not self.has_idle:
            return
        self._idle: memoryview = self._map("idle_data", np.uint8, (None,)).data
        self._idle_starts = _starts(np.array([region.rows for region in self.regions]))
        rows = int(self._idle_starts[-1])
        self._idle_offsets: NDArray[np.int64] = self._map("idle_offsets", np.int64, (rows + 1,))
        self._check_rising("idle_offsets", self._idle_offsets[None], len(self._idle))

    def region_pixels(self, frame: int) -> NDArray[np.uint8]:
        """The frame's own pixels in its region, uint8 [H,W,3] RGB, read-only."""
        region = self.regions[frame]
        start, stop = self._region_starts[frame], self._region_starts[frame + 1]
        return self._region_data[start:stop].reshape(region.height, region.width, 3)

    def idle_jpeg(self, frame: int) -> bytes:
        """The frame with the mouth that the network draws to silence; only where `has_idle`."""
        offsets, region = self.scan_offsets[frame], self.regions[frame]
        rows = self._idle_rows(frame)
        return join(self.header, self.grid, self.scan, offsets, region, self._idle, rows)

    def idle_segments(self, frame: int) -> Segments:
        """The segments of that frame's region, with the markers that they have in the frame; only where `has_idle`."""
        rows = self._idle_rows(frame)
        data = np.frombuffer(self._idle[rows[0] : rows[-1]], np.uint8)
        return Segments(data, marker_offsets(data))

    def _idle_rows(self, frame: int) -> list[int]:
        first, last = self._idle_starts[frame], self._idle_starts[frame + 1]
        rows: list[int] = self._idle_offsets[first : last + 1].tolist()
        return rows

    def frame_jpeg(self, frame: int) -> bytes:
        """The frame as it was imported, mouth and all."""
        offsets = self.scan_offsets[frame]
        return self.header.data + self.scan[offsets[0] : offsets[-1]]

    def verify(self) -> None:
        """Read every file and compare it with its checksum, and every marker with its place; slow."""
        for name, entry in self.manifest.files.items():
            _check_sha256(self._path(name), entry)
        segments = self.grid.segments
        expected = marker_codes(0, segments, segments)
        data = np.frombuffer(self.scan, np.uint8)
        for frame, offsets in enumerate(self.scan_offsets):
            ends = offsets[1:]
            if (data[ends - 2] != 0xFF).any() or (data[ends - 1] != expected).any():
                raise PackError(f"{self._path('scan_data')}: frame {frame} is not cut at its restart markers")

    def close(self) -> None:
        """Let go of the mapped files; they are unmapped once no array made from them is in use."""
        empty = np.empty(0, np.uint8)
        self.faces = self._region_data = empty
        self.rects = np.empty((0, 4), np.int32)
        self.scan_offsets = np.empty((0, 0), np.int64)
        self.scan = self._idle = memoryview(b"")
        self._idle_offsets = np.empty(0, np.int64)
        self.regions = []

    def __enter__(self) -> AvatarPack:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _checked_regions(self) -> list[Region]:
        """Each frame's region by its face box, which must be what the file says; of equal ones there is one object."""
        boxes = self._map("region_boxes", np.int32, (self.manifest.frames, 4)).tolist()
        regions = []
        known: dict[Region, Region] = {}
        for frame, (rect, box) in enumerate(zip(self.rects.tolist(), boxes, strict=True)):
            try:
                region = self.grid.region(check_box(tuple(rect), self.grid.width, self.grid.height))
            except PackError as error:
                raise PackError(f"{self._path('rects')}, frame {frame}: {error}") from error
            if list(region.box) != box:
                raise PackError(f"{self._path('region_boxes')}, frame {frame}: {box} is not {region.box}")
            regions.append(known.setdefault(region, region))
        return regions

    def _checked_region_starts(self) -> NDArray[np.int64]:
        starts = _starts(np.array([region.width * region.height * 3 for region in self.regions]))
        if starts[-1] != self._region_data.size:
            raise PackError(
                f"{self._path('region_data')} holds {self._region_data.size} bytes; {starts[-1]} are wanted"
            )
        return starts

    def _checked_header(self) -> Header:
        """The frames' JPEG header, with the frames' size and the tables that the encoder at hand writes."""
        path = self._path("jpeg_header")
        try:
            header = _read_header(self._map("jpeg_header", np.uint8, (None,)).tobytes())
        except PackError as error:
            raise PackError(f"{path}: {error}") from error
        if (header.width, header.height) != (self.grid.width, self.grid.height):
            raise PackError(
                f"{path} is of frames of {header.width}x{header.height} px; "
                f"{self.grid.width}x{self.grid.height} is wanted"
            )
        if not header.same_tables(encode(np.zeros((1, 1, 3), np.uint8), self.jpeg_settings)):
            raise PackError(f"{path} has other tables or settings than this encoder; import the avatar again")
        return header

    def _check_offsets(self) -> None:
        self._check_rising("scan_offsets", self.scan_offsets, len(self.scan))

    def _check_rising(self, name: str, offsets: NDArray[np.int64], size: int) -> None:
        """Pieces follow each other and lie inside the data, so no slice taken by them can be wrong."""
        inside = offsets[:, 0].min() >= 0 and offsets[:, -1].max() <= size
        # One comparison of neighbours: a difference could overflow where the numbers are damaged.
        if not inside or not (offsets[:, :-1] < offsets[:, 1:]).all():
            raise PackError(f"{self._path(name)} falls or leaves the {size} bytes of data")


_read_header = lru_cache(maxsize=64)(read_header)
"""Avatars of one size and quality share a header: thousands are open at a time."""


class BoxPack(AvatarFolder):
    """An avatar's face boxes, `rects` int32 [N,4], once all of its files have been found to be sound.

    So the first model of a request refuses an avatar that a later one could not use.
    """

    FILES = AvatarPack.FILES

    def _map_files(self) -> None:
        with AvatarPack(self.folder) as pack:
            self.rects = pack.rects


def _starts(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each of several pieces that follow each other starts, and where the last one ends."""
    starts = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(sizes, out=starts[1:])
    return starts


def _map_array(path: Path, entry: FileEntry, dtype: np.dtype[Any], trusted_ns: int) -> NDArray[Any]:
    """The array in a ``.npy`` file, mapped read-only; `PackError` if it is not what the entry says.

    The checksum is compared if the file was written after `trusted_ns`.
    """
    try:
        status = path.stat()
        size = status.st_size
        if size != entry.bytes:
            raise PackError(f"{path} is {size} bytes long; {entry.bytes} are wanted")
        if status.st_mtime_ns > trusted_ns:
            _check_sha256(path, entry)
        with path.open("rb") as file:
            start = _array_start(file.read(_NPY_HEADER_LIMIT_BYTES), dtype, entry.shape)
            if start is None or start + math.prod(entry.shape) * dtype.itemsize != size:
                raise PackError(f"{path} is not a .npy file of {dtype} {list(entry.shape)}, rows first")
            # Not numpy's memmap: that is twice as large, and runs Python code at every slice.
            mapped = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise PackError(f"{path} cannot be opened: {error}") from error
    return np.ndarray(entry.shape, dtype, mapped, start)


def _array_start(header: bytes, dtype: np.dtype[Any], shape: tuple[int, ...]) -> int | None:
    """Where the data starts in a ``.npy`` file of that dtype and shape; None if it is of another.

    numpy's own reader evaluates the header as Python and fails in a dozen ways where it is damaged.
    """
    found = _NPY_HEADER.match(header)
    if found is None or found["descr"].decode() != dtype.str:
        return None
    stored = tuple(int(size) for size in re.findall(rb"\d+", found["shape"]))
    length = int.from_bytes(found["length"], "little")
    start = found.start("text") + length
    return start if stored == shape and found.end() == start else None


def _check_sha256(path: Path, entry: FileEntry) -> None:
    if file_sha256(path) != entry.sha256:
        raise PackError(f"{path} is damaged: its SHA-256 is not the manifest's")


def _written_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError as error:
        raise PackError(f"{path} cannot be read: {error}") from error


def file_sha256(path: Path) -> str:
    """SHA-256 of a file as hexadecimal digits; `PackError` if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(_HASH_BLOCK_BYTES):
                digest.update(block)
    except OSError as error:
        raise PackError(f"{path} cannot be read: {error}") from error
    return digest.hexdigest()


_T = TypeVar("_T")
_Pack = TypeVar("_Pack", bound=AvatarFolder)
_OPENINGS = 2
"""How often a pack is opened that is exchanged meanwhile."""
_State = tuple[bytes, bytes]
"""The identity of the manifest, and a digest of those of the mapped files."""
_IDENTITY = struct.Struct("=QQQq")
"""Device, inode, size in bytes, nanoseconds of the last change: another file, or another content, has another one."""
_NO_FILE = bytes(_IDENTITY.size)


@dataclass(slots=True)
class _Known(Generic[_Pack]):
    """An avatar's open pack, or why it cannot be opened, and the state of its files for which that holds.

    On the monotonic clock, `used_s` is when that was last asked for, or found to have failed, and `retry_s` when a
    failed opening may be repeated under the same manifest.
    """

    state: _State
    found: _Pack | str
    used_s: float
    retry_s: float = 0.0


class PackCache(Generic[_Pack]):
    """The open packs of one process, each a `kind`: at most `budget_bytes` of them, the least recently used goes first.

    Each mapped file is an open file to Python (until 3.13), so packs take no more than half of those that the process
    may have open.

    A pack that nobody asked for in `idle_s` seconds goes as well, and its files are unmapped; a thread of its own sees
    to it where no requests come. A pack that goes lives on while somebody holds it. The last one opened stays even if
    it exceeds the budget alone. Safe to use from several threads.
    """

    def __init__(
        self,
        kind: type[_Pack],
        avatars_folder: Path,
        budget_bytes: int,
        idle_s: float = DEFAULT_PACK_IDLE_S,
    ) -> None:
        self._kind = kind
        self._names = tuple(f"{name}.npy" for name in kind.FILES)
        self._folder = avatars_folder
        self._budget_bytes = budget_bytes
        self._idle_s = idle_s
        self._lock = threading.Lock()
        # When nothing was asked for in `idle_s`, each pack has been idle for as long.
        self._rest = Rest(idle_s, self._at_rest)
        self._known: OrderedDict[str, _Known[_Pack]] = OrderedDict()

    @classmethod
    def from_settings(cls, settings: Settings, kind: type[_Pack]) -> PackCache[_Pack]:
        """With packs from the operator's folder, none open yet."""
        return cls(kind, settings.avatars_folder, settings.pack_cache_bytes, settings.pack_idle_s)

    @property
    def nbytes(self) -> int:
        """Bytes of file that the open packs map."""
        with self._lock:
            return self._mapped_bytes()

    def get(self, avatar_id: str) -> _Pack:
        """The avatar's pack, opened if it is not; opened anew if any of its files is no longer the one opened.

        `AvatarIdError` if `avatar_id` is none, `UnknownAvatarError` if there is no such avatar,
        `DamagedAvatarError` if its pack cannot be opened.

        Looking takes 10 microseconds, and some 15 more where all files are mapped. A file that is cut short after
        that, while the pack is being read, ends the process (SIGBUS); a server that is watched loads the model anew.
        """
        return self._look(avatar_id)[1]

    def use(self, avatar_id: str, work: Callable[[_Pack], _T]) -> _T:
        """What `work` makes of the avatar's pack (`get`), made anew if a file was changed meanwhile.

        So nothing gets out that was made of bytes which somebody was just writing.
        """
        state, pack = self._look(avatar_id)
        for _ in range(_OPENINGS):
            try:
                made = work(pack)
            finally:
                # Whatever became of the work: if the pack is damaged by now, that is the answer. The files of an
                # avatar that was taken away are as they were.
                before = state
                with suppress(UnknownAvatarError):
                    state, pack = self._look(avatar_id)
            if state == before:
                return made
        raise _damaged(avatar_id) from PackError(f"{pack.folder} is being written to")

    def _look(self, avatar_id: str) -> tuple[_State, _Pack]:
        folder = self._folder / check_avatar_id(avatar_id)
        with self._lock:
            self._drop_idle()
            try:
                return self._current(avatar_id, folder)
            except PackError as error:
                raise _damaged(avatar_id) from error

    def _current(self, avatar_id: str, folder: Path) -> tuple[_State, _Pack]:
        state = self._state(avatar_id, folder)
        known = self._known.get(avatar_id)
        if known is None or _is_over(known, state):
            self._known.pop(avatar_id, None)
            known = self._known[avatar_id] = self._open(avatar_id, folder, state)
            self._evict()
        if isinstance(known.found, str):
            raise PackError(known.found)
        known.used_s = time.monotonic()
        self._known.move_to_end(avatar_id)
        self._rest.worked()
        return known.state, known.found

    def _open(self, avatar_id: str, folder: Path, state: _State) -> _Known[_Pack]:
        """The pack, all of one import: if the folder is exchanged while it is being opened, once more.

        A failure is remembered, so that it costs no reading of whole files again at each request. Asking again does
        not make it younger: after `idle_s` it is tried again, whatever may have been wrong.
        """
        started_s = time.monotonic()
        for _ in range(_OPENINGS):
            found = _opened(self._kind, avatar_id, folder)
            before, state = state, self._state(avatar_id, folder)
            if state == before:
                break
        else:
            found, state = f"{folder} is being written to", (state[0], b"changing")
        now_s = time.monotonic()
        if not isinstance(found, str):
            return _Known(state, found, now_s)
        # Somebody who keeps on writing shall not take more than half of the time from other avatars.
        return _Known(state, found, now_s, retry_s=now_s + (now_s - started_s))

    def _state(self, avatar_id: str, folder: Path) -> _State:
        """What changes when the avatar is imported again, or any of its files is written to or removed."""
        path = folder / MANIFEST_NAME
        try:
            manifest = _identity(path.stat())
        except (FileNotFoundError, NotADirectoryError):
            self._known.pop(avatar_id, None)
            raise UnknownAvatarError(f"AVATAR {avatar_id!r} is not on this server") from None
        except OSError as error:
            raise PackError(f"{path} cannot be read: {error}") from error
        root = str(folder)
        identities = b"".join([_identity_of(f"{root}/{name}") for name in self._names])
        return manifest, hashlib.blake2b(identities, digest_size=16).digest()

    def _at_rest(self) -> None:
        with self._lock:
            self._drop_idle()
        give_back()

    def _drop_idle(self) -> None:
        limit_s = time.monotonic() - self._idle_s
        while self._known and next(iter(self._known.values())).used_s <= limit_s:
            self._known.popitem(last=False)

    def _evict(self) -> None:
        most = _most_packs(len(self._names))
        while len(self._known) > 1 and (len(self._known) > most or self._mapped_bytes() > self._budget_bytes):
            self._known.popitem(last=False)

    def _mapped_bytes(self) -> int:
        packs = (known.found for known in self._known.values())
        return sum(pack.nbytes for pack in packs if not isinstance(pack, str))


def _most_packs(files: int) -> int:
    """Packs of so many mapped files that take half of the files which the process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if not files or soft == resource.RLIM_INFINITY else soft // 2 // files


def _is_over(known: _Known[_Pack], state: _State) -> bool:
    """Whether what is known of an avatar holds no longer, now that its files are in `state`."""
    imported_again = known.state[0] != state[0]
    return imported_again or (known.state != state and time.monotonic() >= known.retry_s)


def _opened(kind: type[_Pack], avatar_id: str, folder: Path) -> _Pack | str:
    """The pack, or why it cannot be opened; `PackError` if that may be another time.

    The reason is no exception: one that is kept keeps the files that were mapped when it was raised.
    """
    try:
        pack = kind(folder)
    except PackError as error:
        if _may_pass(error):
            raise
        return str(error)
    if pack.manifest.id == avatar_id:
        pack.forget_files()
        return pack
    return f"{folder / MANIFEST_NAME} is of the avatar {pack.manifest.id!r}, not {avatar_id!r}"


def _may_pass(error: PackError) -> bool:
    """Whether it may pass without a file being changed: no memory, too many open files, a network down."""
    cause = error.__cause__
    return isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError)


def _damaged(avatar_id: str) -> DamagedAvatarError:
    return DamagedAvatarError(f"AVATAR {avatar_id!r} is damaged on this server")


def _identity(status: os.stat_result) -> bytes:
    return _IDENTITY.pack(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _identity_of(path: str) -> bytes:
    try:
        return _identity(os.stat(path))  # noqa: PTH116 - at every request; a `Path` takes longer to make than to look
    except OSError:
        return _NO_FILE
