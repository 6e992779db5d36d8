"""Folders made to do harm are refused in one sentence: nothing is run, nothing written, no memory taken for it."""

from __future__ import annotations

import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.forked_commands import Commands, Outcome, forked_commands
from tests.support.user_folders import FRAMES, Fresh, UserFolder

MOST_MB_MORE = 40.0
"""Than an ordinary refused import takes; each bomb here asks for 190 MB or more, most of them for 100 GB."""
MARKER = Path("/tmp") / f"lipstream-code-ran-{os.getpid()}"
CLAIMED = 100 << 30


@pytest.fixture(scope="module")
def run() -> Iterator[Commands]:
    with forked_commands(["torch", "export.checkpoints"]) as commands:
        yield commands
    assert not MARKER.exists()


def refusal(run: Commands, folder: UserFolder, avatars: Path) -> Outcome:
    outcome = run("import", str(folder.path), "--id", "ann", "--avatars", str(avatars))
    assert outcome.status == 1, outcome.error
    assert not avatars.exists() or [path.name for path in avatars.iterdir()] == [".import.lock"]
    return outcome


@pytest.fixture(scope="module")
def ordinary_mb() -> list[float]:
    """The memory of imports that were refused for an ordinary reason; filled by the first test that asks."""
    return []


@pytest.fixture
def refuse(
    run: Commands, fresh: Fresh, tmp_path: Path, ordinary_mb: list[float]
) -> Callable[[UserFolder], str]:
    """Import a folder, which must be refused in one sentence; the sentence."""

    def check(folder: UserFolder) -> str:
        if not ordinary_mb:
            other = fresh("synctalk")
            (other.path / "landmarks" / f"{FRAMES - 1}.lms").unlink()
            ordinary_mb.append(refusal(run, other, tmp_path / "avatars").peak_mb)
        outcome = refusal(run, folder, tmp_path / "avatars")
        assert outcome.peak_mb < ordinary_mb[0] + MOST_MB_MORE
        assert outcome.error.startswith("error: ")
        assert outcome.error.count("\n") == 1
        return outcome.error

    return check


# --- pickles ---
class Call:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self._call


PICKLES = {
    "system": (pickle.dumps([Call(os.system, f"touch {MARKER}")]), "wants to call posix.system"),
    "exec": (pickle.dumps(Call(exec, f"open({str(MARKER)!r}, 'w')")), "wants to call builtins.exec"),
    "array": (pickle.dumps(np.array([object()], object)), "wants to call numpy.core.multiarray._reconstruct"),
    "memo": (b"\x80\x04]r" + struct.pack("<I", 1 << 31) + b".", "does more than 6 boxes need"),
    "bytes": (b"\x80\x05\x96" + struct.pack("<Q", CLAIMED) + b".", "coords.pkl"),
    "text": (b"\x80\x04\x8d" + struct.pack("<Q", CLAIMED) + b".", "coords.pkl"),
    "integer": (b"\x80\x04\x8b" + struct.pack("<i", (1 << 31) - 1) + b"\1.", "coords.pkl"),
    "depth": (b"\x80\x04" + b"(" * (1 << 20) + b"t" * (1 << 20) + b".", "more than 6 boxes need"),
    "lists": (b"\x80\x04(" + b"]" * (20 << 20) + b"l.", "more than 6 boxes need"),
}


@pytest.mark.parametrize("kind", PICKLES)
def test_a_pickle(fresh: Fresh, refuse: Callable[[UserFolder], str], kind: str) -> None:
    data, message = PICKLES[kind]
    folder = fresh("livetalking_ultralight")
    (folder.path / "coords.pkl").write_bytes(data)
    assert message in refuse(folder)


# --- pictures ---
def black_png(side_px: int) -> bytes:
    """A picture of three bytes a pixel, all of them nought: a thousandth of them on disk."""
    row = zlib.compressobj(9)
    packed = b"".join([*(row.compress(bytes(1 + 3 * side_px)) for _ in range(side_px)), row.flush()])
    header = struct.pack(">IIBBBBB", side_px, side_px, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", packed), (b"IEND", b""))
    body = (struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


@pytest.fixture(scope="module")
def bomb() -> bytes:
    """8000 x 8000 px, 192 MB when it is decoded: few enough for a frame, but no frame beside the others."""
    return black_png(8000)


@pytest.mark.parametrize(
    ("maker", "place"),
    [
        ("go_v1", "frames/frame_0003.png"),
        ("livetalking_ultralight", "full_imgs/00000005.png"),
        ("livetalking_ultralight", "face_imgs/00000002.png"),
        ("synctalk", "full_body_img/1.jpg"),
    ],
)
def test_a_bomb_among_the_frames(
    fresh: Fresh, refuse: Callable[[UserFolder], str], bomb: bytes, maker: str, place: str
) -> None:
    folder = fresh(maker)
    (folder.path / place).write_bytes(bomb)
    assert f"{place} is 8000x8000 px" in refuse(folder)


def test_a_bomb_as_the_first_frame(fresh: Fresh, refuse: Callable[[UserFolder], str]) -> None:
    folder = fresh("go_v1")
    path = folder.path / "frames" / "frame_0000.png"
    data = path.read_bytes()
    ihdr = b"IHDR" + struct.pack(">II", 60_000, 60_000) + data[24:29]
    path.write_bytes(data[:12] + ihdr + struct.pack(">I", zlib.crc32(ihdr)) + data[33:])
    assert "frame_0000.png claims" in refuse(folder)


# --- checkpoints ---
def claim_storage(path: Path) -> None:
    """The first tensor's storage is said to have 25 billion numbers."""
    _rewrite(path, pickled=lambda data: _claimed(data, data.index(b"cpu")))


def claim_old_storage(path: Path) -> None:
    """The same in the form that PyTorch wrote before it wrote archives."""
    torch.save({"weight": torch.zeros(4)}, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    path.write_bytes(_claimed(data, data.index(b"cpu")))


def _claimed(data: bytes, after: int) -> bytes:
    """The next small integer of a pickle after that place, as 25 billion."""
    at = min(found for found in (data.find(code, after) for code in (b"K", b"M")) if found >= 0)
    size = {b"K": 2, b"M": 3}[data[at : at + 1]]
    return data[:at] + b"\x8a\x05" + (CLAIMED // 4).to_bytes(5, "little") + data[at + size :]


def stretch(path: Path) -> None:
    """A weight of one number that says it has a hundred billion of them."""
    state = torch.load(path, weights_only=True)
    state["outc.conv.weight"] = torch.zeros(1).expand(10**11)
    torch.save(state, path)


def deflate(path: Path) -> None:
    """The first tensor unpacks to 256 MB."""

    def packed(archive: zipfile.ZipFile, name: str) -> None:
        entry = zipfile.ZipInfo(name)
        entry.compress_type = zipfile.ZIP_DEFLATED
        with archive.open(entry, "w") as file:
            for _ in range(1 << 8):
                file.write(bytes(1 << 20))

    _rewrite(path, tensor=packed)


def _rewrite(
    path: Path,
    pickled: Callable[[bytes], bytes] = lambda data: data,
    tensor: Callable[[zipfile.ZipFile, str], None] | None = None,
) -> None:
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            if tensor is not None and name.endswith("/data/0"):
                tensor(archive, name)
            else:
                archive.writestr(name, pickled(data) if name.endswith("data.pkl") else data)


def code(path: Path) -> None:
    path.write_bytes(pickle.dumps(Call(os.system, f"touch {MARKER}"), 2))


def code_in_an_archive(path: Path) -> None:
    torch.save({"weight": Call(os.system, f"touch {MARKER}")}, path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (claim_storage, "is no checkpoint or is truncated"),
        (claim_old_storage, "is no checkpoint or is truncated"),
        (stretch, "outc.conv.weight has shape [100000000000] and fewer numbers"),
        (deflate, "to be compressed"),
        (code, "wants to call posix.system"),
        (code_in_an_archive, "wants to call posix.system"),
    ],
)
def test_a_checkpoint(
    fresh: Fresh, refuse: Callable[[UserFolder], str], spoil: Callable[[Path], None], message: str
) -> None:
    folder = fresh("livetalking_ultralight")
    spoil(folder.path / "ultralight.pth")
    assert message in refuse(folder)
