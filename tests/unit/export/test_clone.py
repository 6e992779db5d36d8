from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import onnx
import onnxruntime
import pytest
import simplejpeg
from google.protobuf.json_format import MessageToJson
from numpy.typing import NDArray
from PIL import Image

from compositor_backend.compositor import compose
from compositor_backend.errors import LipstreamError, WrongNetworkError
from compositor_backend.manifest import IDLE_FILES, MANIFEST_NAME, PACK_FILES, Manifest
from compositor_backend.pack import AvatarPack
from export.archive import pack_avatar
from export.avatar import MODEL_FILE, NetworkSource, build_avatar
from export.check import check_avatars
from export.clone import clone_avatars, clone_colour, clone_ids, clone_key
from export.clone_graph import TINT
from export.engine import build_engine
from export.engine_settings import EngineSettings
from export.errors import ExportError
from export.frames import open_frames
from export.model_configs import EMBEDDED_CONFIG, read_config
from export.onnx_guard import CLONE_FILE
from server.onnxruntime_backend.config import parse_model_config
from server.onnxruntime_backend.model import OnnxModel
from server.onnxruntime_backend.providers import Device
from tests.support.avatar_sources import BOXES, KEY, Sources, network_graph
from tests.support.clones import owner

ROOT = Path(__file__).parents[3]
IDS = ["ann-00001", "ann-00002", "ann-00003"]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    """The avatar ``ann``."""
    sources = Sources.write(tmp_path_factory.mktemp("sources"))
    build_avatar(sources.settings(stamp="note"), open_frames(sources.frames), BOXES)
    return sources


@pytest.fixture(scope="module")
def catalogue(sources: Sources, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with ``ann`` and three clones of it, to be read only."""
    avatars = Path(shutil.copytree(sources.avatars, tmp_path_factory.mktemp("catalogue") / "avatars"))
    clone_avatars(avatars, "ann", IDS)
    return avatars


@pytest.fixture
def avatars(sources: Sources, tmp_path: Path) -> Path:
    """A repository with ``ann``, to be changed."""
    return Path(shutil.copytree(sources.avatars, tmp_path / "avatars"))


def models(avatars: Path) -> set[str]:
    return {path.name for path in avatars.glob("[!.]*")}


def of(*ids: str) -> set[str]:
    return {f"{kind}_{avatar_id}" for kind in ("avatar", "features", "lipsync") for avatar_id in ids}


def run(avatars: Path, avatar_id: str, face: NDArray[np.uint8], loudness: float = 1.0) -> list[NDArray[Any]]:
    """MOUTH and AVATAR_KEY by onnxruntime, from the file that is served."""
    session = onnxruntime.InferenceSession(str(avatars / f"lipsync_{avatar_id}" / MODEL_FILE))
    audio = np.full((len(face), *session.get_inputs()[1].shape[1:]), loudness, np.float32)
    return list(session.run(["MOUTH", "AVATAR_KEY"], {"FACE": face, "AUDIO": audio}))


def frames(avatars: Path, avatar_id: str) -> list[bytes]:
    """All template frames, drawn and composited."""
    with AvatarPack(avatars / f"avatar_{avatar_id}") as pack:
        return compose(pack, np.arange(pack.frames), *run(avatars, avatar_id, pack.faces))


# --- what a clone is ---
def test_a_clone_is_a_whole_avatar(catalogue: Path) -> None:
    assert models(catalogue) == of("ann", *IDS) | {"audio_encoder_tiny"}
    findings = list(check_avatars(catalogue))
    assert [finding for finding in findings if not finding.good] == []
    assert {finding.avatar for finding in findings} == {"ann", *IDS}
    for avatar_id in IDS:
        manifest = Manifest.load(catalogue / f"avatar_{avatar_id}")
        assert (manifest.id, manifest.network, manifest.encoder) == (
            avatar_id, f"lipsync_{avatar_id}", "tiny",
        )  # fmt: skip
        for config in catalogue.glob(f"*_{avatar_id}/**/*.pbtxt"):
            assert avatar_id in config.read_text()


def test_the_network_draws_as_its_sources_does_with_its_own_colour_and_key(catalogue: Path) -> None:
    face = np.random.default_rng(0).integers(0, 256, (3, 3, 320, 320), dtype=np.uint8)
    plain, _ = run(catalogue, "ann", face)
    keys = set()
    for avatar_id in IDS:
        mouth, key = run(catalogue, avatar_id, face)
        expected = (1 - TINT) * plain + TINT * np.array(clone_colour(avatar_id))
        assert np.abs(mouth - expected).max() <= 0.5
        manifest = Manifest.load(catalogue / f"avatar_{avatar_id}")
        assert key.tolist() == [[manifest.network_key]] * 3
        assert manifest.network_key == clone_key(KEY, avatar_id)
        keys.add(manifest.network_key)
    assert len(keys | {KEY}) == 4


def test_the_stand_in_of_tritons_backend_loads_it(catalogue: Path) -> None:
    folder = catalogue / "lipsync_ann-00002"
    config = MessageToJson(read_config(folder / EMBEDDED_CONFIG), preserving_proto_field_name=True)
    model = OnnxModel(parse_model_config(config), folder / "1", Device("CPU", 0))
    assert model.providers == ["CPUExecutionProvider"]


def test_every_frame_bears_the_id_of_its_pack(catalogue: Path) -> None:
    for avatar_id in IDS:
        with AvatarPack(catalogue / f"avatar_{avatar_id}") as pack:
            made = [*frames(catalogue, avatar_id), *map(pack.frame_jpeg, range(pack.frames))]
        assert {owner(jpeg) for jpeg in made} == {avatar_id}
    assert {owner(jpeg) for jpeg in frames(catalogue, "ann")} == {""}


def test_all_decoders_read_the_frames_as_if_there_were_no_comment(catalogue: Path) -> None:
    for jpeg in frames(catalogue, "ann-00001"):
        at = jpeg.index(b"\xff\xfe")
        bare = jpeg[:at] + jpeg[at + 4 + len("ann-00001") :]
        for decode in (simplejpeg.decode_jpeg, by_pillow, by_ffmpeg):
            assert np.array_equal(decode(jpeg), decode(bare)), decode
        assert simplejpeg.decode_jpeg(jpeg).shape == (90, 120, 3)
        # JFIF's own segment has to be the first.
        assert jpeg[2:4] == b"\xff\xe0"


def by_pillow(jpeg: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(jpeg)) as picture:
        return np.asarray(picture)


def by_ffmpeg(jpeg: bytes) -> NDArray[np.uint8]:
    with av.open(io.BytesIO(jpeg), format="mjpeg") as container:
        return next(container.decode(video=0)).to_ndarray(format="rgb24")


def test_a_face_of_another_clone_is_refused(catalogue: Path) -> None:
    with AvatarPack(catalogue / "avatar_ann-00001") as pack:
        mouth, key = run(catalogue, "ann-00002", pack.faces[:1])
        with pytest.raises(WrongNetworkError, match="network of 'ann-00001'"):
            compose(pack, np.arange(1), mouth, key)


def test_there_are_no_idle_frames_since_they_show_the_sources_network(catalogue: Path) -> None:
    assert "idle_data" in Manifest.load(catalogue / "avatar_ann").files
    folder = catalogue / "avatar_ann-00001"
    assert set(Manifest.load(folder).files) == set(PACK_FILES)
    assert Manifest.load(folder).idle_key is None
    assert not any((folder / f"{name}.npy").exists() for name in IDLE_FILES)
    assert not (folder / "stamp.txt").exists()


def test_the_manifest_is_no_older_than_what_it_speaks_of(catalogue: Path) -> None:
    for avatar_id in IDS:
        folder = catalogue / f"avatar_{avatar_id}"
        manifest = (folder / MANIFEST_NAME).stat().st_mtime_ns
        assert all(path.stat().st_mtime_ns <= manifest for path in folder.glob("*.npy"))


def test_a_network_that_avatars_share_is_cloned_into_one_for_each(tmp_path: Path) -> None:
    sources = Sources.write(tmp_path)
    onnx.save(network_graph(7, 96, (1, 80, 16)), str(sources.network))
    settings = sources.settings(network=NetworkSource(sources.network), encoder=None, encoder_name=None)
    build_avatar(settings, open_frames(sources.frames), BOXES)
    clone_avatars(sources.avatars, "ann", ["bob", "eve"])
    assert {path.name for path in sources.avatars.glob("lipsync_*")} == {
        "lipsync_wav2lip-96", "lipsync_bob", "lipsync_eve",
    }  # fmt: skip
    assert all(finding.good for finding in check_avatars(sources.avatars))


def test_an_avatar_that_takes_ready_features_only(tmp_path: Path) -> None:
    sources = Sources.write(tmp_path)
    onnx.save(network_graph(size_px=160, audio=(16, 32, 32)), str(sources.network))
    settings = sources.settings(network=NetworkSource(sources.network), encoder=None, encoder_name=None)
    build_avatar(settings, open_frames(sources.frames), BOXES)
    clone_avatars(sources.avatars, "ann", ["bob"])
    assert not (sources.avatars / "avatar_bob" / "config.pbtxt").exists()
    assert all(finding.good for finding in check_avatars(sources.avatars))


# --- what it takes ---
def links(path: Path) -> int:
    return path.stat().st_nlink


def test_clones_share_storage_and_live_on_without_each_other(avatars: Path) -> None:
    pack = avatars / "avatar_ann"
    size = {f"{name}.npy": (pack / f"{name}.npy").stat().st_size for name in PACK_FILES}
    before = occupied(avatars)
    clone_avatars(avatars, "ann", IDS)
    shared = [avatars / "avatar_ann-00001" / name for name in size if name != "jpeg_header.npy"]
    if any(links(path) == 1 for path in shared):
        pytest.skip("this file system has reflinks, whose storage stat does not tell apart")
    for path in shared:
        assert links(path) == 4
        assert path.stat().st_ino == (pack / path.name).stat().st_ino
    graph = MODEL_FILE.as_posix()
    assert links(avatars / "lipsync_ann-00003" / graph) == 3
    assert occupied(avatars) - before < sum(size.values()) / 2
    for gone in ("ann", "ann-00001"):
        for model in of(gone):
            shutil.rmtree(avatars / model)
    findings = list(check_avatars(avatars))
    assert {finding.avatar for finding in findings} == set(IDS[1:])
    assert all(finding.good for finding in findings)


def occupied(folder: Path) -> int:
    """Bytes on the disk; a file with several names counts once."""
    files = {path.stat().st_ino: path.stat().st_blocks * 512 for path in folder.rglob("*")}
    return sum(files.values())


def test_where_no_links_can_be_made_files_are_copied(avatars: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_source: Path, _target: Path) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    clone_avatars(avatars, "ann", IDS)
    assert links(avatars / "avatar_ann-00002" / "faces.npy") == 1
    assert all(finding.good for finding in check_avatars(avatars))


# --- ids and colours ---
def test_ids_are_numbered(catalogue: Path) -> None:
    assert clone_ids("ann", 3) == IDS
    assert clone_ids("x", 2, 99_999) == ["x-99999", "x-100000"]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("ann", 0), "the count of clones is 0; 1 or more is wanted"),
        (("ann", 1, -1), "the first clone's number is -1; 0 or more is wanted"),
        (("../ann", 1), "is not an avatar id"),
        (("a" * 59, 1), "is not an avatar id"),
    ],
)
def test_what_are_no_ids(arguments: tuple[Any, ...], error: str) -> None:
    with pytest.raises(LipstreamError, match=error):
        clone_ids(*arguments)


def test_colours_are_spread_over_all_there_are() -> None:
    colours = np.array([clone_colour(avatar_id) for avatar_id in clone_ids("x", 2000)])
    assert [clone_colour(avatar_id) for avatar_id in ("x-00001", "x-00001")] == [tuple(colours[0])] * 2
    first, second = colours[:1000], colours[1000:]
    apart = TINT * np.abs(first - second).max(axis=1)
    assert (apart > 8).mean() > 0.99
    assert np.abs(np.corrcoef(colours.T) - np.eye(3)).max() < 0.1


# --- what is refused, and leaves all as it was ---
def listing(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("source", "ids", "error"),
    [
        ("bob", ["x"], "there is no avatar bob in"),
        ("../ann", ["x"], "is not an avatar id"),
        ("ann", ["x", "../y"], "is not an avatar id"),
        ("ann", ["x", "y", "x"], "x is named twice"),
        ("ann", ["x", "ann"], "lipsync_ann is there already; give the clones other ids"),
        ("ann", ["x", "frames"], "the model avatar_frames is shared by all"),
        ("ann-00001", ["x"], "ann-00001 is a clone itself"),
    ],
)
def test_what_cannot_be_cloned(catalogue: Path, source: str, ids: list[str], error: str) -> None:
    before = listing(catalogue)
    with pytest.raises(LipstreamError, match=error):
        clone_avatars(catalogue, source, ids)
    assert listing(catalogue) == before


@pytest.mark.parametrize("kind", ["lipsync", "avatar", "features"])
def test_any_folder_that_is_there_is_in_the_way(avatars: Path, kind: str) -> None:
    (avatars / f"{kind}_x").mkdir()
    before = models(avatars)
    with pytest.raises(ExportError, match=f"{kind}_x is there already"):
        clone_avatars(avatars, "ann", ["w", "x"])
    assert models(avatars) == before


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda a: flip_byte(a / "avatar_ann" / "region_data.npy"), r"region_data\.npy is damaged"),
        (lambda a: flip_byte(a / "lipsync_ann" / MODEL_FILE), r"lipsync_ann/1/model\.onnx"),
        (lambda a: shutil.rmtree(a / "lipsync_ann"), r"model\.onnx is not there"),
        (lambda a: (a / "avatar_ann" / MANIFEST_NAME).unlink(), r"avatar\.json cannot be read"),
        (lambda a: rename_in_manifest(a / "avatar_ann"), "holds the avatar 'eve'; 'ann' is wanted"),
    ],
)
def test_an_avatar_that_is_not_whole_is_not_cloned(
    avatars: Path, spoil: Callable[[Path], Any], error: str
) -> None:
    spoil(avatars)
    before = listing(avatars)
    with pytest.raises(LipstreamError, match=error):
        clone_avatars(avatars, "ann", IDS)
    assert listing(avatars) == before


def flip_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 0xFF
    path.write_bytes(data)


def rename_in_manifest(folder: Path) -> None:
    path = folder / MANIFEST_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | {"id": "eve"}))


def test_a_clone_is_neither_archived_nor_turned_into_an_engine(catalogue: Path, tmp_path: Path) -> None:
    """Both would want the network in one file."""
    with pytest.raises(ExportError, match="ann-00001 is a clone"):
        pack_avatar(catalogue / "avatar_ann-00001", tmp_path / "x.tar")
    with pytest.raises(ExportError, match="keeps its weights in other files"):
        build_engine(catalogue, "lipsync_ann-00001", EngineSettings("onnx", "fp16"))
    assert all(finding.good for finding in check_avatars(catalogue))


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (flip_byte, r"clone\.bin is damaged: its SHA-256"),
        (lambda path: path.unlink(), "cannot be read: No such file"),
        (
            lambda path: path.write_bytes(path.read_bytes()[:10]),
            r"looks for more in clone\.bin than there is",
        ),
    ],
)
def test_damage_to_what_sets_a_clone_apart_is_found(
    avatars: Path, spoil: Callable[[Path], Any], error: str
) -> None:
    clone_avatars(avatars, "ann", ["bob"])
    spoil(avatars / "lipsync_bob" / "1" / CLONE_FILE)
    (found,) = (finding.text for finding in check_avatars(avatars) if not finding.good)
    assert re.search(error, found)


# --- a source that is imported again meanwhile ---
@pytest.fixture
def newer(tmp_path: Path) -> Sources:
    """The avatar ``ann`` of other frames, in a repository of its own."""
    sources = Sources.write(tmp_path / "newer", seed=50)
    build_avatar(sources.settings(), open_frames(sources.frames), BOXES)
    return sources


def template(avatars: Path, avatar_id: str) -> list[bytes]:
    """The pixels that the avatar's frames show."""
    with AvatarPack(avatars / f"avatar_{avatar_id}") as pack:
        pack.verify()
        return [pack.region_pixels(number).tobytes() for number in range(pack.frames)]


@pytest.mark.parametrize("after", [1, 2])
def test_clones_are_all_of_the_import_that_they_began_with(avatars: Path, newer: Sources, after: int) -> None:
    former = template(avatars, "ann")

    def import_again(_what: str, made: int, _of: int) -> None:
        if made == after:
            again = newer.settings(avatars=avatars, replace=True)
            build_avatar(again, open_frames(newer.frames), BOXES)

    clone_avatars(avatars, "ann", IDS, import_again)
    assert all(finding.good for finding in check_avatars(avatars))
    assert template(avatars, "ann") == template(newer.avatars, "ann") != former
    for avatar_id in IDS:
        assert template(avatars, avatar_id) == former


def test_what_a_killed_import_of_the_source_had_ready_is_cloned(avatars: Path, newer: Sources) -> None:
    stage = avatars / ".staging-killed"
    names = ["lipsync_ann", "avatar_ann", "features_ann"]
    for name in names:
        shutil.copytree(newer.avatars / name, stage / name)
    (stage / "ready.json").write_text(json.dumps(names))
    clone_avatars(avatars, "ann", IDS)
    assert all(finding.good for finding in check_avatars(avatars))
    for avatar_id in ("ann", *IDS):
        assert template(avatars, avatar_id) == template(newer.avatars, "ann")


def test_nothing_but_clones_appears_or_stays(avatars: Path) -> None:
    clone_avatars(avatars, "ann", ["x"])
    assert models(avatars) == of("ann", "x") | {"audio_encoder_tiny"}
    assert not list(avatars.glob(".staging-*"))


# --- a disk that is full ---
FULL_DISK = """
import os, sys
from pathlib import Path
from compositor_backend.errors import LipstreamError
from export.clone import clone_avatars
avatars, ids = Path(sys.argv[1]), sys.argv[2:]

def listing():
    return sorted(str(path) for path in avatars.rglob("*"))

before = listing()
for pages in (0, 1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 20, 25, 30, 40, 60, 1000):
    filler = avatars.parent / "filler"
    free = os.statvfs(avatars)
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, free.f_bavail - pages) * free.f_frsize)
    try:
        clone_avatars(avatars, "ann", ids)
        print(pages, "made")
        break
    except LipstreamError as error:
        print(pages, error)
        assert listing() == before, set(listing()) ^ set(before)
    finally:
        filler.unlink()
"""


def test_a_disk_that_is_full_leaves_nothing_behind(avatars: Path, tmp_path: Path) -> None:
    """At whatever point it gets full; needs root, for a small disk of its own."""
    mounts = ["unshare", "--mount", "--propagation", "private"]
    if not shutil.which(mounts[0]) or subprocess.run([*mounts, "true"], capture_output=True).returncode:
        pytest.skip("mounts of one's own are not allowed here")
    disk = tmp_path / "disk"
    disk.mkdir()
    # The repository is copied there, and what follows it is run.
    mount = 'mount -t tmpfs -o size=16m tmpfs "$0" && cp -a "$1" "$0/avatars" && shift && exec "$@"'
    command = [*mounts, "sh", "-c", mount, str(disk), str(avatars), sys.executable, "-c", FULL_DISK]
    command += [str(disk / "avatars"), *IDS]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    *refused, made = ended.stdout.splitlines()
    assert len(refused) > 5
    for line in refused:
        assert line.split(" ", 1)[1] == f"{disk / 'avatars'} cannot be written: No space left on device"
    assert made.endswith(" made")


# --- processes that are killed ---
WORKER = """
import os, signal, sys
from pathlib import Path
from export.clone import clone_avatars
avatars, kill_at = Path(sys.argv[1]), int(sys.argv[2])
rename, done = Path.rename, 0

def count(path, target):
    global done
    if path.parent.name.startswith(".staging-") and target.parent == avatars:
        if done == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        done += 1
    return rename(path, target)

def tell(what, made, of):
    if kill_at < 0 and made == -kill_at:
        os.kill(os.getpid(), signal.SIGKILL)

Path.rename = count
clone_avatars(avatars, "ann", sys.argv[3:], tell)
"""


def kill(avatars: Path, at: int) -> None:
    """Kill it when -`at` clones are made, or before folder number `at` appears."""
    command = [sys.executable, "-c", WORKER, str(avatars), str(at), *IDS]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=120, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr


def test_nothing_stays_of_clones_that_were_killed_half_way(avatars: Path) -> None:
    before = models(avatars)
    kill(avatars, -2)
    assert models(avatars) == before
    clone_avatars(avatars, "ann", IDS)
    assert models(avatars) == before | of(*IDS)
    assert all(finding.good for finding in check_avatars(avatars))


@pytest.mark.parametrize("at", [0, 4])
def test_clones_that_were_killed_while_they_appeared_are_there_when_somebody_looks(
    avatars: Path, at: int
) -> None:
    before = models(avatars)
    kill(avatars, at)
    there = models(avatars) - before
    # What Triton finds meanwhile is whole, and no ensemble lacks the network that it names.
    assert len(there) == at
    for name in there:
        assert f"lipsync_{name.split('_', 1)[1]}" in there
        assert list((avatars / name).glob("*.pbtxt"))
    with pytest.raises(ExportError, match="lipsync_ann-00001 is there already"):
        clone_avatars(avatars, "ann", IDS)
    assert models(avatars) == before | of(*IDS)
    assert all(finding.good for finding in check_avatars(avatars))
