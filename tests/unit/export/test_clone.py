from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from PIL import Image

from compositor_backend.compositor import compose
from compositor_backend.errors import LipstreamError
from compositor_backend.manifest import MANIFEST_NAME, Manifest
from compositor_backend.pack import AvatarPack
from export.avatar import NetworkSource, build_avatar
from export.check import check_avatars
from export.clone import TINT, clone_avatars, clone_colour, clone_ids
from export.deep_check import check_avatar_deeply
from export.errors import ExportError
from export.frames import open_frames
from tests.support.avatar_sources import BOXES, HEIGHT, KEY, WIDTH, Sources, network_graph

IDS = ["ann-00001", "ann-00002", "ann-00003"]
RECOLOURED = {"jpeg_header.npy", "scan_data.npy", "scan_offsets.npy"}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    """The avatar ``ann``."""
    sources = Sources.write(tmp_path_factory.mktemp("sources"))
    build_avatar(sources.settings(stamp="note"), open_frames(sources.frames), BOXES)
    return sources


@pytest.fixture(params=[False, True], ids=["links", "recoloured"])
def recolour(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def avatars(sources: Sources, tmp_path: Path) -> Path:
    """A folder with ``ann``, to be changed."""
    return Path(shutil.copytree(sources.avatars, tmp_path / "avatars"))


def shown(avatars: Path) -> set[str]:
    return {path.name for path in avatars.glob("[!.]*")}


def inodes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in folder.iterdir()}


def decoded(jpeg: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(jpeg)) as picture:
        return np.asarray(picture.convert("RGB"))


def comment(jpeg: bytes) -> str:
    with Image.open(io.BytesIO(jpeg)) as picture:
        return bytes(picture.info.get("comment", b"")).decode()


# --- what a clone is ---
def test_clones_are_whole_avatars(avatars: Path, recolour: bool) -> None:
    clone_avatars(avatars, "ann", IDS, recolour=recolour)
    assert shown(avatars) == {"ann", *IDS}
    findings = list(check_avatars(avatars, check_avatar_deeply))
    assert [finding for finding in findings if not finding.good] == []
    assert {finding.avatar for finding in findings} == {"ann", *IDS}
    for avatar_id in IDS:
        manifest = Manifest.load(avatars / avatar_id)
        assert (manifest.id, manifest.network_key, manifest.idle_key) == (avatar_id, KEY, KEY)


def test_all_but_the_manifest_is_a_link(avatars: Path) -> None:
    clone_avatars(avatars, "ann", IDS)
    original = inodes(avatars / "ann")
    for avatar_id in IDS:
        found = inodes(avatars / avatar_id)
        assert found.pop(MANIFEST_NAME) != original[MANIFEST_NAME]
        assert found == {
            name: inode for name, inode in original.items() if name not in (MANIFEST_NAME, "stamp.txt")
        }


def test_of_a_recoloured_clone_only_the_frames_data_is_new(avatars: Path) -> None:
    clone_avatars(avatars, "ann", IDS, recolour=True)
    original = inodes(avatars / "ann")
    for avatar_id in IDS:
        found = inodes(avatars / avatar_id)
        changed = {name for name, inode in found.items() if inode != original[name]}
        assert changed == {MANIFEST_NAME, *RECOLOURED}


def test_a_recoloured_clone_has_its_colour_around_the_face(avatars: Path) -> None:
    clone_avatars(avatars, "ann", IDS, recolour=True)
    assert len({clone_colour(avatar_id) for avatar_id in IDS}) == 3
    with AvatarPack(avatars / "ann") as ann:
        for avatar_id in IDS:
            with AvatarPack(avatars / avatar_id) as pack:
                assert_recoloured(pack, ann, clone_colour(avatar_id))


def assert_recoloured(pack: AvatarPack, original: AvatarPack, colour: tuple[int, int, int]) -> None:
    for frame in range(pack.frames):
        plain, found = (decoded(p.frame_jpeg(frame)).astype(float) for p in (original, pack))
        around = np.ones((HEIGHT, WIDTH), bool)
        region = pack.regions[frame]
        around[region.y1 : region.y2, region.x1 : region.x2] = False
        wanted = (1 - TINT) * plain[around].mean(axis=0) + TINT * np.array(colour)
        assert np.abs(found[around].mean(axis=0) - wanted).max() < 2
        inside = slice(region.y1 + 2, region.y2 - 2), slice(region.x1 + 2, region.x2 - 2)
        assert np.array_equal(found[inside], plain[inside])


def test_every_frame_of_a_recoloured_clone_bears_its_id(avatars: Path) -> None:
    clone_avatars(avatars, "ann", IDS[:1], recolour=True)
    mouths, keys = np.full((4, 320, 320, 3), 99, np.uint8), np.full((4, 1), KEY, np.int64)
    for name, wanted in (("ann", ""), (IDS[0], IDS[0])):
        with AvatarPack(avatars / name) as pack:
            frames = [pack.frame_jpeg(n) for n in range(4)] + [pack.idle_jpeg(n) for n in range(4)]
            frames += compose(pack, np.arange(4), mouths, keys)
        assert [comment(jpeg) for jpeg in frames] == [wanted] * 12


def test_the_manifest_is_no_older_than_what_it_speaks_of(avatars: Path, recolour: bool) -> None:
    """Files that are newer are taken for changed."""
    clone_avatars(avatars, "ann", IDS, recolour=recolour)
    for avatar_id in IDS:
        times = {path.name: path.stat().st_mtime_ns for path in (avatars / avatar_id).iterdir()}
        assert max(times.values()) == times[MANIFEST_NAME]


def test_any_of_them_can_be_removed(avatars: Path) -> None:
    clone_avatars(avatars, "ann", IDS)
    shutil.rmtree(avatars / "ann")
    shutil.rmtree(avatars / IDS[1])
    clone_avatars(avatars, IDS[0], ["bob"], recolour=True)
    clone_avatars(avatars, "bob", ["eve"])
    assert all(finding.good for finding in check_avatars(avatars))
    assert shown(avatars) == {IDS[0], IDS[2], "bob", "eve"}


def test_an_avatar_that_takes_ready_features_only(tmp_path: Path, recolour: bool) -> None:
    sources = Sources.write(tmp_path)
    onnx.save(network_graph(size_px=160, audio=(16, 32, 32)), str(sources.network))
    settings = sources.settings(network=NetworkSource(sources.network), encoder=None)
    build_avatar(settings, open_frames(sources.frames), BOXES)
    clone_avatars(sources.avatars, "ann", ["bob"], recolour=recolour)
    assert all(finding.good for finding in check_avatars(sources.avatars))


def test_where_no_links_can_be_made_files_are_copied(
    avatars: Path, monkeypatch: pytest.MonkeyPatch, recolour: bool
) -> None:
    def refuse(_old: Path, _new: Path) -> None:
        raise PermissionError("Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    clone_avatars(avatars, "ann", IDS, recolour=recolour)
    assert all(finding.good for finding in check_avatars(avatars))
    assert len({(avatars / name / "network.onnx").stat().st_ino for name in ("ann", *IDS)}) == 4


# --- all or nothing ---
def test_clones_are_of_one_import_whatever_is_imported_meanwhile(
    sources: Sources, avatars: Path, tmp_path: Path
) -> None:
    before = (avatars / "ann" / "faces.npy").read_bytes()
    other = Sources.write(tmp_path / "other", key=7, seed=9)

    def replace(_what: str, done: int, _total: int) -> None:
        if done == 1:
            build_avatar(
                other.settings("ann", avatars=avatars, replace=True), open_frames(other.frames), BOXES
            )

    clone_avatars(avatars, "ann", IDS, replace)
    assert Manifest.load(avatars / "ann").network_key == 7
    for avatar_id in IDS:
        assert Manifest.load(avatars / avatar_id).network_key == KEY
        assert (avatars / avatar_id / "faces.npy").read_bytes() == before
    assert all(finding.good for finding in check_avatars(avatars))


def test_an_interrupt_leaves_nothing(avatars: Path, recolour: bool) -> None:
    def interrupt(_what: str, done: int, _total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        clone_avatars(avatars, "ann", IDS, interrupt, recolour=recolour)
    assert {path.name for path in avatars.iterdir()} == {"ann", ".import.lock"}


def flip_byte(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 0xFF]))


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda ann: shutil.rmtree(ann), "there is no avatar ann in"),
        (lambda ann: (ann / MANIFEST_NAME).unlink(), r"avatars/ann/avatar\.json cannot be read"),
        (lambda ann: (ann / "faces.npy").unlink(), r"avatars/ann/faces\.npy"),
        (lambda ann: (ann / "network.onnx").unlink(), r"avatars/ann/network\.onnx is not there"),
        (lambda ann: flip_byte(ann / "scan_data.npy"), r"avatars/ann/scan_data\.npy is damaged"),
        (lambda ann: flip_byte(ann / "network.onnx"), r"avatars/ann/network\.onnx is damaged"),
        (lambda ann: flip_byte(ann / "encoder.onnx"), r"avatars/ann/encoder\.onnx is damaged"),
    ],
)
def test_an_avatar_that_is_not_whole_is_not_cloned(
    avatars: Path, spoil: Callable[[Path], Any], error: str
) -> None:
    spoil(avatars / "ann")
    before = shown(avatars)
    with pytest.raises(LipstreamError, match=error):
        clone_avatars(avatars, "ann", IDS)
    assert shown(avatars) == before
    assert list(avatars.glob(".staging-*")) == []


@pytest.mark.parametrize(
    ("ids", "error"),
    [
        (["bob", "ann"], "avatars/ann is there already"),
        (["bob", "eve", "bob"], "bob is named twice"),
        (["bob", "../eve"], "is not an avatar id"),
    ],
)
def test_ids_that_cannot_be_given(avatars: Path, ids: list[str], error: str) -> None:
    with pytest.raises(LipstreamError, match=error):
        clone_avatars(avatars, "ann", ids)
    assert shown(avatars) == {"ann"}


def test_a_source_that_is_no_id_touches_no_path(avatars: Path) -> None:
    with pytest.raises(LipstreamError, match="is not an avatar id"):
        clone_avatars(avatars / "ann", "../ann", ["bob"])
    assert not (avatars / "ann" / ".import.lock").exists()
    with pytest.raises(ExportError, match="typo is not there"):
        clone_avatars(avatars / "typo", "ann", ["bob"])
    assert shown(avatars) == {"ann"}


def test_ids_are_numbered() -> None:
    assert clone_ids("ann", 3) == IDS
    assert clone_ids("bob", 1, 70_000) == ["bob-70000"]
    for wrong in (("ann", 0), ("ann", 1, -1), ("Ann", 1), ("a" * 64, 1)):
        with pytest.raises(LipstreamError):
            clone_ids(*wrong)  # type: ignore[arg-type]


def test_a_full_disk_is_one_sentence(avatars: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_manifest: Manifest, _folder: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Manifest, "save", full)
    with pytest.raises(ExportError, match="cannot be written: No space left on device"):
        clone_avatars(avatars, "ann", IDS)
    assert shown(avatars) == {"ann"}
