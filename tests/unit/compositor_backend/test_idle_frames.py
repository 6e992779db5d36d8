from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from compositor_backend.compositor import changed_region, compose
from compositor_backend.errors import (
    NoIdleFramesError,
    PackError,
    TensorError,
    UnknownAvatarError,
    WrongNetworkError,
)
from compositor_backend.idle_frames import IdleFrames
from compositor_backend.manifest import Manifest
from compositor_backend.pack import AvatarPack, PackCache
from export.pack_writer import write_idle
from tests.support.scenes import KEY, keys, mouths, textured, write_avatar
from tests.unit.compositor_backend.test_compositor import assert_same_part, ffmpeg_planes
from tests.unit.compositor_backend.test_pack import rewrite

FRAMES = 11
BOXES = [(30 + 9 * n, 20 + n, 90 + 9 * n, 80 + n) for n in range(FRAMES)]
MOUTHS = mouths(FRAMES, 160)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An avatar whose regions lie in different segments and are not equally wide, with idle frames."""
    frames = [textured(320, 107, seed) for seed in range(FRAMES)]
    made = write_avatar(tmp_path, frames, BOXES, family="160")
    write_idle(made, [MOUTHS[:4], MOUTHS[4:]])
    return made


def ask(
    folder: Path, *positions: int, avatar: bytes = b"ann", wanted: tuple[str, ...] = ("JPEG", "RECT")
) -> dict[str, NDArray[Any]]:
    model = IdleFrames(PackCache(AvatarPack, folder.parent, 1 << 30))
    inputs = {"AVATAR": np.array([avatar], object), "FRAME_INDEX": np.array(positions, np.int32)}
    return model(inputs, frozenset(wanted))


def test_a_frame_is_what_the_compositor_makes_of_its_mouth(folder: Path) -> None:
    answer = ask(folder, *range(FRAMES + 3))
    with AvatarPack(folder) as pack:
        assert len({region.width for region in pack.regions}) > 1
        composed = compose(pack, np.arange(FRAMES), MOUTHS, keys(FRAMES))
    assert answer["JPEG"].tolist() == [*composed, *composed[-2:-5:-1]]
    assert answer["RECT"].tolist() == [list(box) for box in [*BOXES, *BOXES[-2:-5:-1]]]


def test_a_region_is_the_frames_own_part(folder: Path) -> None:
    """And holds what `avatar` changes of that frame, so that either can be drawn over the other."""
    answer = ask(folder, *range(FRAMES), wanted=("JPEG", "REGION", "REGION_RECT"))
    with AvatarPack(folder) as pack:
        for number, (jpeg, region, box) in enumerate(
            zip(answer["JPEG"], answer["REGION"], answer["REGION_RECT"].tolist(), strict=True)
        ):
            assert_same_part(region, tuple(box), ffmpeg_planes(jpeg))
            x1, y1, x2, y2 = changed_region(pack, number).box
            assert (box[0] <= x1, box[1] <= y1, x2 <= box[2], y2 <= box[3]) == (True,) * 4


def test_boxes_need_no_idle_frames(tmp_path: Path) -> None:
    folder = write_avatar(tmp_path, [textured(64, 48, 1)], [(10, 10, 40, 40)], family="160")
    answer = ask(folder, 0, 1, wanted=("RECT", "REGION_RECT"))
    assert answer["RECT"].tolist() == [[10, 10, 40, 40]] * 2
    assert answer["REGION_RECT"].tolist() == [[0, 0, 64, 48]] * 2
    with pytest.raises(NoIdleFramesError):
        ask(folder, 0, wanted=("REGION",))


def test_an_avatar_without_them_is_named(tmp_path: Path) -> None:
    folder = write_avatar(tmp_path, [textured(64, 48, 1)], [(10, 10, 40, 40)], family="160")
    with pytest.raises(NoIdleFramesError, match="AVATAR 'ann' has no idle frames"):
        ask(folder, 0)


def change_manifest(folder: Path, **changes: Any) -> None:
    dataclasses.replace(Manifest.load(folder), **changes).save(folder)


@pytest.mark.parametrize(
    ("changes", "came", "wanted"), [({"network_key": 5}, KEY, 5), ({"idle_key": 7}, 7, KEY)]
)
def test_frames_that_another_network_drew_are_an_error(
    folder: Path, changes: dict[str, int], came: int, wanted: int
) -> None:
    change_manifest(folder, **changes)
    with pytest.raises(
        WrongNetworkError,
        match=f"expected AVATAR_KEY {wanted}, got {came}",
    ):
        ask(folder, 0)


def test_bad_requests_are_refused(folder: Path) -> None:
    with pytest.raises(UnknownAvatarError, match="'bob'"):
        ask(folder, 0, avatar=b"bob")
    with pytest.raises(TensorError, match="start at 0"):
        ask(folder, -1)


@pytest.mark.parametrize("given", [MOUTHS[:-1], np.concatenate([MOUTHS, MOUTHS[:1]]), MOUTHS[:0]])
def test_as_many_mouths_as_frames_are_wanted(tmp_path: Path, given: NDArray[np.uint8]) -> None:
    frames = [textured(320, 107, seed) for seed in range(FRAMES)]
    folder = write_avatar(tmp_path, frames, BOXES, family="160")
    before = {path.name for path in folder.iterdir()}
    with pytest.raises(PackError, match=rf"mouths came for .*; {FRAMES} are wanted"):
        write_idle(folder, [given])
    assert {path.name for path in folder.iterdir()} == before
    with AvatarPack(folder) as pack:
        assert not pack.has_idle


def cut_short(offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    return offsets[:-1]


def beyond(offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.append(offsets[:-1], offsets[-1] + 1)


def swapped(offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    changed = offsets.copy()
    changed[[3, 4]] = changed[[4, 3]]
    return changed


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (cut_short, r"idle_offsets\.npy holds int64 \[\d+\]; int64 \[\d+\] is wanted"),
        (beyond, r"idle_offsets\.npy falls or leaves the \d+ bytes of data"),
        (swapped, r"idle_offsets\.npy falls or leaves"),
    ],
)
def test_damage_is_found_when_the_pack_is_opened(
    folder: Path, change: Callable[[NDArray[Any]], NDArray[Any]], sentence: str
) -> None:
    rewrite(folder, "idle_offsets", change)
    with pytest.raises(PackError, match=sentence):
        AvatarPack(folder)


def test_the_checksums_cover_them(folder: Path) -> None:
    path = folder / "idle_data.npy"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    (folder / "avatar.json").touch()
    with AvatarPack(folder) as pack, pytest.raises(PackError, match=r"idle_data\.npy is damaged"):
        pack.verify()


def test_one_file_without_the_other_is_refused(folder: Path) -> None:
    text = (folder / "avatar.json").read_text()
    (folder / "avatar.json").write_text(text.replace('"idle_offsets"', '"idle_other"'))
    with pytest.raises(PackError, match="unknown field 'idle_other'"):
        AvatarPack(folder)
