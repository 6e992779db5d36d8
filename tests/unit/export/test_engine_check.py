from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from compositor_backend.engines import engine_folder
from compositor_backend.manifest import NETWORK, Manifest
from export.avatar import build_avatar
from export.check import check_avatar
from export.engine_check import engine_findings
from export.engine_record import EngineRecord, engine_files
from export.frames import open_frames
from tests.support.avatar_sources import BOXES, Sources

PLATFORM = "some-gpu-trt10.13.0"


@pytest.fixture
def avatar(tmp_path: Path) -> Path:
    sources = Sources.write(tmp_path)
    return build_avatar(sources.settings("ann"), open_frames(sources.frames), BOXES)


def with_engines(avatar: Path, **changes: object) -> Path:
    """A folder of engines of the avatar's network, whose record is changed."""
    sha256 = Manifest.load(avatar).graphs[NETWORK].sha256
    folder = engine_folder(avatar, PLATFORM, sha256)
    folder.mkdir(parents=True)
    (folder / "a.engine").write_bytes(b"engine")
    record = EngineRecord(
        platform=PLATFORM,
        gpu="Some GPU",
        compute_capability="9.0",
        driver="575.1",
        tensorrt="10.13.0",
        onnxruntime="1.22.0",
        network_sha256=sha256,
        rows=4,
        psnr_db=61.5,
        max_difference=1,
        frames=5,
        files=engine_files(folder),
    )
    dataclasses.replace(record, **changes).write(folder)  # type: ignore[arg-type]
    return folder


def found(avatar: Path) -> list[tuple[bool, str]]:
    return list(engine_findings(avatar, Manifest.load(avatar)))


def test_an_avatar_without_engines_has_no_finding(avatar: Path) -> None:
    assert found(avatar) == []
    assert "engines" not in {finding.part for finding in check_avatar(avatar)}


def test_whole_engines_are_described(avatar: Path) -> None:
    with_engines(avatar)
    ((good, text),) = found(avatar)
    assert good
    for words in (PLATFORM, "onnxruntime 1.22.0", "1 to 4 rows", "61.5 dB"):
        assert words in text
    (finding,) = (finding for finding in check_avatar(avatar) if finding.part == "engines")
    assert (finding.good, finding.text) == (good, text)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"network_sha256": "0" * 64}, "another network"),
        ({"platform": "other-gpu-trt10.13.0"}, "holds engines for other-gpu"),
        ({"files": {}}, "is no part of the engines"),
        ({"files": {"a.engine": "0" * 64}}, "is damaged"),
    ],
)
def test_engines_of_something_else_are_found(avatar: Path, changes: dict[str, object], words: str) -> None:
    with_engines(avatar, **changes)
    ((good, text),) = found(avatar)
    assert not good
    assert words in text


def test_engines_without_a_record_are_found(avatar: Path) -> None:
    (with_engines(avatar) / "engine.json").unlink()
    ((good, text),) = found(avatar)
    assert not good
    assert "engine.json is not there" in text
