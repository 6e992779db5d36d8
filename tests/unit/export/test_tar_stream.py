from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pytest

from export.errors import ExportError
from export.tar_stream import header, new_tar, open_tar, shown

FILES = {"a/one": b"1" * 700, "a/two": b"", "b": b"x" * 512}


def write(path: Path, gzipped: bool = False) -> Path:
    with new_tar(path, gzipped) as tar:
        for name, data in FILES.items():
            tar.add(name, len(data), iter([data[:100], data[100:]]))
    return path


def read(path: Path) -> dict[str, bytes]:
    found = {}
    with open_tar(path) as tar:
        while (member := tar.next()) is not None:
            found[member.name] = b"".join(tar.content())
    return found


@pytest.mark.parametrize("gzipped", [False, True])
def test_what_was_written_is_read_again_and_by_tarfile_too(tmp_path: Path, gzipped: bool) -> None:
    path = write(tmp_path / "a.tar", gzipped)
    assert read(path) == FILES
    with tarfile.open(path) as tar:
        for name, data in FILES.items():
            member = tar.getmember(name)
            assert (member.mtime, member.uid, member.gid, member.uname, member.mode) == (0, 0, 0, "", 0o644)
            content = tar.extractfile(member)
            assert content is not None
            assert content.read() == data


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT])
def test_a_tar_that_tarfile_filled_up_to_whole_records_is_read(tmp_path: Path, kind: int) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=kind) as tar:
        for name, data in FILES.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    assert read(tmp_path / "a.tar") == FILES


@pytest.mark.parametrize("gzipped", [False, True])
def test_a_cut_anywhere_is_told(tmp_path: Path, gzipped: bool) -> None:
    data = write(tmp_path / "whole.tar", gzipped).read_bytes()
    cut = tmp_path / "cut.tar"
    for length in range(10, len(data), 1 if gzipped else 61):
        cut.write_bytes(data[:length])
        with pytest.raises(ExportError, match=r"cut\.tar (is cut off|cannot be read)"):
            read(cut)


def test_damage_to_compressed_data_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar", gzipped=True)
    data = bytearray(path.read_bytes())
    data[-6] ^= 0xFF  # in the checksum of gzip
    path.write_bytes(data)
    with pytest.raises(ExportError, match=r"a\.tar cannot be read: CRC check failed"):
        read(path)


@pytest.mark.parametrize("rest", [b"more", bytes(20_000), bytes(600) + b"x"])
def test_what_stands_behind_the_end(tmp_path: Path, rest: bytes) -> None:
    path = write(tmp_path / "a.tar")
    path.write_bytes(path.read_bytes() + rest)
    with pytest.raises(ExportError, match="goes on behind its end"):
        read(path)


def test_sizes_beyond_eight_gigabytes_have_a_header_that_tarfile_reads() -> None:
    for size in (8**11 - 1, 8**11, 2**40):
        found = tarfile.TarInfo.frombuf(header("a/faces.npy", size), "ascii", "strict")
        assert (found.name, found.size, found.type) == ("a/faces.npy", size, tarfile.REGTYPE)


@pytest.mark.parametrize(
    ("magic", "what"),
    [(b"PK\3\4", "a zip file"), (b"BZh9", "by bzip2"), (b"\xfd7zXZ\0", "by xz"), (b"(\xb5/\xfd", "by zstd")],
)
def test_other_archives_are_called_by_their_names(tmp_path: Path, magic: bytes, what: str) -> None:
    (tmp_path / "a.tar").write_bytes(magic + bytes(600))
    with pytest.raises(ExportError, match=rf"a\.tar is .*{what}; a \.tar or \.tar\.gz made by"):
        read(tmp_path / "a.tar")


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", "is cut off"),
        (b"hello" * 300, "is no tar, or damaged"),
        (gzip.compress(b"hello" * 300, mtime=0), "is no tar"),
    ],
)
def test_what_is_no_archive(tmp_path: Path, data: bytes, error: str) -> None:
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(ExportError, match=error):
        read(tmp_path / "a.tar")


def test_an_archive_that_is_not_there_or_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "gone"):
        with pytest.raises(ExportError, match="is not there"):
            read(path)


def test_a_member_that_gives_less_than_it_announced(tmp_path: Path) -> None:
    with (
        new_tar(tmp_path / "a.tar", False) as tar,
        pytest.raises(ExportError, match="a is 3 bytes long; it was 5"),
    ):
        tar.add("a", 5, iter([b"abc"]))


def test_names_are_shown_without_what_a_terminal_would_obey() -> None:
    assert shown("\x1b[2J..") == "'\\x1b[2J..'"
    assert len(shown("x" * 10_000)) < 100
