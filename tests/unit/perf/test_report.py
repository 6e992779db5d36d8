from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from perf.report import markdown, render, write_report
from perf.results import Report, ReportError, Section
from perf.table import comparison
from tests.unit.perf.sample import SERVING, report, table_rows


def test_a_report_is_markdown_json_and_a_picture_for_each_plot(tmp_path: Path) -> None:
    path = write_report(report(), tmp_path / "perf")
    assert path == tmp_path / "perf" / "report.md"
    assert {file.name for file in path.parent.iterdir()} == {
        "report.md",
        "report.json",
        "stages.png",
        "streams.png",
        "waterfall.png",
    }
    assert Report.load(path.with_name("report.json")) == report()
    text = path.read_text(encoding="utf-8")
    for name in ("stages", "streams", "waterfall"):
        assert f"]({name}.png)" in text
        with Image.open(io.BytesIO((path.parent / f"{name}.png").read_bytes())) as picture:
            assert picture.width > 1000


def test_the_report_says_machine_comparison_targets_and_every_figure() -> None:
    text = markdown(report())
    rows = table_rows(text)
    assert ["CPU", "Some CPU"] in rows
    assert comparison(report()) in text
    assert [
        "2",
        "a frame but for the U-Net, all processes",
        "≤ 0.5 ms/frame",
        "0.45 ms/frame",
        "met",
    ] in rows
    ratio = ["whole | spliced", "9.10×", "8.90 to 9.40×", "more is better", "`compose.1280x720.ratio`"]
    assert ratio in rows
    assert ["Lipstream", "0.43 ms", "–", "less is better", "`compose.1280x720.lipstream_ms`"] in rows
    assert text.index("## Stages of a frame") < text.index("Measured side by side.")
    assert text.index("Measured side by side.") < text.index("## Serving without a network")
    assert "\n\n\n" not in text


def test_what_was_measured_is_kept_where_a_picture_cannot_be_drawn(tmp_path: Path) -> None:
    bad = Section("a", "A", "", SERVING.figures, (SERVING.plots[0], SERVING.plots[0]))
    with pytest.raises(ReportError, match="two plots"):
        write_report(report(bad), tmp_path)
    assert Report.load(tmp_path / "report.json") == report(bad)


def test_rendering_leaves_the_json_alone(tmp_path: Path) -> None:
    render(report(), tmp_path)
    assert not (tmp_path / "report.json").exists()
