from __future__ import annotations

import json
from pathlib import Path

import pytest

from export.engine_record import RECORD_FILE, EngineRecord, engine_files
from export.errors import ExportError

RECORD = EngineRecord(
    platform="some-gpu-trt10.13.0",
    gpu="Some GPU",
    compute_capability="9.0",
    driver="575.1",
    tensorrt="10.13.0",
    onnxruntime="1.22.0",
    network_sha256="ab" * 32,
    rows=4,
    psnr_db=61.5,
    max_difference=1,
    frames=5,
    files={},
)


def changed(folder: Path, **changes: object) -> None:
    value = {**json.loads((folder / RECORD_FILE).read_text()), **changes}
    text = json.dumps({name: entry for name, entry in value.items() if entry is not None})
    (folder / RECORD_FILE).write_text(text)


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    RECORD.write(tmp_path)
    assert EngineRecord.load(tmp_path) == RECORD


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rows": None}, "expected the fields"),
        ({"more": 1}, "expected the fields"),
        ({"rows": "4"}, "rows: expected int"),
        ({"rows": True}, "rows: expected int"),
        ({"files": ["a"]}, "files: expected dict"),
        ({"files": {"a": 1}}, "files: expected dict"),
        ({"psnr_db": "high"}, "psnr_db: expected float"),
    ],
)
def test_what_is_no_record_is_refused(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    RECORD.write(tmp_path)
    changed(tmp_path, **changes)
    with pytest.raises(ExportError, match=words):
        EngineRecord.load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000])
def test_a_file_of_anything_else_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / RECORD_FILE).write_bytes(content)
    with pytest.raises(ExportError, match=RECORD_FILE):
        EngineRecord.load(tmp_path)


def test_engines_are_all_files_but_the_record_and_the_providers_notes(tmp_path: Path) -> None:
    for name in ("a.engine", "b.profile", "c.timing", RECORD_FILE):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "folder").mkdir()
    assert set(engine_files(tmp_path)) == {"a.engine", "b.profile"}
