from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from compositor_backend.manifest import MANIFEST_NAME, Manifest
from compositor_backend.pack import AvatarPack, file_sha256
from export.avatar import NetworkSource, build_avatar, graph_entry
from export.check import Finding, check_avatars
from export.errors import ExportError
from export.frames import open_frames
from tests.support.avatar_sources import BOXES, Sources, encoder_graph, network_graph

PARTS = ["pack", "test frame", "network", "audio encoder", "files"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An avatars folder with the avatar ``ann``."""
    sources = Sources.write(tmp_path_factory.mktemp("sources"))
    build_avatar(sources.settings(), open_frames(sources.frames), BOXES)
    return sources.avatars


@pytest.fixture
def avatars(whole: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(whole, tmp_path / "avatars"))


def bad(avatars: Path) -> list[Finding]:
    return [finding for finding in check_avatars(avatars) if not finding.good]


def test_a_whole_avatar(whole: Path) -> None:
    found = list(check_avatars(whole))
    assert [(finding.avatar, finding.part, finding.good) for finding in found] == [
        ("ann", part, True) for part in PARTS
    ]
    texts = {finding.part: finding.text for finding in found}
    assert texts["pack"].startswith("4 frames of 120x90 px")
    assert texts["network"] == "328 family, ave, key and checksum equal"
    assert texts["audio encoder"] == "checksum equal"
    assert texts["files"] == "no others than an avatar's"
    assert list(check_avatars(whole / "ann")) == found


def flip_byte(path: Path, at: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(data)


def edit_manifest(avatars: Path, **changes: Any) -> None:
    path = avatars / "ann" / MANIFEST_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_text(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def exchange(graph: onnx.ModelProto, avatars: Path, name: str) -> None:
    """Put another graph in place, and let the manifest say that it is the right one."""
    save_graph(graph, avatars, name)
    graphs = json.loads((avatars / "ann" / MANIFEST_NAME).read_text())["graphs"]
    path = avatars / "ann" / f"{name}.onnx"
    graphs[name].update(sha256=file_sha256(path), bytes=path.stat().st_size)
    edit_manifest(avatars, graphs=graphs)


def save_graph(graph: onnx.ModelProto, avatars: Path, model: str) -> None:
    onnx.save(graph, str(avatars / "ann" / f"{model}.onnx"))


@pytest.mark.parametrize(
    "name", ["faces", "rects", "scan_data", "scan_offsets", "region_data", "jpeg_header"]
)
def test_a_damaged_file_of_the_pack_is_named(avatars: Path, name: str) -> None:
    flip_byte(avatars / "ann" / f"{name}.npy")
    found = bad(avatars)
    assert "pack" in [finding.part for finding in found]
    assert any(name in finding.text for finding in found), found


def test_a_swapped_picture_is_seen_beside_the_face(avatars: Path) -> None:
    """Pixels that no index protects: the checksum tells, and so does nothing else."""
    path = avatars / "ann" / "region_data.npy"
    flip_byte(path, at=path.stat().st_size // 2)
    (avatars / "ann" / MANIFEST_NAME).touch()  # as a bad disk does it: no file is newer for it
    (finding,) = bad(avatars)
    assert finding.part == "pack"
    assert "region_data.npy is damaged: its SHA-256 is not the manifest's" in finding.text


def test_offsets_that_miss_the_markers_are_seen_even_if_the_checksum_is_made_to_fit(avatars: Path) -> None:
    path = avatars / "ann" / "scan_offsets.npy"
    offsets = np.load(path)
    offsets[3, 1:-1] -= 1
    np.save(path, offsets)
    files = json.loads((avatars / "ann" / MANIFEST_NAME).read_text())["files"]
    files["scan_offsets"]["sha256"] = file_sha256(path)
    edit_manifest(avatars, files=files)
    texts = {finding.part: finding.text for finding in bad(avatars)}
    assert "frame 3 is not cut at its restart markers" in texts["pack"]


@pytest.mark.parametrize(
    ("jpeg", "error"),
    [
        (lambda pack: pack.frame_jpeg(0), "frame 3 changes outside its face box"),
        (lambda pack: pack.frame_jpeg(3)[:500], "frame 3 does not decode"),
        (lambda pack: b"", "frame 3 does not decode"),
    ],
)
def test_a_test_frame_that_is_not_the_template_with_a_mouth(
    whole: Path, monkeypatch: pytest.MonkeyPatch, jpeg: Callable[[AvatarPack], bytes], error: str
) -> None:
    monkeypatch.setattr("export.check.compose", lambda pack, *_others: [jpeg(pack)])
    (finding,) = bad(whole)
    assert finding.part == "test frame"
    assert error in finding.text


@pytest.mark.parametrize(
    ("spoil", "part", "error"),
    [
        (lambda a: (a / "ann" / MANIFEST_NAME).unlink(), "manifest", r"avatar\.json cannot be read"),
        (lambda a: edit_manifest(a, quality=0), "manifest", "quality in .* is 0; 1 to 100 is wanted"),
        (lambda a: edit_manifest(a, id="bob"), "manifest", "expected the avatar 'ann', got 'bob'"),
        (
            lambda a: edit_manifest(a, audio_mode="hubert"),
            "manifest",
            r"audio_mode 'hubert'; audio_shape \[32, 16, 16\] is that of 'ave'",
        ),
        (lambda a: (a / "ann" / "faces.npy").unlink(), "pack", r"faces\.npy cannot be"),
        (lambda a: (a / "ann" / "network.onnx").unlink(), "network", r"network\.onnx is not there"),
        (lambda a: flip_byte(a / "ann" / "network.onnx", 0), "network", r"network\.onnx is damaged"),
        (lambda a: flip_byte(a / "ann" / "encoder.onnx", 0), "audio encoder", r"encoder\.onnx is damaged"),
        (lambda a: (a / "ann" / "encoder.onnx").unlink(), "audio encoder", r"encoder\.onnx is not there"),
        (
            lambda a: exchange(network_graph(key=5), a, "network"),
            "network",
            "has the key 5; the manifest says 81985529216486895: the network is another avatar's",
        ),
        (
            lambda a: exchange(network_graph(size_px=160, audio=(16, 32, 32)), a, "network"),
            "network",
            r"is a 160 network with audio \[16, 32, 32\]; the manifest says 328 with \[32, 16, 16\]",
        ),
        (
            lambda a: exchange(encoder_graph(), a, "network"),
            "network",
            r"has the inputs MEL .*; FACE \[B,3,S,S\] and AUDIO \[B,…\] are wanted",
        ),
        (
            lambda a: exchange(network_graph(), a, "encoder"),
            "audio encoder",
            r"encoder\.onnx has .*MEL are wanted",
        ),
        (lambda a: (a / "ann" / "more.txt").touch(), "files", r"more\.txt, which is no part"),
    ],
)
def test_what_is_wrong_is_said(avatars: Path, spoil: Callable[[Path], Any], part: str, error: str) -> None:
    spoil(avatars)
    found = {finding.part: finding.text for finding in bad(avatars)}
    assert part in found, found
    assert re.search(error, found[part].replace("\n", " ")), found[part]


def test_every_broken_part_is_found_not_only_the_first(avatars: Path) -> None:
    flip_byte(avatars / "ann" / "faces.npy")
    exchange(network_graph(key=5), avatars, "network")
    (avatars / "ann" / "encoder.onnx").unlink()
    assert [finding.part for finding in bad(avatars)] == ["pack", "network", "audio encoder"]


def test_an_avatar_without_an_encoder(tmp_path: Path) -> None:
    sources = Sources.write(tmp_path)
    onnx.save(network_graph(size_px=160, audio=(16, 32, 32)), str(sources.network))
    settings = sources.settings(network=NetworkSource(sources.network), encoder=None)
    build_avatar(settings, open_frames(sources.frames), BOXES)
    found = {finding.part: finding for finding in check_avatars(sources.avatars)}
    assert all(finding.good for finding in found.values())
    assert found["audio encoder"].text == "none: features come ready from the client"


@pytest.fixture
def halved(avatars: Path) -> Path:
    """The avatar with a network in half precision beside its own, which is as good as equal to it."""
    folder = avatars / "ann"
    add_half(folder, network_graph())
    return folder


def add_half(folder: Path, graph: onnx.ModelProto) -> None:
    onnx.save(graph, str(folder / "network.fp16.onnx"))
    manifest = Manifest.load(folder)
    graphs = {**manifest.graphs, "network.fp16": graph_entry(folder / "network.fp16.onnx")}
    dataclasses.replace(manifest, graphs=graphs).save(folder)


def test_the_network_in_half_precision_is_compared_with_the_other(halved: Path) -> None:
    assert bad(halved) == []
    (text,) = [finding.text for finding in check_avatars(halved) if finding.part == "network"]
    assert text.endswith("in half precision too: equal, off by at most 0 of 255 in 1 frames")


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda f: add_half(f, other_pictures()), "network.fp16.onnx is too far from its float32 graph"),
        (lambda f: add_half(f, network_graph(key=5)), "network.fp16.onnx has the key 5"),
        (lambda f: flip_byte(f / "network.fp16.onnx"), "network.fp16.onnx is damaged"),
        (lambda f: (f / "network.fp16.onnx").unlink(), "network.fp16.onnx is not there"),
    ],
)
def test_a_network_in_half_precision_that_is_none(
    halved: Path, spoil: Callable[[Path], Any], error: str
) -> None:
    spoil(halved)
    (finding,) = bad(halved)
    assert (finding.part, error in finding.text) == ("network", True), finding.text


def other_pictures() -> onnx.ModelProto:
    """A network that draws something else under the same key."""
    model = network_graph()
    for node in model.graph.node:
        if node.output[0] == "clipped":
            node.input[0] = "face"
    return model


def test_an_avatar_of_the_first_edition_is_named_in_a_sentence(avatars: Path) -> None:
    edit_manifest(avatars, format=2)
    (finding,) = bad(avatars)
    assert finding.text.endswith("avatar.json is of format 2; this version reads format 3")


def test_all_avatars_of_a_folder_and_what_belongs_to_none(avatars: Path, tmp_path: Path) -> None:
    other = Sources.write(tmp_path / "other", key=7)
    build_avatar(other.settings("bob", avatars=avatars), open_frames(other.frames), BOXES)
    assert [finding.avatar for finding in check_avatars(avatars)] == ["ann"] * 5 + ["bob"] * 5
    (avatars / "bob" / MANIFEST_NAME).unlink()
    (avatars / ".staging-killed").mkdir()
    texts = [finding.text for finding in bad(avatars)]
    assert len(texts) == 2
    assert "bob/avatar.json cannot be read" in texts[0]
    assert "an import that is running, or was killed" in texts[1]


def test_a_folder_whose_name_is_no_id(avatars: Path) -> None:
    (avatars / "ann").rename(avatars / "Ann")
    assert any("'Ann' is not an avatar id" in finding.text for finding in bad(avatars))


def test_a_folder_that_holds_no_avatar(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "gone"):
        with pytest.raises(ExportError, match="is no avatar's folder and holds none"):
            list(check_avatars(folder))


def test_checking_changes_nothing(avatars: Path) -> None:
    before = {path: path.stat() for path in avatars.rglob("*") if path.is_file()}
    list(check_avatars(avatars))
    after = {path: path.stat() for path in avatars.rglob("*") if path.is_file()}
    assert {p: (s.st_mtime_ns, s.st_size) for p, s in after.items()} == {
        p: (s.st_mtime_ns, s.st_size) for p, s in before.items()
    }
    assert Manifest.load(avatars / "ann").id == "ann"
