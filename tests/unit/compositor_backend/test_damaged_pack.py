"""Files of an avatar that are deleted, cut short, changed or exchanged, before it is opened and while it is open."""

from __future__ import annotations

import gc
import mmap
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from compositor_backend import pack as pack_module
from compositor_backend.compositor import compose
from compositor_backend.errors import DamagedAvatarError, PackError, UnknownAvatarError
from compositor_backend.manifest import IDLE_FILES, PACK_FILES
from compositor_backend.pack import AvatarPack, PackCache, file_sha256
from export.pack_writer import write_idle
from tests.support.scenes import age, keys, mouths, textured, write_avatar

FRAMES = 2
FILES = (*PACK_FILES, *IDLE_FILES)


def add(avatars: Path, avatar_id: str, seed: int = 0) -> Path:
    """An avatar with idle frames that was imported a minute ago."""
    frames = [textured(64, 48, seed + n) for n in range(FRAMES)]
    folder = write_avatar(avatars, frames, [(10, 10, 40, 40)] * FRAMES, avatar_id, family="160")
    write_idle(folder, [mouths(FRAMES, 160, seed)])
    return age(folder)


@pytest.fixture
def avatars(tmp_path: Path) -> Path:
    """The avatars `may` and `other`, and a copy of `may` to restore it from."""
    folder = tmp_path / "avatars"
    add(folder, "may")
    add(folder, "other", seed=5)
    shutil.copytree(folder / "may", tmp_path / "sound" / "may")
    return folder


@pytest.fixture
def cache(avatars: Path) -> PackCache[AvatarPack]:
    return PackCache(AvatarPack, avatars, 1 << 30)


def restore(avatars: Path) -> None:
    """Import the avatar again, as an importer does: a new folder in place of the old one."""
    fresh = avatars.parent / "fresh"
    shutil.copytree(avatars.parent / "sound" / "may", fresh)
    (avatars / "may").rename(avatars.parent / f"former-{len(list(avatars.parent.iterdir()))}")
    fresh.rename(avatars / "may")


def complaint(cache: PackCache[AvatarPack]) -> str:
    """Why the avatar `may` is not to be had."""
    with pytest.raises(DamagedAvatarError, match=r"^AVATAR 'may' is damaged on this server$") as caught:
        cache.get("may")
    assert isinstance(caught.value.__cause__, PackError)
    return str(caught.value.__cause__)


def flip(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


def halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def rewrite(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"x")


DAMAGES: list[tuple[Callable[[Path], None], str]] = [
    (Path.unlink, "cannot be opened"),
    (halve, r"is \d+ bytes long"),
    (empty, "is 0 bytes long"),
    (grow, r"is \d+ bytes long"),
    (flip, "is damaged: its SHA-256 is not the manifest's"),
    (rewrite, "is damaged: its SHA-256 is not the manifest's"),
]
EACH_DAMAGE = pytest.mark.parametrize(
    ("damage", "sentence"), DAMAGES, ids=[damage.__name__ for damage, _ in DAMAGES]
)


@EACH_DAMAGE
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("opened", [False, True], ids=["before it is opened", "while it is open"])
def test_damage_to_any_file_is_found_and_harms_no_other_avatar(
    avatars: Path,
    cache: PackCache[AvatarPack],
    damage: Callable[[Path], None],
    sentence: str,
    name: str,
    opened: bool,
) -> None:
    other = cache.get("other")
    before = [cache.get("may").frame_jpeg(n) for n in range(FRAMES)] if opened else []
    damage(avatars / "may" / f"{name}.npy")
    for _ in range(2):
        assert re.search(rf"{name}\.npy {sentence}", complaint(cache))
        assert cache.get("other") is other
    restore(avatars)
    after = [cache.get("may").frame_jpeg(n) for n in range(FRAMES)]
    assert after == before or not opened
    assert cache.get("may") is cache.get("may")


@pytest.mark.parametrize("text", ["", "{", '{"format": 2}', "\0" * 2000])
def test_a_damaged_manifest_is_found(avatars: Path, cache: PackCache[AvatarPack], text: str) -> None:
    cache.get("may")
    (avatars / "may" / "avatar.json").write_text(text)
    assert "avatar.json" in complaint(cache)
    restore(avatars)
    cache.get("may")


def test_a_manifest_that_is_deleted_makes_the_avatar_unknown(
    avatars: Path, cache: PackCache[AvatarPack]
) -> None:
    cache.get("may")
    (avatars / "may" / "avatar.json").unlink()
    with pytest.raises(UnknownAvatarError):
        cache.get("may")


def test_files_that_were_only_touched_are_read_and_found_sound(
    avatars: Path, cache: PackCache[AvatarPack]
) -> None:
    jpeg = cache.get("may").frame_jpeg(0)
    for name in FILES:
        (avatars / "may" / f"{name}.npy").touch()
    assert cache.get("may").frame_jpeg(0) == jpeg


def test_an_untouched_pack_is_opened_without_reading_it_whole(
    avatars: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def counted(path: Path) -> str:
        read.append(path.name)
        return file_sha256(path)

    monkeypatch.setattr(pack_module, "file_sha256", counted)
    AvatarPack(avatars / "may")
    assert read == []
    (avatars / "may" / "faces.npy").touch()
    AvatarPack(avatars / "may")
    assert read == ["faces.npy"]


def test_a_failed_opening_is_not_repeated_until_a_file_changes(avatars: Path) -> None:
    openings: list[Path] = []

    class Counted(AvatarPack):
        def __init__(self, folder: Path) -> None:
            openings.append(folder)
            super().__init__(folder)

    cache = PackCache(Counted, avatars, 1 << 30)
    flip(avatars / "may" / "faces.npy")
    said = {complaint(cache) for _ in range(20)}
    assert len(said) == 1
    assert len(openings) == 1
    restore(avatars)
    cache.get("may")
    assert len(openings) == 2


def test_a_failed_opening_is_tried_again_after_a_while_however_often_it_is_asked_for(
    avatars: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = PackCache(AvatarPack, avatars, 1 << 30, idle_s=60)
    clock_s = [1000.0]
    monkeypatch.setattr(pack_module, "time", SimpleNamespace(monotonic=lambda: clock_s[0]))
    with monkeypatch.context() as failing:
        failing.setattr(pack_module, "file_sha256", lambda path: "0" * 64)
        (avatars / "may" / "faces.npy").touch()
        assert "is damaged" in complaint(cache)
    for _ in range(3):
        clock_s[0] += 19
        assert "is damaged" in complaint(cache)
    clock_s[0] += 19
    assert cache.get("may").frames == FRAMES


@pytest.mark.parametrize("name", ["faces", "scan_data", "idle_offsets"])
def test_nothing_stays_mapped_of_a_pack_that_could_not_be_opened(
    avatars: Path, cache: PackCache[AvatarPack], name: str
) -> None:
    cache.get("may")
    flip(avatars / "may" / f"{name}.npy")
    gc.collect()
    gc.disable()  # a process at rest does not collect either
    try:
        complaint(cache)
        assert str(avatars / "may") not in Path("/proc/self/maps").read_text()
    finally:
        gc.enable()


def test_a_failure_that_no_file_shows_is_tried_again(
    avatars: Path, cache: PackCache[AvatarPack], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object, **_options: object) -> None:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as failing:
        failing.setattr(mmap, "mmap", fail)
        assert "Too many open files" in complaint(cache)
    assert cache.get("may").frames == FRAMES


def test_files_that_never_stay_the_same_are_not_waited_for(avatars: Path) -> None:
    class Disturbed(AvatarPack):
        def __init__(self, folder: Path) -> None:
            if disturbing:
                grow(folder / "region_data.npy")
            super().__init__(folder)

    disturbing = True
    cache = PackCache(Disturbed, avatars, 1 << 30)
    assert complaint(cache).endswith("may is being written to")
    restore(avatars)
    disturbing = False
    cache.get("may")


def test_what_is_made_while_a_file_is_changed_does_not_get_out(
    avatars: Path, cache: PackCache[AvatarPack]
) -> None:
    def work(pack: AvatarPack) -> bytes:
        jpeg = pack.frame_jpeg(0)
        flip(avatars / "may" / "scan_data.npy")
        return jpeg

    with pytest.raises(DamagedAvatarError) as caught:
        cache.use("may", work)
    assert "scan_data.npy is damaged" in str(caught.value.__cause__)


def test_work_that_fails_over_damaged_files_fails_for_that_reason(
    avatars: Path, cache: PackCache[AvatarPack]
) -> None:
    def work(pack: AvatarPack) -> None:
        flip(avatars / "may" / "scan_offsets.npy")
        raise IndexError

    with pytest.raises(DamagedAvatarError) as caught:
        cache.use("may", work)
    assert "scan_offsets.npy is damaged" in str(caught.value.__cause__)


def test_work_on_an_avatar_that_is_imported_again_is_done_again(
    avatars: Path, cache: PackCache[AvatarPack]
) -> None:
    worked: list[AvatarPack] = []

    def work(pack: AvatarPack) -> int:
        worked.append(pack)
        if len(worked) == 1:
            restore(avatars)
        return len(worked)

    assert cache.use("may", work) == 2
    assert worked[1] is cache.get("may")


def test_what_was_made_of_an_avatar_that_is_taken_away_is_sound(
    avatars: Path, cache: PackCache[AvatarPack]
) -> None:
    def work(pack: AvatarPack) -> list[bytes]:
        (avatars / "may").rename(avatars.parent / "gone")
        return compose(pack, np.array([0]), mouths(1, 160), keys(1))

    (jpeg,) = cache.use("may", work)
    assert jpeg.startswith(b"\xff\xd8")
    with pytest.raises(UnknownAvatarError):
        cache.get("may")


CUT_WHILE_OPEN = """
import os, sys
from pathlib import Path
from compositor_backend.errors import PackError
from compositor_backend.pack import AvatarPack, PackCache
cache = PackCache(AvatarPack, Path(sys.argv[1]), 1 << 30)
pack = cache.get("may")
os.truncate(pack.folder / "faces.npy", 0)
if sys.argv[2] == "look":
    try:
        pack = cache.get("may")
    except PackError:
        sys.exit(3)
print(pack.faces.sum())
"""


@pytest.mark.parametrize(("way", "status"), [("look", 3), ("go on", -7)], ids=["looked at", "not looked at"])
def test_a_file_cut_short_would_end_a_process_that_does_not_look(
    avatars: Path, way: str, status: int
) -> None:
    root = Path(pack_module.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", CUT_WHILE_OPEN, str(avatars), way], cwd=root, capture_output=True, check=False
    )
    assert done.returncode == status, done.stderr
