from __future__ import annotations

from pathlib import Path

import pytest

from perf import table
from perf.results import Figure, Report, ReportError, Section
from perf.table import BEGIN, END, READMES, outdated
from server.settings import ROOT
from tests.unit.perf.sample import MACHINE, report, table_rows

README = f"# Title\n\n{BEGIN}\n\nnot measured yet\n\n{END}\n\nThe end.\n"


def row(text: str, label: str) -> list[str]:
    return next(cells for cells in table_rows(text) if label in cells[0])


def test_measured_values_stand_beside_the_seed_s_and_the_others_are_dashes() -> None:
    text = table.comparison(report())
    assert len(table_rows(text)) == 1 + len(table.ROWS)
    assert row(text, "composite and encode")[1:] == [
        "2.2 ms, all cores at work",
        "3.92 ms",
        "0.43 ms",
        "≤ 0.5 ms",
    ]
    assert row(text, "bytes on the wire")[1:4] == [
        "3.69 MB, by the shapes of its tensors",
        "3.69 MB/frame",
        "–",
    ]
    assert row(text, "first frame")[1:] == ["13.6 s", "–", "–", "≤ 1.0 s"]


def test_the_floor_stands_beside_the_target_where_it_was_measured() -> None:
    name = "compose.1280x720.floor_ms"
    floor = Section("a", "A", "", (Figure(name, "floor", 0.114, "ms/frame"),))
    assert row(table.comparison(report(floor)), "composite and encode")[4] == "≤ 0.5 ms; floor 0.114 ms/frame"


def test_the_caption_names_machine_date_and_revision() -> None:
    text = table.caption(report())
    for words in ("2026-02-03", "2 cores of Some CPU", "8 GiB", "no GPU", "abc123", "quick", "RTX 4090"):
        assert words in text
    assert "no GPU" not in table.caption(report(machine={**MACHINE, "GPU": "Some GPU"}))
    assert "unknown" in table.caption(report(machine={}))


def test_the_table_takes_the_place_between_the_markers_and_nothing_else() -> None:
    once = table.replaced(README, report(), "README")
    assert once.startswith(f"# Title\n\n{BEGIN}\n")
    assert once.endswith(f"\n{END}\n\nThe end.\n")
    assert "not measured yet" not in once
    assert table.comparison(report()) in once
    assert table.replaced(once, report(), "README") == once


@pytest.mark.parametrize("text", ["", BEGIN, END, f"{END}\n{BEGIN}"])
def test_a_text_without_the_pair_of_markers_is_refused(text: str) -> None:
    with pytest.raises(ReportError, match="README has no place for the table"):
        table.replaced(text, report(), "README")


def test_only_files_that_differ_are_outdated(tmp_path: Path) -> None:
    old, new = tmp_path / "old.md", tmp_path / "new.md"
    old.write_text(README, encoding="utf-8")
    new.write_text(table.replaced(README, report(), "new.md"), encoding="utf-8")
    assert list(table.outdated(report(), [old, new])) == [old]
    with pytest.raises(ReportError, match="cannot be read"):
        table.outdated(report(), [tmp_path / "none.md"])


def test_the_project_s_own_readmes_have_the_markers() -> None:
    assert len(table.READMES) == 2
    for file in table.READMES:
        text = file.read_text(encoding="utf-8")
        assert text.count(BEGIN) == text.count(END) == 1
        table.replaced(text, report(), str(file))


def test_the_readmes_hold_the_table_of_the_committed_report() -> None:
    """Generated, not typed: `python -m perf table docs/performance/report.json` writes it."""
    report = Report.load(ROOT / "docs" / "performance" / "report.json")
    assert outdated(report, READMES) == {}
