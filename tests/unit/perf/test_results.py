from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from compositor_backend.errors import LipstreamError
from perf.results import Report, ReportError, write_text
from tests.unit.perf.sample import report


def test_a_report_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    saved = report()
    saved.save(tmp_path / "new" / "report.json")
    assert Report.load(tmp_path / "new" / "report.json") == saved
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["report.json"]


def test_a_figure_is_found_by_name() -> None:
    found = report().find("serving.lipstream.cpu_ms")
    assert found is not None
    assert found.value == 0.45
    assert report().find("nothing") is None


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"schema": 0}', '{"schema": 1}', '{"schema": 1, "sections": 5}', "\x00"]
)
def test_what_is_no_report_is_refused_in_one_sentence(text: str, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ReportError, match=r"report\.json .*(read|version|whole)"):
        Report.load(path)


@pytest.mark.parametrize(
    ("place", "damage"),
    [
        (("sections", 0, "figures", 0, "value"), "much"),
        (("sections", 0, "figures", 0, "value"), float("nan")),
        (("sections", 0, "figures", 0, "low"), []),
        (("sections", 0, "figures", 0), {"name": "a"}),
        (("sections", 0, "figures", 0), {"name": "a", "unknown": 1}),
        (("sections", 0, "plots", 0, "series"), None),
        (("sections", 0, "plots", 0, "series", 0, "points", 0), [1]),
        (("sections", 0, "plots", 0), 3),
        (("sections", 0), "x"),
        (("machine",), 7),
    ],
)
def test_a_damaged_report_is_refused_in_one_sentence(
    place: tuple[Any, ...], damage: object, tmp_path: Path
) -> None:
    path = tmp_path / "report.json"
    report().save(path)
    whole = json.loads(path.read_text(encoding="utf-8"))
    inner = whole
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = damage
    path.write_text(json.dumps(whole), encoding="utf-8")
    with pytest.raises(ReportError, match="is not a whole report"):
        Report.load(path)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LipstreamError, match="cannot be read"):
        Report.load(path)


def test_a_report_that_is_not_there_names_the_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="make perf"):
        Report.load(tmp_path / "report.json")


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ReportError, match="cannot be made"):
        report().save(tmp_path / "file" / "out" / "report.json")


def test_a_file_that_cannot_be_written_stays_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "report.md").mkdir()
    with pytest.raises(ReportError, match="cannot be written"):
        write_text(tmp_path / "report.md", "x")
    assert (tmp_path / "report.md").is_dir()
