from __future__ import annotations

import os
from pathlib import Path

import pytest

from export.shared_files import SharedFile

CONTENT = b"weights" * 1000


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(CONTENT)
    return path


def put(source: Path, folder: Path, count: int) -> list[Path]:
    shared = SharedFile(source)
    targets = [folder / f"target{number}" for number in range(count)]
    for target in targets:
        shared.put(target)
    assert [target.read_bytes() for target in targets] == [CONTENT] * count
    assert source.read_bytes() == CONTENT
    assert sorted(path for path in folder.iterdir() if path != source) == targets
    return targets


def test_all_are_one_file(source: Path, tmp_path: Path) -> None:
    first, second = put(source, tmp_path, 2)
    assert first.stat().st_ino == second.stat().st_ino == source.stat().st_ino
    source.unlink()
    first.unlink()
    assert second.read_bytes() == CONTENT


def test_from_another_file_system_one_copy_is_made(source: Path, tmp_path: Path) -> None:
    shared_memory = Path("/dev/shm")
    if not shared_memory.is_dir() or shared_memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is one file system only")
    elsewhere = shared_memory / f"lipstream-test-{os.getpid()}"
    elsewhere.write_bytes(CONTENT)
    (tmp_path / "here").mkdir()
    try:
        first, second = put(elsewhere, tmp_path / "here", 2)
    finally:
        elsewhere.unlink()
    assert first.stat().st_ino == second.stat().st_ino


def test_past_the_most_links_of_a_file_another_one_is_begun(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ext4 has 65,000 for each, btrfs 65,535 within a folder."""
    link = os.link

    def link_thrice(old: Path, new: Path) -> None:
        if old.stat().st_nlink == 3:
            raise OSError("Too many links")
        link(old, new)

    monkeypatch.setattr(os, "link", link_thrice)
    inodes = [path.stat().st_ino for path in put(source, tmp_path, 7)]
    assert [inodes.count(inode) for inode in dict.fromkeys(inodes)] == [2, 3, 2]


def test_what_cannot_even_be_copied_is_an_error(source: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        SharedFile(source).put(tmp_path / "missing" / "target")
