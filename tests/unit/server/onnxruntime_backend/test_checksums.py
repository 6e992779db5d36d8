from __future__ import annotations

import hashlib
from pathlib import Path

import onnx
import pytest

from export.checksums import record_sums
from server.errors import ModelLoadError
from server.onnxruntime_backend import checksums
from server.onnxruntime_backend.checksums import check_written_since
from tests.support.onnx_models import doubling_graph
from tests.support.scenes import age


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's version folder as an import leaves it, a minute later."""
    version = tmp_path / "lipsync_may" / "1"
    version.mkdir(parents=True)
    onnx.save(doubling_graph(), version / "model.onnx")
    record_sums(version.parent)
    age(version.parent)
    age(version)
    return version


def change(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_model_as_it_was_imported_is_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checksums, "_sha256", lambda path: pytest.fail(f"{path} was read"))
    check_written_since("lipsync_may", folder)


def test_a_model_that_was_only_touched_is_sound(folder: Path) -> None:
    (folder / "model.onnx").touch()
    check_written_since("lipsync_may", folder)


def test_a_model_written_since_is_refused_and_named(folder: Path) -> None:
    change(folder / "model.onnx")
    with pytest.raises(ModelLoadError, match=r"^lipsync_may: .*/1/model\.onnx is damaged: its SHA-256"):
        check_written_since("lipsync_may", folder)


def test_further_files_that_are_listed_are_compared_too(folder: Path) -> None:
    weights = folder / "model.data"
    weights.write_bytes(b"weights")
    with (folder.parent / "SHA256SUMS").open("a") as sums:
        sums.write(f"{hashlib.sha256(b'weights').hexdigest()} *1/model.data\n")
    age(folder.parent)
    check_written_since("lipsync_may", folder)
    change(weights)
    with pytest.raises(ModelLoadError, match=r"model\.data is damaged"):
        check_written_since("lipsync_may", folder)


def test_files_that_are_not_listed_are_not_compared(folder: Path) -> None:
    (folder / "model.plan").write_bytes(b"built on this machine")
    check_written_since("lipsync_may", folder)


def test_without_checksums_nothing_is_compared(folder: Path) -> None:
    (folder.parent / "SHA256SUMS").unlink()
    change(folder / "model.onnx")
    check_written_since("lipsync_may", folder)


def test_checksums_that_cannot_be_read_are_named(folder: Path) -> None:
    (folder.parent / "SHA256SUMS").write_bytes(b"\xff\xfe")
    with pytest.raises(ModelLoadError, match=r"^lipsync_may: what .*SHA256SUMS lists cannot be compared"):
        check_written_since("lipsync_may", folder)
