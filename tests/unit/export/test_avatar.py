from __future__ import annotations

import dataclasses
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from compositor_backend.compositor import compose
from compositor_backend.errors import AvatarIdError, LipstreamError
from compositor_backend.manifest import Manifest
from compositor_backend.pack import AvatarPack, file_sha256
from export.atomic import STAGE_PREFIX
from export.avatar import STAMP_FILE, AvatarSettings, NetworkSource, build_avatar
from export.boxes import read_boxes
from export.check import check_avatars
from export.errors import ExportError
from export.frames import open_frames
from tests.support.avatar_sources import (
    BOXES,
    HEIGHT,
    KEY,
    WIDTH,
    Sources,
    drawn_mouth,
    network_graph,
)
from tests.support.networks import even_unet, random_encoder, random_unet, save
from tests.support.scenes import textured
from tests.support.write_order import newer_than_their_checksums

ROOT = Path(__file__).parents[3]
FOLDERS = {"ann"}


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    return Sources.write(tmp_path / "sources")


def build(sources: Sources, **changes: Any) -> Path:
    frames = open_frames(sources.frames)
    return build_avatar(sources.settings(**changes), frames, read_boxes(sources.boxes, frames.names))


def shown(avatars: Path) -> set[str]:
    return {path.name for path in avatars.iterdir() if path.name[0] != "."} if avatars.exists() else set()


def contents(avatars: Path) -> dict[str, bytes]:
    """Every file that is not hidden, by path."""
    files = [path for name in shown(avatars) for path in (avatars / name).rglob("*") if path.is_file()]
    return {str(path.relative_to(avatars)): path.read_bytes() for path in files}


def stages(avatars: Path) -> list[Path]:
    return list(avatars.glob(f"{STAGE_PREFIX}*"))


def findings(avatars: Path) -> list[str]:
    return [finding.text for finding in check_avatars(avatars) if not finding.good]


# --- what is built ---
def test_an_avatar_is_one_folder_and_whole(sources: Sources) -> None:
    assert build(sources) == sources.avatars / "ann"
    assert shown(sources.avatars) == FOLDERS
    assert findings(sources.avatars) == []
    assert newer_than_their_checksums(sources.avatars) == []
    assert stages(sources.avatars) == []
    manifest = Manifest.load(sources.avatars / "ann")
    files = {f"{name}.npy" for name in manifest.files} | {f"{name}.onnx" for name in manifest.graphs}
    assert {path.name for path in (sources.avatars / "ann").iterdir()} == files | {"avatar.json"}


def test_the_manifest_says_what_was_built(sources: Sources) -> None:
    manifest = Manifest.load(build(sources, quality=60, blend="feather"))
    assert (manifest.id, manifest.frames, manifest.width, manifest.height) == ("ann", 4, WIDTH, HEIGHT)
    assert (manifest.family, manifest.audio_mode, manifest.audio_shape) == ("328", "ave", (32, 16, 16))
    assert manifest.network_key == manifest.idle_key == KEY
    assert set(manifest.graphs) == {"network", "encoder"}
    for name, source in (("network", sources.network), ("encoder", sources.encoder)):
        entry = manifest.graphs[name]
        assert (entry.bytes, entry.sha256) == (source.stat().st_size, file_sha256(source))
        assert entry.row_bytes > 0
    assert (manifest.quality, manifest.blend) == (60, "feather")


def test_the_frames_are_the_sources_and_take_a_mouth(sources: Sources) -> None:
    with AvatarPack(build(sources, quality=95)) as pack:
        for number in range(4):
            region = pack.regions[number]
            pixels = textured(WIDTH, HEIGHT, 1 + number)
            own = pixels[region.y1 : region.y2, region.x1 : region.x2]
            assert np.array_equal(pack.region_pixels(number), own)
        assert pack.rects.tolist() == [list(box) for box in BOXES]
        mouth = np.zeros((1, 320, 320, 3), np.uint8)
        (jpeg,) = compose(pack, np.array([2], np.intp), mouth, np.array([[KEY]], np.int64))
    decoded = simple_decode(jpeg)
    assert decoded.shape == (HEIGHT, WIDTH, 3)
    x1, y1, x2, y2 = BOXES[2]
    assert decoded[y1 + 4 : y2 - 4, x1 + 4 : x2 - 4].max() < 40, "the mouth, black here, is in its place"


def simple_decode(jpeg: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    import simplejpeg

    decoded: np.ndarray[Any, np.dtype[np.uint8]] = simplejpeg.decode_jpeg(jpeg, "RGB")
    return decoded


def test_graphs_of_the_contract_are_taken_as_they_are(sources: Sources) -> None:
    build(sources)
    for name, source in (("network", sources.network), ("encoder", sources.encoder)):
        assert (sources.avatars / "ann" / f"{name}.onnx").read_bytes() == source.read_bytes()


def test_everybody_may_read_what_was_built(sources: Sources) -> None:
    """A server run by another user has to."""
    before = os.umask(0o022)
    try:
        build(sources)
    finally:
        os.umask(before)
    for path in sources.avatars.rglob("*"):
        assert path.stat().st_mode & (0o555 if path.is_dir() else 0o444) == (
            0o555 if path.is_dir() else 0o444
        )


def test_progress_goes_to_its_end(sources: Sources) -> None:
    told: list[tuple[str, int, int]] = []
    frames = open_frames(sources.frames)
    build_avatar(sources.settings(), frames, BOXES, lambda *step: told.append(step))
    frames_told = [("frames", n, 4) for n in (1, 2, 3, 4)]
    idle_told = [("idle frames", n, 4) for n in (1, 2, 3, 4)]
    assert told == [("network", 0, 1), ("network", 1, 1), *frames_told, *idle_told]


def assert_idle_frames_are_the_networks(folder: Path) -> None:
    with AvatarPack(folder) as pack:
        silence = np.full((4, 32, 16, 16), -4, np.float32)  # what `encoder_graph` makes of it
        mouths, keys = drawn_mouth(pack.faces, silence), np.full((4, 1), KEY, np.int64)
        assert [pack.idle_jpeg(n) for n in range(4)] == compose(pack, np.arange(4), mouths, keys)
        assert pack.manifest.idle_key == pack.manifest.network_key
        pack.verify()


def test_idle_frames_are_what_the_network_draws_to_silence(sources: Sources) -> None:
    assert_idle_frames_are_the_networks(build(sources))


def test_damaged_idle_frames_are_found(sources: Sources) -> None:
    path = build(sources) / "idle_data.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    assert any("idle_data.npy is damaged" in text for text in findings(sources.avatars))


def test_idle_frames_of_another_network_are_found(sources: Sources) -> None:
    folder = build(sources)
    manifest = Manifest.load(folder)
    dataclasses.replace(manifest, idle_key=1).save(folder)
    (text,) = findings(sources.avatars)
    assert f"the key 1 drew the idle frames; expected {KEY}" in text


def test_a_stamp_is_kept_with_the_avatar(sources: Sources) -> None:
    folder = build(sources, stamp="made of this and that\n")
    assert (folder / STAMP_FILE).read_text() == "made of this and that\n"
    assert findings(sources.avatars) == []


# --- networks without an encoder ---
def hubert(sources: Sources) -> Path:
    path = sources.network.with_name("hubert.onnx")
    onnx.save(network_graph(size_px=160, audio=(16, 32, 32)), str(path))
    return path


def test_without_an_encoder_it_takes_ready_features_only(sources: Sources) -> None:
    folder = build(sources, network=NetworkSource(hubert(sources)), encoder=None)
    manifest = Manifest.load(folder)
    assert (manifest.family, manifest.audio_mode, manifest.takes_pcm) == ("160", "hubert", False)
    assert set(manifest.graphs) == {"network"}
    with AvatarPack(folder) as pack:
        assert not pack.has_idle
    assert not list(folder.glob("idle_*"))
    assert findings(sources.avatars) == []


def test_an_encoder_that_does_not_fit_the_network_is_refused(sources: Sources) -> None:
    with pytest.raises(
        ExportError, match=r"audio of shape \[16, 32, 32\].*makes \[32, 16, 16\]: leave it out"
    ):
        build(sources, network=NetworkSource(hubert(sources)))
    assert shown(sources.avatars) == set()


# --- an avatar or an encoder that is there already ---
def test_a_second_import_is_refused(sources: Sources) -> None:
    build(sources)
    before = contents(sources.avatars)
    with pytest.raises(ExportError, match="is there already; say --replace"):
        build(sources, quality=50)
    assert contents(sources.avatars) == before


def test_an_avatar_is_replaced_if_that_is_said(sources: Sources, tmp_path: Path) -> None:
    build(sources)
    other = Sources.write(tmp_path / "other", key=77, seed=5)
    build(other, avatars=sources.avatars, replace=True)
    assert Manifest.load(sources.avatars / "ann").network_key == 77
    assert shown(sources.avatars) == FOLDERS
    assert findings(sources.avatars) == []
    assert stages(sources.avatars) == []


def test_an_open_pack_outlives_its_replacement(sources: Sources, tmp_path: Path) -> None:
    with AvatarPack(build(sources)) as pack:
        build(Sources.write(tmp_path / "other", seed=5), avatars=sources.avatars, replace=True)
        pixels = textured(WIDTH, HEIGHT, 1)
        region = pack.regions[0]
        own = pixels[region.y1 : region.y2, region.x1 : region.x2]
        assert np.array_equal(pack.region_pixels(0), own)


def test_a_replacement_that_fails_leaves_the_old_avatar(sources: Sources) -> None:
    build(sources)
    before = contents(sources.avatars)
    (sources.frames / "3.png").write_bytes(b"damaged")
    with pytest.raises(ExportError, match=r"3\.png cannot be read"):
        build(sources, replace=True)
    assert contents(sources.avatars) == before
    assert stages(sources.avatars) == []


# --- checkpoints ---
def inodes(sources: Sources, name: str) -> set[int]:
    return {path.stat().st_ino for path in sources.avatars.glob(f"*/{name}")}


def test_checkpoints_are_exported_only_once(sources: Sources, tmp_path: Path) -> None:
    unet = save(random_unet("328", "ave").state_dict(), tmp_path / "u.pth")
    encoder = save(random_encoder().state_dict(), tmp_path / "e.pth")
    changes = {"network": NetworkSource(unet, "328", "ave"), "encoder": encoder}
    build(sources, **changes)
    build(sources, avatar_id="bob", **changes)
    # Made from the same checkpoints: exported once, and one file each.
    for name in ("network.onnx", "encoder.onnx"):
        assert len(inodes(sources, name)) == 1
    assert findings(sources.avatars) == []


def test_a_checkpoint_is_exported_anew_for_another_audio_mode(sources: Sources, tmp_path: Path) -> None:
    """The weights of both have the same shapes, so what was exported before may have been a mistake."""
    unet = save(random_unet("328", "ave").state_dict(), tmp_path / "u.pth")
    build(sources, network=NetworkSource(unet, "328", "ave"))
    folder = build(
        sources, network=NetworkSource(unet, "328", "hubert"), encoder=None, avatar_id="bob", replace=True
    )
    assert Manifest.load(folder).audio_mode == "hubert"
    assert findings(sources.avatars) == []


def test_equal_graphs_are_one_file(sources: Sources) -> None:
    for avatar_id in ("ann", "bob", "eve"):
        build(sources, avatar_id=avatar_id)
    assert len(inodes(sources, "network.onnx")) == len(inodes(sources, "encoder.onnx")) == 1
    assert findings(sources.avatars) == []


def test_a_graph_that_is_not_what_its_manifest_says_is_not_shared(sources: Sources) -> None:
    folder = build(sources)
    damaged = (folder / "network.onnx").read_bytes()[:-1] + b"x"
    (folder / "network.onnx").write_bytes(damaged)
    other = build(sources, avatar_id="bob")
    assert (other / "network.onnx").read_bytes() == sources.network.read_bytes()
    assert {Path(text.split()[0]).parent.name for text in findings(sources.avatars)} == {"ann"}
    assert list(other.glob(".*")) == []


def test_where_no_links_can_be_made_graphs_are_copied(
    sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_old: Path, _new: Path) -> None:
        raise PermissionError("Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    unet = save(random_unet("328", "ave").state_dict(), tmp_path / "u.pth")
    for avatar_id in ("ann", "bob"):
        build(sources, avatar_id=avatar_id, network=NetworkSource(unet, "328", "ave"))
    assert len(inodes(sources, "network.onnx")) == len(inodes(sources, "encoder.onnx")) == 2
    assert findings(sources.avatars) == []


def test_for_a_gpu_the_network_lies_there_in_half_precision_too(sources: Sources, tmp_path: Path) -> None:
    unet = save(even_unet("160", "hubert").state_dict(), tmp_path / "u.pth")
    changes = {"network": NetworkSource(unet, "160", "hubert"), "encoder": None, "gpu": True}
    manifest = Manifest.load(build(sources, **changes))
    whole, half = manifest.graphs["network"], manifest.graphs["network.fp16"]
    assert half.bytes < whole.bytes
    assert 0.4 * whole.row_bytes < half.row_bytes < 0.9 * whole.row_bytes
    build(sources, avatar_id="bob", **changes)
    assert len(inodes(sources, "network.fp16.onnx")) == 1
    assert findings(sources.avatars) == []


# --- bad input ---
def contradicts(path: Path, edit: Callable[[onnx.ModelProto], None]) -> Path:
    model = onnx.load(str(path))
    edit(model)
    onnx.save(model, str(path))
    return path


def key_of_the_frame(model: onnx.ModelProto) -> None:
    """AVATAR_KEY counts the frames in place of being one number."""
    model.graph.node[-1].output[0] = "same"
    model.graph.node.append(onnx.helper.make_node("CumSum", ["same", "first"], ["AVATAR_KEY"]))


def mouth_of_one(model: onnx.ModelProto) -> None:
    """MOUTH says [batch, …] and is always of one frame."""
    bounds = {name: onnx.numpy_helper.from_array(np.array([n]), name) for name, n in (("a", 0), ("b", 1))}
    model.graph.initializer.extend(bounds.values())
    transpose = next(node for node in model.graph.node if node.op_type == "Transpose")
    transpose.output[0] = "all"
    model.graph.node.append(onnx.helper.make_node("Slice", ["all", "a", "b", "a"], ["MOUTH"]))


def rename_mouth(model: onnx.ModelProto) -> None:
    next(node for node in model.graph.node if node.op_type == "Transpose").output[0] = "FACE_OUT"
    model.graph.output[0].name = "FACE_OUT"


@pytest.mark.parametrize(
    ("edit", "error"),
    [
        (key_of_the_frame, "gives AVATAR_KEY .* for two frames; one key for each is wanted"),
        (mouth_of_one, r"gives MOUTH \[1, 320, 320, 3\] for a batch of two|does not run"),
        (rename_mouth, "FACE_OUT.*MOUTH, AVATAR_KEY are wanted"),
    ],
)
def test_a_graph_that_breaks_the_contract_is_refused(
    sources: Sources, edit: Callable[[onnx.ModelProto], None], error: str
) -> None:
    contradicts(sources.network, edit)
    with pytest.raises(ExportError, match=f"n.onnx.*{error}") as caught:
        build(sources)
    assert STAGE_PREFIX not in str(caught.value), "it names the user's file"
    assert shown(sources.avatars) == set()
    assert stages(sources.avatars) == []


def change(sources: Sources, what: str) -> dict[str, Any]:
    """Spoil one thing; the settings that go with it."""
    match what:
        case "no network":
            sources.network.unlink()
        case "text network":
            sources.network.write_text("I am no graph")
        case "encoder as network":
            return {"network": NetworkSource(sources.encoder)}
        case "no encoder":
            sources.encoder.unlink()
        case "network as encoder":
            return {"encoder": sources.network}
        case "text checkpoint":
            (path := sources.network.with_name("u.pth")).write_text("I am no checkpoint")
            return {"network": NetworkSource(path, "328", "ave")}
        case "family":
            return {"network": NetworkSource(sources.network, family="160")}
        case "audio":
            return {"network": NetworkSource(sources.network, audio="hubert")}
        case "boxes":
            sources.boxes.write_text(json.dumps(BOXES[:3]))
        case "outside":
            sources.boxes.write_text(json.dumps([*BOXES[:3], (90, 0, 130, 40)]))
        case "sizes":
            Image.new("RGB", (WIDTH, HEIGHT + 2)).save(sources.frames / "2.png")
        case "picture":
            (sources.frames / "3.png").write_bytes(b"\x89PNG\r\n\x1a\n")
        case _:
            raise AssertionError(what)
    return {}


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("no network", r"n\.onnx is not there; a \.onnx or \.pth file is wanted"),
        ("text network", r"n\.onnx is no ONNX graph"),
        ("encoder as network", r"e\.onnx"),
        ("no encoder", r"e\.onnx is not there"),
        ("network as encoder", r"n\.onnx.*MEL"),
        ("text checkpoint", r"u\.pth is no checkpoint"),
        ("family", r"n\.onnx is a network with --family 328; 160 was said"),
        ("audio", r"n\.onnx is a network with --audio ave; hubert was said"),
        ("boxes", "there are 4 frames and 3 face boxes"),
        ("outside", r"frame 3: the face box \[90, 0, 130, 40\] is not inside the frame of 120x90 px"),
        ("sizes", r"2\.png is 120x92 px; 0\.png is 120x90 px"),
        ("picture", r"3\.png cannot be read as a picture"),
    ],
)
def test_bad_input_gets_a_sentence_and_leaves_nothing(sources: Sources, what: str, error: str) -> None:
    changes = change(sources, what)
    with pytest.raises(LipstreamError, match=error) as caught:
        build(sources, **changes)
    assert "\n" not in str(caught.value)
    assert shown(sources.avatars) == set()
    assert not sources.avatars.exists() or stages(sources.avatars) == []


@pytest.mark.parametrize("avatar_id", ["", "../x", "Ann", "a" * 65, "a/b", "a.b", "-a"])
def test_an_id_that_is_none_touches_no_path(sources: Sources, avatar_id: str) -> None:
    with pytest.raises(AvatarIdError):
        build(sources, avatar_id=avatar_id)
    assert not sources.avatars.exists()


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"quality": 0}, "JPEG quality: expected 1 to 100, got 0"),
        ({"quality": 101}, "JPEG quality: expected 1 to 100, got 101"),
        ({"blend": "soft"}, "blend: expected hard or feather, got 'soft'"),
    ],
)
def test_settings_out_of_range(sources: Sources, changes: dict[str, Any], error: str) -> None:
    with pytest.raises(ExportError, match=error):
        sources.settings(**changes)


def test_an_avatars_folder_that_is_none(sources: Sources) -> None:
    sources.avatars.write_text("a file")
    with pytest.raises(ExportError, match=r"avatars cannot be written: (File exists|Not a directory)"):
        build(sources)


# --- several at once ---
def test_imports_run_side_by_side(sources: Sources) -> None:
    errors: list[Exception] = []
    names = [f"avatar{n}" for n in range(4)]

    def run(avatar_id: str) -> None:
        try:
            build(sources, avatar_id=avatar_id)
        except LipstreamError as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert set(names) == shown(sources.avatars)
    assert findings(sources.avatars) == []


def test_of_two_imports_of_one_avatar_the_slower_is_refused(sources: Sources) -> None:
    """It finds the other's avatar when it has built its own."""

    def be_quicker(what: str, done: int, _total: int) -> None:
        if (what, done) == ("frames", 2):
            build(sources, quality=50)

    with pytest.raises(ExportError, match="is there already"):
        build_avatar(sources.settings(), open_frames(sources.frames), BOXES, be_quicker)
    assert Manifest.load(sources.avatars / "ann").quality == 50
    assert findings(sources.avatars) == []


# --- killed, and out of disk ---
IMPORT = """
import os, resource, signal, sys
from pathlib import Path
import compositor_backend.errors
from export import atomic, avatar, pack_writer
from tests.support.avatar_sources import BOXES, Sources
from export.frames import open_frames

folder, avatars, point, occurrence, limit = Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:6]
names = ("frames", "boxes.json", "n.onnx", "e.onnx")
sources = Sources(*(folder / name for name in names), avatars)
calls = 0

def dying(function):
    def call(*args, **kwargs):
        global calls
        calls += 1
        if calls == int(occurrence):
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return call

places = {
    "network": (avatar, "_add_encoder"),
    "frame": (pack_writer.PackWriter, "add"),
    "manifest": (pack_writer.PackWriter, "finish"),
    "idle": (avatar, "_add_idle_frames"),
    "sync": (atomic, "_sync_folder"),
    "move": (atomic, "_move"),
    "exchange": (atomic, "_exchange"),
    "settle": (atomic, "_settle"),
}
if point in places:
    owner, name = places[point]
    setattr(owner, name, dying(getattr(owner, name)))
if int(limit):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
try:
    avatar.build_avatar(sources.settings(replace=True), open_frames(sources.frames), BOXES)
except compositor_backend.errors.LipstreamError as error:
    print(type(error).__name__, error)
    sys.exit(1)
"""


def run_import(
    sources: Sources, avatars: Path, point: str = "", occurrence: int = 0, limit: int = 0
) -> subprocess.CompletedProcess[str]:
    arguments = [str(sources.frames.parent), str(avatars), point, str(occurrence), str(limit)]
    return subprocess.run(
        [sys.executable, "-c", IMPORT, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


POINTS = [
    ("network", 1),
    ("frame", 3),
    ("manifest", 1),
    ("idle", 1),
    ("sync", 1),
    ("move", 1),
]
"""Those before the avatar is ready; then it appears, at the latest with the next import."""


def assert_nothing_half_made(avatars: Path) -> None:
    """An avatar that a client could ask for is whole."""
    bad = [finding for finding in check_avatars(avatars) if not finding.good] if shown(avatars) else []
    assert {finding.part for finding in bad} <= {"leftover"}


@pytest.mark.parametrize(("point", "occurrence"), [*POINTS, ("move", 2), ("settle", 1)])
def test_a_killed_import_leaves_nothing_half_made(sources: Sources, point: str, occurrence: int) -> None:
    run = run_import(sources, sources.avatars, point, occurrence)
    assert run.returncode == -signal.SIGKILL, run.stderr
    assert shown(sources.avatars) == (FOLDERS if point == "settle" else set())
    assert_nothing_half_made(sources.avatars)
    build(sources, replace=True)
    assert shown(sources.avatars) == FOLDERS
    assert findings(sources.avatars) == []
    assert stages(sources.avatars) == []


@pytest.mark.parametrize(("point", "occurrence"), [*POINTS, ("exchange", 1), ("settle", 1)])
def test_a_killed_replacement_shows_the_old_avatar_or_the_new(
    sources: Sources, tmp_path: Path, point: str, occurrence: int
) -> None:
    build(sources)
    other = Sources.write(tmp_path / "other", key=77, seed=5)
    (other.encoder).write_bytes(sources.encoder.read_bytes())
    before = contents(sources.avatars)
    run = run_import(other, sources.avatars, point, occurrence)
    assert run.returncode == -signal.SIGKILL, run.stderr
    assert (contents(sources.avatars) == before) == (point != "settle")
    assert_nothing_half_made(sources.avatars)
    # Whatever is imported next puts in order what was left.
    build(sources, avatar_id="bob")
    key = KEY if (point, occurrence) in POINTS else 77
    assert Manifest.load(sources.avatars / "ann").network_key == key
    assert findings(sources.avatars) == []
    assert stages(sources.avatars) == []


@pytest.mark.parametrize("limit", [1_000, 20_000, 300_000])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(sources: Sources, limit: int) -> None:
    """A limit on the size of files stands in for the disk's end: the same calls fail at the same places."""
    run = run_import(sources, sources.avatars, limit=limit)
    assert run.returncode == 1, run.stderr
    (sentence,) = run.stdout.splitlines()
    assert "cannot be written: File too large" in sentence
    assert shown(sources.avatars) == set()
    assert stages(sources.avatars) == []
    build(sources)
    assert findings(sources.avatars) == []


def test_the_limit_of_the_test_before_is_not_met_by_a_whole_import(sources: Sources) -> None:
    assert run_import(sources, sources.avatars, limit=resource.RLIM_INFINITY).returncode == 0
    assert shown(sources.avatars) == FOLDERS


def test_settings_are_values() -> None:
    one, other = (AvatarSettings("ann", Path("avatars"), NetworkSource(Path("n.onnx"))) for _ in range(2))
    assert one == other
    assert not one.replace
