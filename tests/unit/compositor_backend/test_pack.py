from __future__ import annotations

import dataclasses
import gc
import io
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import simplejpeg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from compositor_backend import pack as pack_module
from compositor_backend.compositor import compose
from compositor_backend.errors import AvatarIdError, DamagedAvatarError, PackError, UnknownAvatarError
from compositor_backend.manifest import PACK_FILES, FileEntry, Manifest
from compositor_backend.pack import AvatarPack, PackCache, file_sha256
from compositor_backend.settings import DEFAULT_PACK_IDLE_S
from tests.support.scenes import Box, Pixels, keys, mouths, textured, write_avatar

PATIENCE_S = 20.0
FRAMES: list[Pixels] = [textured(150, 100, seed) for seed in range(3)]
BOXES: list[Box] = [(40, 30, 101, 91), (0, 0, 60, 60), (90, 40, 150, 100)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_avatar(tmp_path, FRAMES, BOXES, family="160")


def rewrite(folder: Path, name: str, change: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
    """Change an array and make the manifest agree with the new file, so that only its content is wrong."""
    path = folder / f"{name}.npy"
    array = change(np.load(path))
    np.save(path, array)
    entry = FileEntry(path.stat().st_size, file_sha256(path), array.dtype.name, array.shape)
    manifest = Manifest.load(folder)
    dataclasses.replace(manifest, files={**manifest.files, name: entry}).save(folder)


AROUND_THE_CLOCK = [2**62, 2**63 - 1, -(2**62), -5]
"""Rises at every step, if a step is taken for what 64 bits make of it."""


def put(index: Any, value: int | list[int]) -> Callable[[NDArray[Any]], NDArray[Any]]:
    def change(array: NDArray[Any]) -> NDArray[Any]:
        array[index] = value
        return array

    return change


def pillow_jpeg(frame: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "JPEG", quality=75, subsampling="4:2:0")
    return file.getvalue()


def test_a_pack_holds_what_was_imported(folder: Path) -> None:
    with AvatarPack(folder) as pack:
        assert pack.frames == 3
        assert pack.rects.tolist() == [list(box) for box in BOXES]
        assert pack.faces.shape == (3, 3, 160, 160)
        for number, frame in enumerate(FRAMES):
            x1, y1, x2, y2 = pack.regions[number].box
            np.testing.assert_array_equal(pack.region_pixels(number), frame[y1:y2, x1:x2])
            ours = simplejpeg.decode_jpeg(pack.frame_jpeg(number))
            np.testing.assert_array_equal(ours, simplejpeg.decode_jpeg(pillow_jpeg(frame)))
        pack.verify()
        assert pack.nbytes == sum((folder / f"{name}.npy").stat().st_size for name in PACK_FILES)


def test_arrays_cannot_be_written_to(folder: Path) -> None:
    with AvatarPack(folder) as pack:
        for array in (pack.faces, pack.rects, pack.scan_offsets, pack.region_pixels(0)):
            assert not array.flags.writeable
        assert pack.scan.readonly


def test_files_are_mapped_not_read(folder: Path) -> None:
    with AvatarPack(folder) as pack:
        mapped = Path("/proc/self/maps").read_text()
        for name in ("faces", "rects", "scan_data", "scan_offsets", "region_data"):
            assert str(folder / f"{name}.npy") in mapped
        del pack


def test_close_unmaps(folder: Path) -> None:
    pack = AvatarPack(folder)
    pack.close()
    gc.collect()
    assert str(folder) not in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize("name", PACK_FILES)
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / f"{name}.npy").unlink()
    with pytest.raises(PackError, match=rf"{name}\.npy cannot be opened"):
        AvatarPack(folder)


@pytest.mark.parametrize("name", PACK_FILES)
def test_a_file_cut_off_is_named(folder: Path, name: str) -> None:
    path = folder / f"{name}.npy"
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(PackError, match=rf"{name}\.npy is \d+ bytes long; \d+ are wanted"):
        AvatarPack(folder)


@pytest.mark.parametrize("name", PACK_FILES)
def test_a_file_of_another_kind_is_refused(folder: Path, name: str) -> None:
    path = folder / f"{name}.npy"
    path.write_bytes(b"x" * path.stat().st_size)
    (folder / "avatar.json").touch()
    with pytest.raises(PackError, match=rf"{name}\.npy is not a \.npy file of u?int\d+ \["):
        AvatarPack(folder)


def test_columns_first_is_refused(folder: Path) -> None:
    np.save(folder / "rects.npy", np.asfortranarray(np.load(folder / "rects.npy")))
    (folder / "avatar.json").touch()
    with pytest.raises(PackError, match=r"rects\.npy is not a \.npy file of int32 \[3, 4\], rows first"):
        AvatarPack(folder)


def test_pickled_objects_are_never_loaded(folder: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path(tmp_path / "sprung").touch, ())

    rewritten = folder / "rects.npy"
    np.save(rewritten, np.array([[Trap()] * 4] * 3, object), allow_pickle=True)
    size = rewritten.stat().st_size
    manifest = Manifest.load(folder)
    entry = FileEntry(size, file_sha256(rewritten), "object", (3, 4))
    dataclasses.replace(manifest, files={**manifest.files, "rects": entry}).save(folder)
    with pytest.raises(PackError, match="rects"):
        AvatarPack(folder)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("name", "change", "complaint"),
    [
        ("faces", lambda a: a[:2], r"faces\.npy holds uint8 \[2, 3, 160, 160\]; uint8 \[3, 3, 160, 160\]"),
        ("faces", lambda a: a.astype(np.int8), r"faces\.npy holds int8"),
        ("rects", lambda a: a.astype(np.int64), r"rects\.npy holds int64 \[3, 4\]; int32 \[3, 4\] is wanted"),
        ("rects", lambda a: a.T.copy(), r"rects\.npy holds int32 \[4, 3\]"),
        (
            "rects",
            put((1, 2), 151),
            r"rects\.npy, frame 1: the face box .* is not inside the frame of 150x100",
        ),
        ("rects", put((1, 0), 60), r"rects\.npy, frame 1: the face box .* is empty"),
        ("rects", put((1, 1), -1), r"rects\.npy, frame 1: .* is not inside"),
        ("region_boxes", put((2, 3), 96), r"region_boxes\.npy, frame 2"),
        ("region_data", lambda a: a[:-1], r"region_data\.npy holds \d+ bytes; \d+ are wanted"),
        ("scan_offsets", lambda a: a[:, :-1].copy(), r"scan_offsets\.npy holds int64 \[3, \d+\]"),
        ("scan_offsets", put((0, 0), -1), r"scan_offsets\.npy falls or leaves"),
        ("scan_offsets", put((2, -1), 10**6), r"scan_offsets\.npy falls or leaves"),
        ("scan_offsets", put((1, 3), 0), r"scan_offsets\.npy falls or leaves"),
        ("scan_offsets", put((1, 3), -(2**63)), r"scan_offsets\.npy falls or leaves"),
        ("scan_offsets", put((1, 3), 2**63 - 1), r"scan_offsets\.npy falls or leaves"),
        ("scan_offsets", put((1, slice(2, 6)), AROUND_THE_CLOCK), r"scan_offsets\.npy falls or leaves"),
        ("jpeg_header", put(0, 0), r"jpeg_header\.npy: a JPEG header does not start with SOI"),
        ("jpeg_header", lambda a: a[:-5], r"jpeg_header\.npy: a JPEG header is cut off"),
        ("jpeg_header", put(30, 99), r"jpeg_header\.npy has other tables"),
    ],
)
def test_damage_is_found_and_named(
    folder: Path, name: str, change: Callable[[NDArray[Any]], NDArray[Any]], complaint: str
) -> None:
    rewrite(folder, name, change)
    with pytest.raises(PackError, match=complaint):
        AvatarPack(folder)


def test_a_header_of_another_size_is_refused(folder: Path, tmp_path: Path) -> None:
    other = write_avatar(tmp_path / "other", [textured(144, 100, 1)], [(0, 0, 50, 50)], family="160")
    rewrite(folder, "jpeg_header", lambda _: np.load(other / "jpeg_header.npy"))
    with pytest.raises(PackError, match=r"jpeg_header\.npy is of frames of 144x100 px; 150x100 is wanted"):
        AvatarPack(folder)


def test_verify_finds_segments_that_are_cut_elsewhere(folder: Path) -> None:
    rewrite(folder, "scan_offsets", lambda offsets: offsets - (np.arange(offsets.shape[1]) == 3))
    with (
        AvatarPack(folder) as pack,
        pytest.raises(PackError, match="frame 0 is not cut at its restart markers"),
    ):
        pack.verify()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(PACK_FILES), place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_no_damaged_byte_does_more_than_spoil_pixels(
    folder: Path, name: str, place: float, flip: int
) -> None:
    """Any byte of any file, changed without a later time than the manifest's, as a bad disk does it.

    Either the pack is refused, or frames come out; and `verify` always finds it.
    """
    path = folder / f"{name}.npy"
    sound = path.read_bytes()
    damaged = bytearray(sound)
    damaged[int(place * len(damaged))] ^= flip
    path.write_bytes(damaged)
    (folder / "avatar.json").touch()
    try:
        with pytest.raises(PackError):
            use_and_verify(folder)
    finally:
        path.write_bytes(sound)


def use_and_verify(folder: Path) -> None:
    with AvatarPack(folder) as pack:
        jpegs = compose(pack, np.arange(3), mouths(3, 160), keys(3))
        assert all(jpeg.startswith(b"\xff\xd8") for jpeg in jpegs)
        pack.verify()


def add_avatar(avatars: Path, avatar_id: str, seed: int = 0) -> Path:
    return write_avatar(avatars, [textured(64, 48, seed)], [(10, 10, 40, 40)], avatar_id, family="160")


def test_the_cache_opens_a_pack_once(tmp_path: Path) -> None:
    add_avatar(tmp_path, "ann")
    cache = PackCache(AvatarPack, tmp_path, 1 << 30)
    assert cache.get("ann") is cache.get("ann")
    assert cache.nbytes == cache.get("ann").nbytes


@pytest.mark.parametrize("avatar_id", ["../x", "", "a" * 300, "Ann", "a/b", ".", "ann\n", "-ann"])
def test_no_path_is_built_from_a_malformed_id(tmp_path: Path, avatar_id: str) -> None:
    shutil.copytree(add_avatar(tmp_path / "in", "x"), tmp_path / "in" / "y" / "x")
    with pytest.raises(AvatarIdError, match="is not an avatar id"):
        PackCache(AvatarPack, tmp_path / "in", 1 << 30).get(avatar_id)


def test_an_unknown_avatar_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownAvatarError, match="AVATAR 'bob' is not on this server"):
        PackCache(AvatarPack, tmp_path, 1 << 30).get("bob")


def test_a_pack_of_another_avatar_is_refused(tmp_path: Path) -> None:
    add_avatar(tmp_path, "ann").rename(tmp_path / "bob")
    with pytest.raises(DamagedAvatarError) as caught:
        PackCache(AvatarPack, tmp_path, 1 << 30).get("bob")
    assert "is of the avatar 'ann'" in str(caught.value.__cause__)


def test_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        add_avatar(tmp_path, name)
    cache = PackCache(AvatarPack, tmp_path, int(2.5 * AvatarPack(tmp_path / "a").nbytes))
    first, second = cache.get("a"), cache.get("b")
    assert cache.get("a") is first
    cache.get("c")
    assert cache.get("a") is first
    assert cache.get("b") is not second


def test_packs_leave_the_process_half_of_its_open_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"a{number}" for number in range(12)]
    for name in names:
        add_avatar(tmp_path, name)

    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    cache = PackCache(AvatarPack, tmp_path, 1 << 40)
    first, before = cache.get(names[0]), open_files()
    monkeypatch.setattr("resource.getrlimit", lambda _which: (100, 100))
    for name in names[1:]:
        cache.get(name)
        assert open_files() <= before + 50
    assert cache.get(names[-1]) is cache.get(names[-1])
    assert cache.get(names[0]) is not first


def test_an_evicted_pack_lives_on_while_it_is_held(tmp_path: Path) -> None:
    for name in ("a", "b"):
        add_avatar(tmp_path, name)
    cache = PackCache(AvatarPack, tmp_path, 1)
    held = cache.get("a")
    assert cache.get("b") is cache.get("b")
    assert cache.nbytes == cache.get("b").nbytes
    (jpeg,) = compose(held, np.array([0]), mouths(1, 160), keys(1))
    assert simplejpeg.decode_jpeg(jpeg).shape == (48, 64, 3)


def test_an_avatar_imported_again_is_opened_anew(tmp_path: Path) -> None:
    live = add_avatar(tmp_path / "live", "ann", seed=1)
    cache = PackCache(AvatarPack, tmp_path / "live", 1 << 30)
    old = cache.get("ann")
    old_jpeg = old.frame_jpeg(0)
    fresh = add_avatar(tmp_path / "fresh", "ann", seed=2)
    live.rename(tmp_path / "gone")
    fresh.rename(live)
    shutil.rmtree(tmp_path / "gone")
    new = cache.get("ann")
    assert new is not old
    assert new.frame_jpeg(0) != old_jpeg
    assert old.frame_jpeg(0) == old_jpeg


def test_an_avatar_removed_is_unknown(tmp_path: Path) -> None:
    folder = add_avatar(tmp_path, "ann")
    cache = PackCache(AvatarPack, tmp_path, 1 << 30)
    cache.get("ann")
    shutil.rmtree(folder)
    with pytest.raises(UnknownAvatarError):
        cache.get("ann")
    assert cache.nbytes == 0


def test_a_damaged_avatar_harms_no_other(tmp_path: Path) -> None:
    add_avatar(tmp_path, "good")
    (add_avatar(tmp_path, "bad") / "faces.npy").unlink()
    cache = PackCache(AvatarPack, tmp_path, 1 << 30)
    good = cache.get("good")
    with pytest.raises(DamagedAvatarError, match=r"^AVATAR 'bad' is damaged on this server$"):
        cache.get("bad")
    assert cache.get("good") is good


def is_mapped(folder: Path) -> bool:
    return str(folder) in Path("/proc/self/maps").read_text()


def wait_until(done: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not done():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_a_pack_that_nobody_asks_for_is_unmapped_though_no_request_comes(tmp_path: Path) -> None:
    folders = [add_avatar(tmp_path, name) for name in ("a", "b")]
    cache = PackCache(AvatarPack, tmp_path, 1 << 30, idle_s=0.2)
    before = [cache.get(name).frame_jpeg(0) for name in ("a", "b")]
    wait_until(lambda: not any(is_mapped(folder) for folder in folders))
    assert cache.nbytes == 0
    assert [cache.get(name).frame_jpeg(0) for name in ("a", "b")] == before


def test_a_pack_that_nobody_asks_for_is_unmapped_while_others_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    idle, busy = (add_avatar(tmp_path, name) for name in ("idle", "busy"))
    clock_s = [1000.0]
    monkeypatch.setattr(pack_module, "time", SimpleNamespace(monotonic=lambda: clock_s[0]))
    cache = PackCache(AvatarPack, tmp_path, 1 << 30)
    cache.get("idle")
    pack = cache.get("busy")
    for _ in range(3):
        clock_s[0] += DEFAULT_PACK_IDLE_S * 0.4
        assert cache.get("busy") is pack
        assert is_mapped(idle) == (clock_s[0] < 1000 + DEFAULT_PACK_IDLE_S)
    assert not is_mapped(idle)
    assert is_mapped(busy)


def test_packs_are_unmapped_with_their_cache(tmp_path: Path) -> None:
    folder = add_avatar(tmp_path, "ann")
    cache = PackCache(AvatarPack, tmp_path, 1 << 30, idle_s=3600)
    cache.get("ann")
    assert is_mapped(folder)
    del cache
    assert not is_mapped(folder)


def test_a_pack_in_use_is_not_pulled_away(tmp_path: Path) -> None:
    folder = add_avatar(tmp_path, "ann")
    cache = PackCache(AvatarPack, tmp_path, 1 << 30, idle_s=0.01)
    held = cache.get("ann")
    wait_until(lambda: cache.nbytes == 0)
    (jpeg,) = compose(held, np.array([0]), mouths(1, 160), keys(1))
    assert simplejpeg.decode_jpeg(jpeg).shape == (48, 64, 3)
    faces = held.faces
    del held
    assert faces.any()
    del faces
    assert not is_mapped(folder)


def test_packs_may_go_idle_while_threads_ask_for_them(tmp_path: Path) -> None:
    for name in ("a", "b"):
        add_avatar(tmp_path, name)
    cache = PackCache(AvatarPack, tmp_path, 1 << 30, idle_s=0.0005)
    expected = {name: AvatarPack(tmp_path / name).frame_jpeg(0) for name in ("a", "b")}
    wrong: list[str] = []

    def work(name: str) -> None:
        for _ in range(100):
            if cache.use(name, lambda pack: pack.frame_jpeg(0)) != expected[name]:
                wrong.append(name)

    threads = [threading.Thread(target=work, args=("ab"[n % 2],)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_threads_share_one_pack(tmp_path: Path) -> None:
    for name in ("a", "b"):
        add_avatar(tmp_path, name)
    cache = PackCache(AvatarPack, tmp_path, 1 << 30)
    start = threading.Barrier(8)
    found: list[AvatarPack] = []

    def work(name: str) -> None:
        start.wait()
        found.append(cache.get(name))

    threads = [threading.Thread(target=work, args=("ab"[n % 2],)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len({id(pack) for pack in found}) == 2
