"""Writes a report for people: Markdown with pictures, beside the JSON that everything else reads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from perf import plots
from perf.markdown import measured, quartiles, table
from perf.results import Figure, Plot, Report, Section, write_text
from perf.table import caption, comparison
from perf.targets import judge

JSON_NAME = "report.json"
MARKDOWN_NAME = "report.md"
_BETTER = {"less": "less is better", "more": "more is better", "": ""}


def write_report(report: Report, out: Path) -> Path:
    """Write ``report.json``, and what `render` writes, into `out`; the Markdown's path.

    The JSON is written first, so that nothing measured is lost if a picture cannot be drawn.
    """
    report.save(out / JSON_NAME)
    return render(report, out)


def render(report: Report, out: Path) -> Path:
    """Write ``report.md`` and a PNG for each plot into the folder `out`; the Markdown's path."""
    plots.write((plot for section in report.sections for plot in section.plots), out)
    path = out / MARKDOWN_NAME
    write_text(path, markdown(report))
    return path


def markdown(report: Report) -> str:
    """The whole report; pictures are named as `write_report` writes them."""
    parts = [
        "# Lipstream, measured",
        f"A {report.scale} run of {report.created}.",
        table(("machine", ""), report.machine.items()),
        "## Beside what it replaces",
        comparison(report),
        caption(report),
        "## Targets",
        _targets(report),
    ]
    for section in report.sections:
        parts += _section(section)
    return "\n\n".join(parts) + "\n"


def _targets(report: Report) -> str:
    rows = [
        (
            str(result.target.show),
            result.target.text,
            result.target.wanted,
            measured(result.figure),
            result.verdict,
        )
        for result in judge(report)
    ]
    return table(("", "what", "target", "measured", "verdict"), rows, right=(2, 3))


def _section(section: Section) -> Iterator[str]:
    yield f"## {section.title}"
    if section.text:
        yield section.text.strip()
    if section.figures:
        headings = ("what", "median", "quartiles", "", "name")
        yield table(headings, (_cells(figure) for figure in section.figures), right=(1, 2))
    yield from (_picture(plot) for plot in section.plots)


def _cells(figure: Figure) -> tuple[str, ...]:
    return figure.label, measured(figure), quartiles(figure), _BETTER[figure.better], f"`{figure.name}`"


def _picture(plot: Plot) -> str:
    return f"![{plot.title}]({plots.file_name(plot)})"
