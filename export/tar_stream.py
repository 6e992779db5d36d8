"""Reads and writes the plainest of tars: one after the other, regular files and nothing else.

`tarfile` parses and makes the headers, one block each; it never extracts anything. What it offers beyond that
(links, devices, folders, sparse files, headers that extend others and may claim any size) is refused unread.
"""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from export.errors import ExportError

BLOCK_BYTES = tarfile.BLOCKSIZE
CHUNK_BYTES = 1 << 20
GZIP_SUFFIXES = (".tar.gz", ".tgz")
GZIP_LEVEL = 1
"""Raw pictures shrink to a half, JPEG data by a twentieth, weights by a tenth; level 6 gains 3 % in twice the time."""
_MOST_OCTAL = 8**11
"""A size from here on does not fit the digits of a POSIX header."""
_END = bytes(2 * BLOCK_BYTES)
_KINDS = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.DIRTYPE: "a folder",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}
_MAGICS = {
    b"PK": "a zip file",
    b"BZ": "compressed by bzip2",
    b"\xfd7": "compressed by xz",
    b"(\xb5": "compressed by zstd",
}
_GZIP_MAGIC = b"\x1f\x8b"


class TarReader:
    """The members of a plain or gzipped tar in order; `ExportError` names the archive, and what is wrong with it.

    Memory does not grow with anything that the archive says or holds.
    """

    def __init__(self, path: Path, file: io.BufferedIOBase) -> None:
        self._path = path
        self._file = file
        self._left = 0
        self._padding = 0

    def next(self) -> tarfile.TarInfo | None:
        """The next member, None at the archive's end; the one before must have been read."""
        self.exactly(self._padding)
        block = self.exactly(BLOCK_BYTES)
        if not any(block):
            self._check_end()
            return None
        try:
            member = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise ExportError(f"{self._path} is no tar, or damaged: {error}") from error
        if member.type != tarfile.REGTYPE:
            kind = _KINDS.get(member.type, "no plain file")
            raise ExportError(
                f"{self._path} holds {shown(member.name)}, which is {kind}; plain files are wanted"
            )
        self._left = member.size
        self._padding = -member.size % BLOCK_BYTES
        return member

    def content(self) -> Iterator[bytes]:
        """The bytes of the member that `next` gave last, a chunk at a time."""
        while self._left > 0:
            chunk = self.exactly(min(self._left, CHUNK_BYTES))
            self._left -= len(chunk)
            yield chunk

    def exactly(self, size: int) -> bytes:
        """So many of the next bytes."""
        data = self._read(size)
        if len(data) != size:
            raise ExportError(f"{self._path} is cut off")
        return data

    def _read(self, size: int) -> bytes:
        try:
            return self._file.read(size)
        except EOFError as error:
            raise ExportError(f"{self._path} is cut off") from error
        except (OSError, zlib.error) as error:
            raise ExportError(f"{self._path} cannot be read: {error}") from error

    def _check_end(self) -> None:
        """Behind the two empty blocks at the end of a tar there are at most zeros that fill up its last record."""
        rest = self._read(tarfile.RECORDSIZE + 1)
        if len(rest) < BLOCK_BYTES:
            raise ExportError(f"{self._path} is cut off")
        if len(rest) > tarfile.RECORDSIZE or any(rest):
            raise ExportError(f"{self._path} goes on behind its end")


class TarWriter:
    """Writes a tar whose bytes depend on names and contents only: no times, no owners."""

    def __init__(self, file: io.BufferedIOBase) -> None:
        self._file = file

    def add(self, name: str, size: int, chunks: Iterator[bytes]) -> None:
        """Write a member of `size` bytes; `chunks` must give as many."""
        self._file.write(header(name, size))
        written = 0
        for chunk in chunks:
            written += self._file.write(chunk)
        if written != size:
            raise ExportError(f"{name} is {written} bytes long; it was {size} before")
        self._file.write(bytes(-size % BLOCK_BYTES))

    def finish(self) -> None:
        """Write the end."""
        self._file.write(_END)


def header(name: str, size: int) -> bytes:
    """The block before a member: a POSIX header, or, for 8 GiB and more, GNU's, whose sizes are binary."""
    member = tarfile.TarInfo(name)
    member.size = size
    member.mode = 0o644
    if size < _MOST_OCTAL:
        return member.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")
    return member.tobuf(tarfile.GNU_FORMAT, "ascii", "strict")


@contextmanager
def open_tar(path: Path) -> Iterator[TarReader]:
    """A reader of the archive at `path`, plain or gzipped, whatever its name says; `ExportError` if it is neither."""
    if not path.is_file():
        raise ExportError(f"{path} is not there; an archive made by `python -m export pack` is wanted")
    try:
        raw = path.open("rb")
    except OSError as error:
        raise ExportError(f"{path} cannot be read: {error.strerror}") from error
    with raw:
        magic = raw.peek(2)[:2]
        if magic in _MAGICS:
            raise ExportError(
                f"{path} is {_MAGICS[magic]}; a .tar or .tar.gz made by `python -m export pack` is wanted"
            )
        if magic == _GZIP_MAGIC:
            with gzip.GzipFile(fileobj=raw, mode="rb") as file:
                yield TarReader(path, file)
        else:
            yield TarReader(path, raw)


@contextmanager
def new_tar(path: Path, gzipped: bool) -> Iterator[TarWriter]:
    """A writer of a tar at `path`, finished when the block ends well."""
    with path.open("wb") as raw:
        if gzipped:
            with gzip.GzipFile("", "wb", GZIP_LEVEL, raw, mtime=0) as file:
                yield from _written(file)
        else:
            yield from _written(raw)


def _written(file: io.BufferedIOBase) -> Iterator[TarWriter]:
    writer = TarWriter(file)
    yield writer
    writer.finish()


def shown(name: str) -> str:
    """A name from an archive, as it may be shown."""
    return ascii(name) if len(name) <= 80 else f"{name[:80]!a}…"
