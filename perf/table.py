"""The performance table: the replaced system's own figures, the baseline's and Lipstream's; kept in the READMEs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from perf.machine import NO_GPU
from perf.markdown import NOT_MEASURED, measured, table
from perf.results import Report, ReportError
from server.settings import ROOT

BEGIN = "<!-- performance table: begin (written by `python -m perf table`) -->"
END = "<!-- performance table: end -->"
READMES = (ROOT / "README.md", ROOT / "perf" / "README.md")
"""Where the table is kept."""


@dataclass(frozen=True)
class Row:
    """A line of the table: what the replaced system's document says (`seed`), and the names of the measured figures.

    `floor` is the figure of what no way of doing it could undercut, on the machine that the others are measured on.
    """

    label: str
    seed: str
    baseline: str | None
    lipstream: str
    target: str
    floor: str | None = None


ROWS = (
    Row(
        "composite and encode a 1280×720 frame, CPU",
        "2.2 ms, all cores at work",
        "compose.1280x720.whole_frame_ms",
        "compose.1280x720.lipstream_ms",
        "≤ 0.5 ms",
        floor="compose.1280x720.floor_ms",
    ),
    Row(
        "a frame but for the U-Net, CPU of all processes",
        "8.5 ms: transport and hand-over 6.3, composite and encode 2.2",
        "serving.separated.cpu_ms",
        "serving.lipstream.cpu_ms",
        "≤ 0.5 ms",
    ),
    Row(
        "bytes on the wire a frame",
        "3.69 MB, by the shapes of its tensors",
        "serving.separated.bytes",
        "serving.lipstream.bytes",
        "the JPEG and its sound",
    ),
    Row("an avatar of 523 frames at 1280×720", "2.1 GB in RAM", None, "memory.pack_gb", "≤ 0.30 GB, mapped"),
    Row("first frames of an avatar never asked for", "13.6 s", None, "first_frame.unsaved_s", "≤ 1.0 s"),
    Row(
        "frames/s end to end, the demo's U-Net",
        "56.8 frames/s: an RTX 4090 and a larger U-Net",
        "serving.demo.separated.fps",
        "serving.demo.lipstream.fps",
        "≥ 25 frames/s",
    ),
    Row("idle frames/s, nobody speaking", NOT_MEASURED, None, "idle.fps", "≥ 1,500 frames/s"),
)


def comparison(report: Report) -> str:
    """The table in Markdown, without a caption; a cell that the report has no figure for holds a dash."""
    headings = (
        "",
        "seed figure",
        "baseline (separated), measured",
        "Lipstream, measured",
        "target; floor, measured",
    )
    return table(headings, (_cells(row, report) for row in ROWS), right=(2, 3))


def caption(report: Report) -> str:
    """What the table was measured on and when, and why the seed's column is from elsewhere."""
    machine = report.machine
    cores = f"{machine.get('cores', '?')} cores of {machine.get('CPU', 'an unknown CPU')}"
    gpu = machine.get("GPU", NO_GPU)
    place = f"{cores}, {machine.get('memory', '?')}, {'no GPU' if gpu == NO_GPU else gpu}"
    return (
        f"Measured on {report.created[:10]} on {place}, revision {machine.get('revision', 'unknown')}, in one "
        f"{report.scale} run. The seed figures are the replaced system's own, on other hardware (an RTX 4090)."
    )


def block(report: Report) -> str:
    """What stands between the markers."""
    return f"\n{comparison(report)}\n\n{caption(report)}\n"


def replaced(text: str, report: Report, name: str) -> str:
    """`text` with the report's table between its markers; `ReportError` calls the text `name` if it has no pair."""
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ReportError(
            f"{name} has no place for the table: it wants a line '{BEGIN}' and below it '{END}'"
        )
    return f"{head}{BEGIN}\n{block(report)}\n{END}{tail}"


def outdated(report: Report, files: Iterable[Path]) -> dict[Path, str]:
    """The files whose table is not the report's, and what they should hold instead."""
    found = {}
    for file in files:
        text = _read(file)
        wanted = replaced(text, report, str(file))
        if wanted != text:
            found[file] = wanted
    return found


def _cells(row: Row, report: Report) -> tuple[str, ...]:
    baseline, floor = (None if name is None else report.find(name) for name in (row.baseline, row.floor))
    limit = row.target if floor is None else f"{row.target}; floor {measured(floor)}"
    return row.label, row.seed, measured(baseline), measured(report.find(row.lipstream)), limit


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ReportError(f"{file} cannot be read: {error}") from error
