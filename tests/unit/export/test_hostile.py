"""Input that was made to do harm: refused in one sentence, nothing written, little memory taken."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from compositor_backend.manifest import MANIFEST_NAME
from export.archive import LIST_NAME, pack_avatar
from export.avatar import build_avatar
from export.frames import open_frames
from export.tar_stream import header
from tests.support.avatar_sources import BOXES, Sources, encoder_graph, network_graph

ROOT = Path(__file__).parents[3]
MARGIN_BYTES = 128 << 20
"""Less than half of the smallest bomb; 4 MiB of JSON, the most that is read at all, take 90 MiB."""

# Linux keeps the high-water mark of a process's own memory; getrusage's may be inherited from the parent.
CHILD = """
import contextlib, io, json, sys
from export.cli import main

def peak():
    lines = dict(line.split(":") for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return int(lines["VmHWM"].split()[0]) * 1024

told = []
for command in json.load(sys.stdin):
    with contextlib.redirect_stderr(io.StringIO()) as err, contextlib.redirect_stdout(io.StringIO()) as out:
        status = main(command)
    told.append([status, err.getvalue(), out.getvalue(), peak()])
json.dump(told, sys.stdout)
"""


@dataclass
class World:
    """Honest sources, a repository with an avatar, and files to spoil."""

    sources: Sources
    packed: Path
    folder: Path

    @property
    def target(self) -> Path:
        return self.sources.avatars

    def avatar(self, **changes: Path) -> list[str]:
        paths = {
            "frames": self.sources.frames,
            "boxes": self.sources.boxes,
            "onnx": self.sources.network,
            "encoder": self.sources.encoder,
            "avatars": self.target,
        }
        options = [f"--{name}={path}" for name, path in (paths | changes).items()]
        return ["avatar", "--id", "eve", *options]

    def file(self, name: str, data: bytes = b"", size: int = 0) -> Path:
        """A file in a folder of its own, as long as `size` without taking the room."""
        path = self.folder / name / name
        path.parent.mkdir()
        with path.open("wb") as file:
            file.write(data)
            file.truncate(max(size, len(data)))
        return path

    def copy(self, name: str) -> Path:
        return Path(shutil.copytree(self.target, self.folder / name))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    sources = Sources.write(tmp_path_factory.mktemp("sources"))
    build_avatar(sources.settings(), open_frames(sources.frames), BOXES)
    folder = tmp_path_factory.mktemp("hostile")
    packed = folder / "ann.tar"
    pack_avatar(sources.avatars / "ann", packed)
    return World(sources, packed, folder)


# --- what is sent ---
def wild_graph() -> onnx.ModelProto:
    """As exported by others: input and audio in, output out."""
    sides = {"input": [1, 6, 320, 320], "audio": [1, 32, 16, 16], "output": [1, 3, 320, 320]}
    tensors = {n: helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in sides.items()}
    nodes = [helper.make_node("Slice", ["input", "from", "to", "axis"], ["output"])]
    numbers = {"from": [0], "to": [3], "axis": [1]}
    weights = [helper.make_tensor(n, TensorProto.INT64, [1], value) for n, value in numbers.items()]
    graph = helper.make_graph(
        nodes, "wild", [tensors["input"], tensors["audio"]], [tensors["output"]], weights
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def with_secret(model: onnx.ModelProto, location: str, length: int = 4) -> bytes:
    """One more weight, kept in another file."""
    tensor = model.graph.initializer.add(name="secret", data_type=TensorProto.FLOAT, dims=[length // 4])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
    return model.SerializeToString()


def onnx_file(world: World, name: str, data: bytes) -> Path:
    """Beside a secret that a symbolic link leads to."""
    path = world.file(f"{name}.onnx", data)
    secret = world.folder / "secret.bin"
    secret.write_bytes(bytes(4096))
    (path.parent / "link.bin").symlink_to(secret)
    return path


def outside(world: World, what: str, graph: Callable[[], onnx.ModelProto]) -> dict[str, list[str]]:
    """Commands with a graph whose weights lie outside its folder, each in its own way."""
    secret = world.folder / "secret.bin"
    ways = {
        "absolute": with_secret(graph(), str(secret)),
        "parent": with_secret(graph(), "../secret.bin"),
        "link": with_secret(graph(), "link.bin"),
        "beyond the file": with_secret(graph(), "link.bin", 2**40),
    }
    option = "encoder" if what == "encoder" else "onnx"
    return {
        f"{what}, {way}": world.avatar(**{option: onnx_file(world, f"{what}-{way}".replace(" ", "_"), data)})
        for way, data in ways.items()
    }


def claiming(model: onnx.ModelProto) -> bytes:
    """A weight that claims four terabytes and brings four bytes."""
    model.graph.initializer.append(
        TensorProto(name="huge", data_type=TensorProto.FLOAT, dims=[2**20, 2**20], raw_data=bytes(4))
    )
    return model.SerializeToString()


def png_bomb(side: int) -> bytes:
    """A picture of `side` x `side` black pixels, as far as its data go."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    rows = zlib.compress(bytes(20 << 20), 9)
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def frames_with(world: World, name: str, data: bytes) -> Path:
    folder = Path(shutil.copytree(world.sources.frames, world.folder / name))
    (folder / "2.png").write_bytes(data)
    return folder


def landmarks_with(world: World, name: str, line: str, size: int = 0) -> Path:
    folder = world.folder / name
    folder.mkdir()
    for number in range(len(BOXES)):
        (folder / f"{number}.lms").write_text("10 10\n" * 109 + line + "\n")
    with (folder / "2.lms").open("ab") as file:
        file.truncate(max(size, file.tell()))
    return folder


def evil_tar(world: World, name: str, members: list[tuple[bytes, bytes]], tail: bytes = bytes(1024)) -> Path:
    data = b"".join(head + content + bytes(-len(content) % 512) for head, content in members)
    return world.file(name, gzip.compress(data + tail, 1))


def listed(world: World, size: int) -> tuple[bytes, bytes]:
    """The list of an honest archive, but for the size of its faces."""
    with tarfile.open(world.packed) as tar:
        value = json.loads(tar.extractfile(LIST_NAME).read())  # type: ignore[union-attr]
    value["files"]["faces.npy"]["bytes"] = size
    data = json.dumps(value).encode()
    return header(LIST_NAME, len(data)), data


def typed(name: str, kind: bytes, size: int = 0, link: str = "") -> bytes:
    member = tarfile.TarInfo(name)
    member.type, member.size, member.linkname = kind, size, link
    return member.tobuf(tarfile.GNU_FORMAT)


def archives(world: World) -> dict[str, tuple[Path, str]]:
    first = listed(world, 300 << 20)
    bomb = (header("faces.npy", 300 << 20), bytes(300 << 20))
    pax = typed("x", tarfile.XHDTYPE, 8 << 30)
    slip = world.folder / "slip.zip"
    with zipfile.ZipFile(slip, "w") as file:
        file.writestr("../evil", "x")
    return {
        "zip": (slip, "is a zip file; a .tar or .tar.gz made by"),
        "tar, zeros": (evil_tar(world, "zeros.tar.gz", [first, bomb]), "faces.npy"),
        "tar, header": (evil_tar(world, "pax.tar.gz", [first, (pax, bytes(100 << 20))]), "is no plain file"),
        "tar, behind": (evil_tar(world, "behind.tar.gz", [], bytes(300 << 20)), "goes on behind its end"),
        "tar, sparse": (
            evil_tar(world, "sparse.tar.gz", [first, (typed("x", tarfile.GNUTYPE_SPARSE, 1 << 40), b"")]),
            "which is a sparse file",
        ),
        "tar, link": (
            evil_tar(world, "link.tar.gz", [first, (typed("x", tarfile.SYMTYPE, link="/etc"), b"")]),
            "which is a symbolic link",
        ),
        "tar, parent": (
            evil_tar(world, "parent.tar.gz", [first, (header("../../evil", 1), b"x")]),
            "'../../evil'",
        ),
    }


def spoilt_pack(world: World, name: str, spoil: Callable[[Path], Any]) -> list[str]:
    folder = world.copy(name) / "ann"
    spoil(folder)
    return ["check", str(folder)]


def claim_terabytes(folder: Path) -> None:
    """A header of 128 bytes that claims four terabytes of faces, and a manifest that says the same."""
    frames = 2**31 - 1
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({frames}, 3, 320, 320), }}"
    data = b"\x93NUMPY\x01\x00" + struct.pack("<H", 118) + text.ljust(117).encode() + b"\n"
    (folder / "faces.npy").write_bytes(data)
    manifest = json.loads((folder / MANIFEST_NAME).read_text())
    manifest["frames"] = frames
    manifest["files"]["faces"] |= {"shape": [frames, 3, 320, 320], "bytes": len(data)}
    (folder / MANIFEST_NAME).write_text(json.dumps(manifest))


def hostile(world: World) -> dict[str, tuple[list[str], str]]:
    """Commands, and what each is refused with."""
    elsewhere = "keeps its weights in other files; a single file is wanted"
    cases: dict[str, tuple[list[str], str]] = {}
    for what, graph in (("network", network_graph), ("wild", wild_graph), ("encoder", encoder_graph)):
        cases |= {case: (command, elsewhere) for case, command in outside(world, what, graph).items()}
        path = onnx_file(world, f"{what}-claim", claiming(graph()))
        option = "encoder" if what == "encoder" else "onnx"
        cases[f"{what}, claims"] = (
            world.avatar(**{option: path}),
            "numbers in 5 bytes; it is cut off or damaged",
        )
    texts = {
        "nested": (b"[" * (4 << 20), 0, "nested.json cannot be read as JSON: maximum recursion"),
        "1 GB": (b"[" * 1000, 1 << 30, "is longer than 4194304 bytes"),
        "lists": (b"[" + b"[]," * (1_390_000) + b"[]]", 0, "frame 0: [] is no box"),
        "NaN": (b"[[0, NaN, 9, 9]]", 0, "[0, nan, 9, 9] is no box"),
        "infinity": (b"[[0, 0, 9, 1e999]]", 0, "[0, 0, 9, inf] is no box"),
        "digits": (b"[[0, 0, 9, " + b"9" * 5000 + b"]]", 0, "digits.json cannot be read as JSON"),
    }
    for name, (data, size, error) in texts.items():
        file = world.file(f"{name.replace(' ', '_')}.json", data, size)
        cases[f"boxes, {name}"] = (world.avatar(boxes=file), error)
    for name, (line, size, error) in {
        "NaN": ("nan 10", 0, "[nan, 10.0] is no point"),
        "infinity": ("10 1e999", 0, "[10.0, inf] is no point"),
        "1 GB": ("10 10", 1 << 30, "2.lms is longer than 65536 bytes"),
    }.items():
        folder = landmarks_with(world, f"lms_{name}", line, size)
        cases[f"landmarks, {name}"] = (world.avatar(boxes=folder), error)
    for side in (8000, 60_000):
        bomb = frames_with(world, f"bomb_{side}", png_bomb(side))
        cases[f"picture of {side} px"] = (world.avatar(frames=bomb), "2.png")
    for case, (file, error) in archives(world).items():
        cases[case] = (["unpack", str(file), "--avatars", str(world.target), "--id", "eve"], error)
    cases["zip as frames"] = (world.avatar(frames=world.folder / "slip.zip"), "is no folder and no video")
    packs: dict[str, tuple[Callable[[Path], Any], str]] = {
        "terabytes of faces": (
            claim_terabytes,
            "faces.npy is not a .npy file of uint8 [2147483647, 3, 320, 320]",
        ),
        "manifest of 1 GB": (
            lambda f: os.truncate(f / MANIFEST_NAME, 1 << 30),
            "is longer than 1048576 bytes",
        ),
        "network of 1 TB": (
            lambda f: os.truncate(f.parent / "ann" / "network.onnx", 1 << 40),
            "is 1099511627776 bytes long",
        ),
    }
    for case, (spoil, error) in packs.items():
        cases[case] = (spoilt_pack(world, case.replace(" ", "_"), spoil), error)
    return cases


# --- what comes of it ---
def run(commands: list[list[str]]) -> list[tuple[int, str, str, int]]:
    """Run commands in one process: each one's exit status, stderr, stdout, and the most memory taken so far."""
    child = subprocess.run(
        [sys.executable, "-c", CHILD],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "500"},
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        check=True,
    )
    return [tuple(entry) for entry in json.loads(child.stdout)]


def listing(folder: Path) -> dict[str, bytes | None]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def test_hostile_input_is_refused_in_a_sentence_with_nothing_written_and_little_memory(world: World) -> None:
    (world.folder / "wrong.onnx").write_bytes(network_graph().SerializeToString())
    honest = world.avatar(encoder=world.folder / "wrong.onnx")
    cases = hostile(world)
    before = listing(world.target)
    commands = [honest, *(command for command, _ in cases.values())]
    (status, error, _, usual), *told = run(commands)
    assert (status, "MEL are wanted" in error) == (1, True)
    for (case, (_, wanted)), (status, error, out, peak) in zip(cases.items(), told, strict=True):
        assert status == 1, case
        assert wanted in (error or out), (case, error or out)
        assert error.count("\n") == (1 if error else 0), (case, error)
        assert len(error) < 500, (case, error)
        assert peak < usual + MARGIN_BYTES, (
            f"{case}: {(peak - usual) / 1e6:.0f} MB more than an honest refusal"
        )
    assert listing(world.target) == before
    assert not (world.target.parent / "evil").exists()


def test_the_honest_versions_of_the_same_are_taken(world: World, tmp_path: Path) -> None:
    """Else the refusals above would prove nothing."""
    network = tmp_path / "wild.onnx"
    onnx.save(wild_graph(), str(network))
    commands = [
        [*world.avatar(avatars=tmp_path / "a")],
        [*world.avatar(avatars=tmp_path / "b", onnx=network)],
        ["unpack", str(world.packed), "--avatars", str(tmp_path / "c")],
        ["check", str(world.target)],
    ]
    told = run(commands)
    assert [status for status, *_ in told] == [0, 0, 0, 0], told
