from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compositor_backend.catalog import Catalog
from compositor_backend.errors import AvatarIdError, DamagedAvatarError, TensorError, UnknownAvatarError
from compositor_backend.manifest import Manifest
from tests.support.scenes import textured, write_avatar

ALL = frozenset({"MANIFEST"})


def add(avatars: Path, avatar_id: str, **changes: Any) -> Path:
    return write_avatar(avatars, [textured(64, 48, 1)], [(10, 10, 40, 40)], avatar_id, **changes)


def listed(catalog: Catalog, **inputs: int) -> list[str]:
    tensors = {name: np.array([value], np.int32) for name, value in inputs.items()}
    return [json.loads(entry)["id"] for entry in catalog(tensors, ALL)["MANIFEST"]]


def one(catalog: Catalog, avatar: bytes) -> dict[str, Any]:
    (entry,) = catalog({"AVATAR": np.array([avatar], object)}, ALL)["MANIFEST"]
    found: dict[str, Any] = json.loads(entry)
    return found


def test_what_is_on_disk_is_the_truth(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path)
    assert listed(catalog) == []
    for avatar_id in ("cat", "ann", "bob"):
        add(tmp_path, avatar_id)
    assert listed(catalog) == ["ann", "bob", "cat"]
    shutil.rmtree(tmp_path / "bob")
    assert listed(catalog) == ["ann", "cat"]
    assert listed(Catalog(tmp_path / "gone")) == []


def test_what_is_no_avatar_is_left_out(tmp_path: Path) -> None:
    add(tmp_path, "ann")
    for name in (".staging-x", "No-Id", "empty"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").touch()
    add(tmp_path, "damaged")
    (tmp_path / "damaged" / "avatar.json").write_text("{")
    add(tmp_path, "other").rename(tmp_path / "renamed")
    assert listed(Catalog(tmp_path)) == ["ann"]


def test_pages_cover_all_of_them_once(tmp_path: Path) -> None:
    for number in range(7):
        add(tmp_path, f"a{number}")
    catalog = Catalog(tmp_path)
    pages = [listed(catalog, OFFSET=offset, LIMIT=3) for offset in (0, 3, 6, 9)]
    assert [len(page) for page in pages] == [3, 3, 1, 0]
    assert [avatar for page in pages for avatar in page] == [f"a{number}" for number in range(7)]


def test_pages_do_not_shift_by_what_is_damaged(tmp_path: Path) -> None:
    for name in "abcdef":
        add(tmp_path, name)
    for name in "ac":
        (tmp_path / name / "avatar.json").write_text("{")
    catalog = Catalog(tmp_path)
    assert [listed(catalog, OFFSET=offset, LIMIT=2) for offset in (0, 2, 4)] == [["b", "d"], ["e", "f"], []]
    assert listed(catalog, OFFSET=2**31 - 1) == []


def test_manifests_are_read_once_and_again_where_they_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def load(folder: Path) -> Manifest:
        read.append(folder.name)
        return Manifest.from_json((folder / "avatar.json").read_text())

    for name in ("ann", "bob", "cat"):
        add(tmp_path, name)
    catalog = Catalog(tmp_path)
    monkeypatch.setattr("compositor_backend.catalog.Manifest.load", load)
    assert listed(catalog) == listed(catalog) == ["ann", "bob", "cat"]
    assert read == ["ann", "bob", "cat"]
    shutil.rmtree(tmp_path / "bob")
    (tmp_path / "cat" / "avatar.json").write_text("{")
    assert listed(catalog) == ["ann"]
    (tmp_path / "cat" / "avatar.json").unlink()
    add(tmp_path / "new", "cat").joinpath("avatar.json").rename(tmp_path / "cat" / "avatar.json")
    assert listed(catalog) == ["ann", "cat"]
    assert read[3:] == ["cat", "cat"]


def test_an_avatar_is_described(tmp_path: Path) -> None:
    add(tmp_path, "ann")
    assert one(Catalog(tmp_path), b"ann") == {
        "id": "ann", "width": 64, "height": 48, "fps": 25, "frames": 1, "family": "328", "audio_mode": "ave",
        "audio_shape": [32, 16, 16], "takes_pcm": True, "idle_frames": False,
    }  # fmt: skip


def test_one_that_is_asked_for_is_named_in_errors(tmp_path: Path) -> None:
    add(tmp_path, "ann")
    (tmp_path / "ann" / "avatar.json").write_text("{")
    catalog = Catalog(tmp_path)
    with pytest.raises(DamagedAvatarError, match="'ann'"):
        one(catalog, b"ann")
    with pytest.raises(UnknownAvatarError, match="'bob'"):
        one(catalog, b"bob")
    (tmp_path / "file").touch()
    with pytest.raises(UnknownAvatarError, match="'file'"):
        one(catalog, b"file")
    with pytest.raises(AvatarIdError):
        one(catalog, b"../x")


@pytest.mark.parametrize("inputs", [{"LIMIT": 0}, {"LIMIT": 1001}, {"OFFSET": -1}])
def test_numbers_out_of_range_are_refused(tmp_path: Path, inputs: dict[str, int]) -> None:
    with pytest.raises(TensorError, match=next(iter(inputs))):
        listed(Catalog(tmp_path), **inputs)
    with pytest.raises(TensorError, match="int64"):
        Catalog(tmp_path)({"LIMIT": np.array([1])}, ALL)
