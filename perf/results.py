"""What a run of measurements found: figures, curves, and the machine they were measured on, as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from compositor_backend.errors import LipstreamError

SCHEMA = 1
"""Raised when a report of before can no longer be read."""

Better = Literal["less", "more", ""]


class ReportError(LipstreamError):
    """A report that is not there or not to be read; the message is one sentence for the user."""


@dataclass(frozen=True)
class Figure:
    """A number measured: `value` in `unit`, the median; `low` and `high` are the quartiles where there are several.

    `name` is unique within the report and stays the same from run to run ("compose.1280x720.ratio"); `label` is
    for people. `better` says which way is an improvement, "" where neither is.
    """

    name: str
    label: str
    value: float
    unit: str
    better: Better = ""
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Series:
    """A curve or a row of bars: `points` are [x, y]; x may be a name."""

    label: str
    points: tuple[tuple[float | str, float], ...]


@dataclass(frozen=True)
class Plot:
    """A picture of the report, written to ``<name>.png``; "stacked" bars are one bar per x, a part per series."""

    name: str
    title: str
    x_label: str
    y_label: str
    kind: Literal["line", "bars", "stacked"]
    series: tuple[Series, ...]


@dataclass(frozen=True)
class Section:
    """What one case measured; `text` says how, in Markdown."""

    name: str
    title: str
    text: str
    figures: tuple[Figure, ...]
    plots: tuple[Plot, ...] = ()


@dataclass(frozen=True)
class Report:
    """All sections of one run; `scale` is "quick" or "full", `machine` what it ran on, `created` ISO 8601 UTC."""

    scale: str
    created: str
    machine: Mapping[str, str]
    sections: tuple[Section, ...] = field(default=())

    def figures(self) -> Iterator[Figure]:
        """Every figure of every section, in order."""
        for section in self.sections:
            yield from section.figures

    def find(self, name: str) -> Figure | None:
        """The figure of that name; None if this run did not measure it."""
        return next((figure for figure in self.figures() if figure.name == name), None)

    def save(self, path: Path) -> None:
        """Write the report as JSON, its folder made."""
        text = json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1, allow_nan=False)
        make_folder(path.parent)
        write_text(path, text + "\n")

    @classmethod
    def load(cls, path: Path) -> Report:
        """Read a report that `save` wrote; `ReportError` says what is wrong with it."""
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ReportError(f"{path} is not there; 'make perf-quick' or 'make perf' measures") from None
        except (OSError, ValueError) as error:
            raise ReportError(f"{path} cannot be read: {error}") from error
        if not isinstance(found, dict) or found.get("schema") != SCHEMA:
            raise ReportError(f"{path} is not a report of this version; measure again")
        try:
            sections = tuple(_section(section) for section in found["sections"])
            return cls(found["scale"], found["created"], dict(found["machine"]), sections)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ReportError(f"{path} is not a whole report: {error!r}") from error


def make_folder(folder: Path) -> None:
    """Make the folder and those above it; `ReportError` if that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ReportError(f"the folder {folder} cannot be made: {error.strerror}") from error


def write_text(path: Path, text: str) -> None:
    """Write the file, or leave it as it was: nobody ever reads half of one. `ReportError` if that cannot be."""
    half = path.with_name(f".{path.name}.half")
    try:
        half.write_text(text, encoding="utf-8")
        half.replace(path)
    except OSError as error:
        raise ReportError(f"{path} cannot be written: {error.strerror}") from error


def _section(found: dict[str, Any]) -> Section:
    figures = tuple(_figure(figure) for figure in found["figures"])
    plots = tuple(_plot(plot) for plot in found["plots"])
    return Section(found["name"], found["title"], found["text"], figures, plots)


def _figure(found: dict[str, Any]) -> Figure:
    figure = Figure(**found)
    numbers = [number for number in (figure.value, figure.low, figure.high) if number is not None]
    if not all(isinstance(number, (int, float)) and math.isfinite(number) for number in numbers):
        raise ValueError(f"the figure {figure.name} is {numbers}")
    return figure


def _plot(found: dict[str, Any]) -> Plot:
    series = tuple(
        Series(row["label"], tuple((x, y) for x, y in row["points"])) for row in found.pop("series")
    )
    return Plot(**found, series=series)
