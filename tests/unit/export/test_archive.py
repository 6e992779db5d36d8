from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest

from compositor_backend.errors import LipstreamError
from compositor_backend.manifest import MANIFEST_NAME, Manifest
from export import archive as archive_module
from export.archive import LIST_NAME, UnpackSettings, left_out, pack_avatar, unpack_avatar
from export.avatar import NetworkSource, build_avatar
from export.check import check_avatars
from export.cli import main
from export.errors import ExportError
from export.frames import open_frames
from tests.support.avatar_sources import BOXES, Sources, network_graph
from tests.support.write_order import newer_than_their_checksums

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An avatars folder with the avatar ``ann``."""
    sources = Sources.write(tmp_path_factory.mktemp("sources"))
    build_avatar(sources.settings(stamp="note"), open_frames(sources.frames), BOXES)
    return sources.avatars


@pytest.fixture(scope="module")
def packed(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("archive") / "ann.tar"
    pack_avatar(whole / "ann", out)
    return out


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A repository that holds something already."""
    target = tmp_path / "target"
    (target / "bob").mkdir(parents=True)
    (target / "bob" / "note").write_text("bob's")
    (target / ".import.lock").touch()
    return target


def listing(folder: Path) -> dict[str, bytes | None]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def models(folder: Path) -> dict[str, bytes | None]:
    """All but the lock that every import leaves."""
    return {name: data for name, data in listing(folder).items() if name != ".import.lock"}


# --- there and back ---
@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tgz"])
def test_what_was_packed_is_unpacked_to_the_same_files(whole: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"ann{suffix}"
    steps: list[tuple[str, int, int]] = []
    pack_avatar(whole / "ann", out, lambda *step: steps.append(step))
    assert steps[-1][1] == steps[-1][2]
    elsewhere = tmp_path / "else" / "where"
    assert unpack_avatar(out, UnpackSettings(elsewhere)) == elsewhere / "ann"
    assert models(elsewhere) == models(whole)
    assert all(finding.good for finding in check_avatars(elsewhere))
    assert newer_than_their_checksums(elsewhere) == []


def test_gzip_is_chosen_by_the_suffix(whole: Path, tmp_path: Path) -> None:
    for suffix, magic in ((".tar", b"li"), (".tar.gz", b"\x1f\x8b"), (".tgz", b"\x1f\x8b")):
        pack_avatar(whole / "ann", tmp_path / f"a{suffix}")
        assert (tmp_path / f"a{suffix}").read_bytes()[:2] == magic
    with pytest.raises(ExportError, match=r"ends in '\.zip'; \.tar, \.tar\.gz or \.tgz is wanted"):
        pack_avatar(whole / "ann", tmp_path / "a.zip")


def test_the_list_has_the_size_and_checksum_of_every_file(whole: Path, packed: Path) -> None:
    with tarfile.open(packed) as tar:
        members = tar.getmembers()
        data = {member.name: tar.extractfile(member).read() for member in members}  # type: ignore[union-attr]
    found = json.loads(data.pop(LIST_NAME))
    assert members[0].name == LIST_NAME
    assert found["avatar"] == "ann"
    assert found["about"] == "4 frames of 120x90 px, 328 family, ave"
    assert found["files"] == {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in data.items()
    }
    assert {Path(name).suffix for name in data} == {".json", ".npy", ".onnx", ".txt"}


def test_the_same_avatar_makes_the_same_bytes_wherever_it_lies(
    whole: Path, packed: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(whole, tmp_path / "copy"))
    for path in copy.rglob("*"):
        os.utime(path, (1, 1))
        path.chmod(0o700)
    for out in (tmp_path / "one.tar", tmp_path / "two.tar"):
        pack_avatar(copy / "ann", out)
        assert out.read_bytes() == packed.read_bytes()
    for name in ("one.tar.gz", "two.tar.gz"):
        pack_avatar(copy / "ann", tmp_path / name)
    assert (tmp_path / "one.tar.gz").read_bytes() == (tmp_path / "two.tar.gz").read_bytes()


def test_an_avatar_without_an_encoder(tmp_path: Path) -> None:
    sources = Sources.write(tmp_path / "sources")
    onnx.save(network_graph(size_px=160, audio=(16, 32, 32)), str(sources.network))
    settings = sources.settings(network=NetworkSource(sources.network), encoder=None)
    build_avatar(settings, open_frames(sources.frames), BOXES)
    pack_avatar(sources.avatars / "ann", tmp_path / "ann.tar")
    unpack_avatar(tmp_path / "ann.tar", UnpackSettings(tmp_path / "elsewhere"))
    assert models(tmp_path / "elsewhere") == models(sources.avatars)


def test_what_is_bound_to_a_machine_stays_there(whole: Path, packed: Path, tmp_path: Path) -> None:
    avatars = Path(shutil.copytree(whole, tmp_path / "avatars"))
    engines = avatars / "ann" / "engines" / "some-gpu-trt10.13.0" / "0123456789abcdef"
    engines.mkdir(parents=True)
    (engines / "x.engine").write_bytes(b"engine")
    contents = pack_avatar(avatars / "ann", tmp_path / "ann.tar")
    assert (tmp_path / "ann.tar").read_bytes() == packed.read_bytes()
    assert left_out(avatars / "ann", contents) == [
        "engines/some-gpu-trt10.13.0/0123456789abcdef/x.engine",
    ]


def test_another_id(whole: Path, packed: Path, tmp_path: Path) -> None:
    """Beside the avatar itself, with which it shares its graphs."""
    unpack_avatar(packed, UnpackSettings(tmp_path))
    unpack_avatar(packed, UnpackSettings(tmp_path, avatar_id="eve"))
    assert {path.name for path in tmp_path.glob("[!.]*")} == {"ann", "eve"}
    assert Manifest.load(tmp_path / "eve").id == "eve"
    found = list(check_avatars(tmp_path))
    assert all(finding.good for finding in found), found
    assert {finding.avatar for finding in found} == {"ann", "eve"}
    assert newer_than_their_checksums(tmp_path) == []
    for name in ("faces.npy", "idle_data.npy"):
        assert (tmp_path / "eve" / name).read_bytes() == (whole / "ann" / name).read_bytes()
    for name in ("network.onnx", "encoder.onnx"):
        assert (tmp_path / "eve" / name).stat().st_ino == (tmp_path / "ann" / name).stat().st_ino


def test_an_avatar_that_is_there_is_exchanged_only_on_demand(packed: Path, tmp_path: Path) -> None:
    unpack_avatar(packed, UnpackSettings(tmp_path))
    before = listing(tmp_path)
    (tmp_path / "ann" / "stamp.txt").write_text("changed")
    with pytest.raises(ExportError, match="ann is there already; say --replace, or another --id"):
        unpack_avatar(packed, UnpackSettings(tmp_path))
    assert (tmp_path / "ann" / "stamp.txt").read_text() == "changed"
    unpack_avatar(packed, UnpackSettings(tmp_path, replace=True))
    assert listing(tmp_path) == before


# --- what cannot be packed ---
@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda a: flip_byte(a / "ann" / "region_data.npy"), r"region_data\.npy is damaged"),
        (lambda a: flip_byte(a / "ann" / "network.onnx"), r"network\.onnx is damaged"),
        (lambda a: flip_byte(a / "ann" / "encoder.onnx"), r"encoder\.onnx is damaged"),
        (lambda a: (a / "ann" / "network.onnx").unlink(), r"network\.onnx is not there"),
        (lambda a: (a / "ann" / MANIFEST_NAME).unlink(), r"avatar\.json cannot be read"),
    ],
)
def test_an_avatar_that_is_not_whole_is_not_packed(
    whole: Path, tmp_path: Path, spoil: Callable[[Path], Any], error: str
) -> None:
    avatars = Path(shutil.copytree(whole, tmp_path / "avatars"))
    out = tmp_path / "out" / "ann.tar"
    out.parent.mkdir()
    out.write_text("what was there")
    spoil(avatars)
    with pytest.raises(LipstreamError, match=error):
        pack_avatar(avatars / "ann", out)
    assert listing(out.parent) == {"ann.tar": b"what was there"}


def test_an_avatar_that_changes_meanwhile_is_not_packed(whole: Path, tmp_path: Path) -> None:
    avatars = Path(shutil.copytree(whole, tmp_path / "avatars"))

    flips = iter([avatars / "ann" / "network.onnx"])

    def change(_what: str, _done: int, _total: int) -> None:
        for path in flips:
            flip_byte(path)

    with pytest.raises(ExportError, match=r"network\.onnx was changed while it was packed"):
        pack_avatar(avatars / "ann", tmp_path / "ann.tar", change)
    assert not (tmp_path / "ann.tar").exists()


def test_a_folder_that_is_not_named_after_its_avatar(whole: Path, tmp_path: Path) -> None:
    avatars = Path(shutil.copytree(whole, tmp_path / "avatars"))
    (avatars / "ann").rename(avatars / "eve")
    with pytest.raises(ExportError, match="expected the avatar 'eve', got 'ann'"):
        pack_avatar(avatars / "eve", tmp_path / "ann.tar")


def flip_byte(path: Path, at: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(data)


# --- hostile archives ---
class Members:
    """The members of an archive, to be spoilt and written again."""

    def __init__(self, path: Path) -> None:
        with tarfile.open(path) as tar:
            self.members = [(m, tar.extractfile(m).read()) for m in tar.getmembers()]  # type: ignore[union-attr]
        self.kind = tarfile.USTAR_FORMAT

    def names(self) -> list[str]:
        return [member.name for member, _ in self.members]

    def data(self, name: str) -> bytes:
        return self.members[self.names().index(name)][1]

    def put(self, name: str, data: bytes, **fields: Any) -> None:
        """Replace a member or append one."""
        member = tarfile.TarInfo(name)
        member.size = len(data)
        for field, value in fields.items():
            setattr(member, field, value)
        at = self.names().index(name) if name in self.names() else len(self.members)
        self.members[at : at + 1] = [(member, data)]

    def append(self, name: str, data: bytes = b"", **fields: Any) -> None:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        for field, value in fields.items():
            setattr(member, field, value)
        self.members.append((member, data))

    def list(self, change: Callable[[dict[str, Any]], Any]) -> None:
        value = json.loads(self.data(LIST_NAME))
        change(value)
        self.put(LIST_NAME, json.dumps(value).encode())

    def relist(self, name: str) -> None:
        """Let the list say of a file what it is now."""
        data = self.data(name)
        entry = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        self.list(lambda value: value["files"].update({name: entry}))

    def write(self, path: Path, compressed: bool) -> Path:
        raw = io.BytesIO()
        for member, data in self.members:
            raw.write(member.tobuf(self.kind, "utf-8", "surrogateescape"))
            raw.write(data + bytes(-len(data) % 512))
        raw.write(bytes(1024))
        path.write_bytes(gzip.compress(raw.getvalue()) if compressed else raw.getvalue())
        return path


def evil_onnx() -> bytes:
    model = network_graph()
    tensor = model.graph.initializer.add(name="secret", data_type=1, dims=[1])
    tensor.data_location = 1
    tensor.external_data.add(key="location", value="../../../../etc/hostname")
    return model.SerializeToString()


def listed(name: str, data: bytes = b"x") -> Callable[[Members], None]:
    """A further file that the list names too."""

    def spoil(members: Members) -> None:
        members.append(name, data)
        members.relist(name)

    return spoil


def exchanged(name: str, data: bytes) -> Callable[[Members], None]:
    def spoil(members: Members) -> None:
        members.put(name, data)
        members.relist(name)

    return spoil


def exchanged_graph(name: str, data: bytes) -> Callable[[Members], None]:
    """Another graph, of which the manifest says that it is the right one."""

    def spoil(members: Members) -> None:
        exchanged(f"{name}.onnx", data)(members)
        manifest = json.loads(members.data(MANIFEST_NAME))
        manifest["graphs"][name].update(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
        exchanged(MANIFEST_NAME, json.dumps(manifest).encode())(members)

    return spoil


def manifest_with(**changes: Any) -> Callable[[Members], None]:
    def spoil(members: Members) -> None:
        name = MANIFEST_NAME
        exchanged(name, json.dumps(json.loads(members.data(name)) | changes).encode())(members)

    return spoil


def huge_manifest(members: Members) -> None:
    """Terabytes of faces in a file of a few bytes."""
    name = MANIFEST_NAME
    manifest = json.loads(members.data(name))
    manifest["frames"] = 2**31 - 1
    manifest["files"]["faces"]["shape"][0] = 2**31 - 1
    exchanged(name, json.dumps(manifest).encode())(members)


def list_of(name: str, **changes: Any) -> Callable[[Members], None]:
    return lambda m: m.list(lambda value: value["files"][name].update(changes))


FACES = "faces.npy"
HOSTILE: dict[str, tuple[Callable[[Members], Any], str]] = {
    "symlink": (lambda m: m.append("x", type=tarfile.SYMTYPE, linkname="/etc"), "'x', which is a symbolic link"),
    "hard link": (lambda m: m.append("x", type=tarfile.LNKTYPE, linkname=FACES), "'x', which is a hard link"),
    "file as link": (
        lambda m: m.put(FACES, b"", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        r"faces\.npy', which is a symbolic link",
    ),
    "device": (lambda m: m.append("x", type=tarfile.CHRTYPE, devmajor=1, devminor=3), "which is a device"),
    "block device": (lambda m: m.append("x", type=tarfile.BLKTYPE), "which is a device"),
    "pipe": (lambda m: m.append("x", type=tarfile.FIFOTYPE), "which is a pipe"),
    "folder": (lambda m: m.append("ann/1", type=tarfile.DIRTYPE), "which is a folder"),
    "sparse": (lambda m: m.append("x", type=tarfile.GNUTYPE_SPARSE), "which is a sparse file"),
    "long name": (lambda m: m.append("x", b"y" * 600, type=tarfile.GNUTYPE_LONGNAME), "which is no plain file"),
    "pax header": (lambda m: m.append("x", b"9 path=/a\n", type=tarfile.XHDTYPE), "which is no plain file"),
    "global header": (lambda m: m.append("x", b"9 path=/a\n", type=tarfile.XGLTYPE), "no plain file"),
    "absolute": (lambda m: m.append("/tmp/evil", b"x"), "'/tmp/evil', which lipstream.json does not name"),
    "parent": (lambda m: m.append("../evil", b"x"), r"'\.\./evil', which lipstream.json does not name"),
    "absolute, listed": (listed("/tmp/evil"), "names '/tmp/evil', which is no part of an avatar"),
    "parent, listed": (listed("ann/../../evil"), r"names 'ann/\.\./\.\./evil', which is no part"),
    "code, listed": (listed("ann/1/model.py"), "model.py', which is no part of an avatar"),
    "config, listed": (listed("config.pbtxt"), "config.pbtxt', which is no part of an avatar"),
    "other avatar, listed": (listed("bob/avatar.json"), "bob/avatar.json', which is no part"),
    "case, listed": (listed("ann/FACES.npy"), "FACES.npy', which is no part of an avatar"),
    "dot, listed": (listed("ann/./faces.npy"), "which is no part of an avatar"),
    "duplicate": (lambda m: m.append(FACES, m.data(FACES)), r"faces\.npy, twice|'faces\.npy', twice"),
    "duplicate list": (lambda m: m.append(LIST_NAME, m.data(LIST_NAME)), "lipstream.json', which"),
    "missing": (lambda m: m.members.pop(m.names().index(FACES)), r"lacks faces\.npy"),
    "missing, unlisted": (lambda m: m.list(lambda v: v["files"].pop(FACES)), r"lacks faces\.npy"),
    "no list": (lambda m: m.members.pop(0), "does not begin with lipstream.json"),
    "huge list": (lambda m: m.put(LIST_NAME, b" " * (2 << 20)), "does not begin with lipstream.json"),
    "nested list": (lambda m: m.put(LIST_NAME, b"[" * 500_000), "is no list of an avatar's files"),
    "list of a list": (lambda m: m.put(LIST_NAME, b"[]"), "is no list of an avatar's files"),
    "future format": (lambda m: m.list(lambda v: v.update(format=3)), "of format 3; this version reads format 2"),
    "other kind": (lambda m: m.list(lambda v: v.update(kind="cat")), "its kind is 'cat'"),
    "id is a path": (lambda m: m.list(lambda v: v.update(avatar="../x")), "is not an avatar id"),
    "id is a number": (lambda m: m.list(lambda v: v.update(avatar=5)), "is no list of an avatar's files"),
    "more than it may say": (lambda m: m.list(lambda v: v.update(network="bob")), "is no list of an avatar's"),
    "terabytes": (list_of(FACES, bytes=2**50), "has room for"),
    "size is no number": (list_of(FACES, bytes="1"), "cannot be 1 bytes long"),
    "size is true": (list_of(FACES, bytes=True), "cannot be True bytes long"),
    "size is NaN": (list_of(FACES, bytes=float("nan")), "cannot be nan bytes long"),
    "graph of gigabytes": (list_of("network.onnx", bytes=2**31), "cannot be 2147483648 bytes"),
    "sha is a path": (list_of(FACES, sha256="../x"), "has no SHA-256"),
    "other size": (list_of(FACES, bytes=9), r"faces\.npy in .* is \d+ bytes long; lipstream.json says 9"),
    "other content": (lambda m: m.put(FACES, m.data(FACES)[:-1] + b"\0"), r"faces\.npy in .* is damaged"),
    "other content, listed": (
        lambda m: exchanged(FACES, m.data(FACES)[:-1] + bytes([m.data(FACES)[-1] ^ 1]))(m),
        r"faces\.npy is damaged: its SHA-256 is not the manifest's",
    ),
    "manifest of another": (manifest_with(id="bob"), "avatar.json in .* is of another avatar"),
    "manifest of terabytes": (huge_manifest, r"faces\.npy is not a \.npy file of uint8 \[2147483647"),
    "weights elsewhere": (exchanged_graph("network", evil_onnx()), "keeps its weights in other files"),
    "encoder elsewhere": (
        exchanged_graph("encoder", evil_onnx()), "keeps its weights in other files",
    ),
    "another network": (
        exchanged_graph("network", network_graph(5).SerializeToString()), "has the key 5",
    ),
    "no network": (exchanged_graph("network", b"MZ" * 99), "is no ONNX graph"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_archive_is_refused_in_a_sentence_and_nothing_appears(
    packed: Path, target: Path, tmp_path: Path, case: str
) -> None:
    spoil, error = HOSTILE[case]
    members = Members(packed)
    spoil(members)
    hostile = members.write(tmp_path / "hostile.tar", compressed=len(case) % 2 == 0)
    around = listing(tmp_path)
    with pytest.raises(LipstreamError, match=error) as refusal:
        unpack_avatar(hostile, UnpackSettings(target))
    text = str(refusal.value)
    assert "hostile.tar" in text
    assert len(text) < 500
    assert "\n" not in text
    assert listing(tmp_path) == around


def test_names_of_bytes_that_are_no_text(packed: Path, target: Path, tmp_path: Path) -> None:
    members = Members(packed)
    members.append("ann/\udcff\udcfe\x1b[2J", b"x")
    before = listing(target)
    with pytest.raises(ExportError, match=r"which lipstream\.json does not name"):
        unpack_avatar(members.write(tmp_path / "a.tar", False), UnpackSettings(target))
    assert listing(target) == before


def test_a_cut_archive_is_refused_wherever_it_is_cut(packed: Path, target: Path, tmp_path: Path) -> None:
    data = packed.read_bytes()
    before = listing(target)
    for share in (0.001, 0.1, 0.5, 0.9, 0.999, 1 - 600 / len(data)):
        cut = tmp_path / "cut.tar"
        cut.write_bytes(data[: int(share * len(data))])
        with pytest.raises(ExportError, match=r"cut\.tar is cut off"):
            unpack_avatar(cut, UnpackSettings(target))
        assert listing(target) == before


def test_what_does_not_fit_the_disk_is_refused_before_it_is_tried(
    packed: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = listing(target)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(10**9, 10**9, 10**6))
    with pytest.raises(ExportError, match=r"ann\.tar holds \d+ MB; .*target has room for 1 MB"):
        unpack_avatar(packed, UnpackSettings(target))
    assert listing(target) == before


def test_a_disk_that_is_full_after_all(packed: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    before = listing(target)
    monkeypatch.setattr(archive_module, "_write", full)
    with pytest.raises(ExportError, match="target cannot be written: No space left on device"):
        unpack_avatar(packed, UnpackSettings(target))
    assert listing(target) == before


# --- killed ---
KILLED = """
import os, signal, sys
from pathlib import Path
from export import archive, atomic
from export.archive import UnpackSettings, unpack_avatar

calls, at = 0, int(sys.argv[3])

def counted(function):
    def call(*arguments, **named):
        global calls
        calls += 1
        if calls == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **named)
    return call

for name in ("_write", "_rename", "_check_stage"):
    setattr(archive, name, counted(getattr(archive, name)))
for name in ("_sync_tree", "_mark_ready", "_exchange", "_sync_folder"):
    setattr(atomic, name, counted(getattr(atomic, name)))
unpack_avatar(Path(sys.argv[1]), UnpackSettings(Path(sys.argv[2]), replace=True))
"""


@pytest.fixture(scope="module")
def other_packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An older ``ann``."""
    sources = Sources.write(tmp_path_factory.mktemp("other"), key=7, seed=9)
    build_avatar(sources.settings(), open_frames(sources.frames), BOXES)
    pack_avatar(sources.avatars / "ann", out := tmp_path_factory.mktemp("older") / "ann.tar")
    return out


def killed_at(moment: int, archive: Path, avatars: Path) -> int:
    command = [sys.executable, "-c", KILLED, str(archive), str(avatars), str(moment)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode


@pytest.mark.parametrize("moment", [1, 10, 15, 19, 20, 22])
def test_killed_at_any_moment_the_old_avatar_or_the_new_one_is_there(
    packed: Path, other_packed: Path, whole: Path, tmp_path: Path, moment: int
) -> None:
    unpack_avatar(other_packed, UnpackSettings(tmp_path))
    old = models(tmp_path)
    assert killed_at(moment, packed, tmp_path) == -signal.SIGKILL
    list(check_avatars(tmp_path))  # finishes what was ready
    shown = {name: data for name, data in models(tmp_path).items() if not name.startswith(".")}
    assert shown == (old if moment < 20 else models(whole))
    unpack_avatar(packed, UnpackSettings(tmp_path, replace=True))
    assert models(tmp_path) == models(whole)


# --- command line ---
@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commands(whole: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pack", "ann", "--avatars", str(whole), "--out", "ann.tar.gz"]) == 0
    assert "ann.tar.gz: ann, 4 frames of 120x90 px, 328 family, ave; 13 files" in capsys.readouterr().out
    assert main(["pack", str(whole / "ann"), "--out", "ann.tar"]) == 0
    assert main(["unpack", "ann.tar.gz", "--avatars", "there"]) == 0
    out = capsys.readouterr().out
    assert "there/ann is ready: python -m server --avatars there" in out
    assert main(["unpack", "ann.tar", "--avatars", "there", "--id", "eve"]) == 0
    assert {path.name for path in Path("there").glob("[!.]*")} == {"ann", "eve"}
    assert main(["unpack", "ann.tar", "--avatars", "there"]) == 1
    assert "error: there/ann is there already" in capsys.readouterr().err
    assert main(["unpack", "ann.tar", "--avatars", "there", "--replace"]) == 0


@pytest.mark.parametrize(
    ("command", "error"),
    [
        (["pack", "../x", "--out", "a.tar"], "cannot be read"),
        (["pack", "Nobody!", "--out", "a.tar"], "is not an avatar id"),
        (["pack", "nobody", "--out", "a.tar"], r"avatars/nobody/avatar\.json cannot be read"),
        (["unpack", "gone.tar", "--avatars", "there"], r"gone\.tar is not there"),
        (["unpack", "gone.tar", "--avatars", "there", "--id", "../x"], "is not an avatar id"),
    ],
)
def test_wrong_calls(here: Path, capsys: pytest.CaptureFixture[str], command: list[str], error: str) -> None:
    assert main(command) == 1
    assert capsys.readouterr().err.startswith("error: ")
    assert list(here.iterdir()) == []
