"""A made-up report, such as a run writes."""

from __future__ import annotations

from collections.abc import Mapping

from perf.results import Figure, Plot, Report, Section, Series

MACHINE = {"CPU": "Some CPU", "cores": "2", "memory": "8 GiB", "GPU": "none", "revision": "abc123"}

BARS = Plot(
    "stages",
    "CPU by stage",
    "stage",
    "CPU ms/frame",
    "bars",
    (Series("Lipstream", (("gather", 0.02), ("resize and blend", 0.21), ("encode", 0.3))),),
)
LINES = Plot(
    "streams",
    "Throughput against streams",
    "streams",
    "frames/s",
    "line",
    (
        Series("Lipstream", ((1, 30.0), (2, 58.0), (16, 110.0))),
        Series("separated", ((1, 9.0), (2, 12.0), (16, 11.0))),
    ),
)
STACKED = Plot(
    "waterfall",
    "Where the time goes",
    "system",
    "CPU ms/frame",
    "stacked",
    (
        Series("client", (("Lipstream", 0.2), ("separated", 3.0))),
        Series("server", (("Lipstream", 0.8), ("separated", 9.0))),
    ),
)

STAGES = Section(
    "stages",
    "Stages of a frame",
    "Measured side by side.",
    (
        Figure("compose.1280x720.ratio", "whole | spliced", 9.1, "x", "more", 8.9, 9.4),
        Figure("compose.1280x720.whole_frame_ms", "whole frame", 3.92, "ms", "less", 3.8, 4.1),
        Figure("compose.1280x720.lipstream_ms", "Lipstream", 0.43, "ms", "less"),
    ),
    (BARS, LINES),
)
SERVING = Section(
    "serving_cost",
    "Serving without a network",
    "",
    (
        Figure("serving.lipstream.cpu_ms", "Lipstream", 0.45, "ms/frame", "less"),
        Figure("serving.separated.bytes", "separated", 3_690_000, "bytes/frame"),
    ),
    (STACKED,),
)


def report(*sections: Section, scale: str = "quick", machine: Mapping[str, str] = MACHINE) -> Report:
    return Report(scale, "2026-02-03T04:05:06+00:00", machine, sections or (STAGES, SERVING))


def figures(scale: str = "quick", machine: Mapping[str, str] = MACHINE, **values: float) -> Report:
    """A report of figures by name, "__" for a dot; larger is better."""
    rows = tuple(Figure(name.replace("__", "."), name, value, "", "more") for name, value in values.items())
    return report(Section("made-up", "Made up", "", rows), scale=scale, machine=machine)


def table_rows(text: str) -> list[list[str]]:
    """The cells of every line of Markdown's tables in the text, rules left out."""
    lines = [line for line in text.splitlines() if line.startswith("|") and not set(line) <= set("|-: ")]
    return [[cell.replace("\\|", "|").strip() for cell in _split(line)] for line in lines]


def _split(line: str) -> list[str]:
    cells = line.replace("\\|", "\0").strip("|").split("|")
    return [cell.replace("\0", "|") for cell in cells]
