"""What changed between two reports, beyond what two runs of the same code differ by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from perf.markdown import measured, table
from perf.results import Figure, Report

MIN_CHANGE = 0.1
"""Changes of times, rates and ratios by less than 10 % are noise, whatever the quartiles say.

Quartiles tell how samples differ within a run. Whole runs differ besides, all samples of one alike, by the clock
speed and the caches that neighbours leave and by where the kernel put memory and threads. Seven of eight runs of one
JPEG encoder beside one decoder, half a second each on two cores of a shared machine, had medians up to 11 % apart with
quartile ranges that did not touch, and ratios of the two up to 5 % apart; the eighth was disturbed (+50 % and +8 %).
"""
MIN_CHANGE_QUICK = 0.15
"""The same where a run was a quick one: two of the same code, of five rounds each, had ratios up to 12 % apart."""
MIN_CHANGE_OF_SIZE = 0.05
"""The same for sizes and counts, which no neighbour moves."""

_SIZES = ("", "B", "bytes", "bytes/frame", "kB", "MB", "GB", "frames")

Verdict = Literal["better", "worse", "differs", "within noise", "units differ"]


@dataclass(frozen=True)
class Change:
    """A figure of both reports; `quick` if one of them is of a quick run."""

    before: Figure
    after: Figure
    quick: bool = False

    @property
    def change(self) -> float | None:
        """Relative to `before`, 0.1 being 10 % more; None where that was 0 or the units differ."""
        if self.before.unit != self.after.unit or self.before.value == 0:
            return None
        return (self.after.value - self.before.value) / abs(self.before.value)

    @property
    def verdict(self) -> Verdict:
        """Noise if the quartile ranges touch or the change is too small; else what the figure calls better."""
        if self.before.unit != self.after.unit:
            return "units differ"
        if self._small or self._quartiles_touch:
            return "within noise"
        if not self.after.better:
            return "differs"
        rose = self.after.value > self.before.value
        return "better" if rose == (self.after.better == "more") else "worse"

    @property
    def _quartiles_touch(self) -> bool:
        (low, high), (other_low, other_high) = _range(self.before), _range(self.after)
        return low <= other_high and other_low <= high

    @property
    def _small(self) -> bool:
        least = MIN_CHANGE_QUICK if self.quick else MIN_CHANGE
        if self.before.unit in _SIZES:
            least = MIN_CHANGE_OF_SIZE
        return abs(self.after.value - self.before.value) < least * abs(self.before.value)


def changes(before: Report, after: Report) -> list[Change]:
    """Every figure that both reports have, in the order of the second."""
    quick = "quick" in (before.scale, after.scale)
    old = {figure.name: figure for figure in before.figures()}
    return [Change(old[figure.name], figure, quick) for figure in after.figures() if figure.name in old]


def warnings(before: Report, after: Report) -> Iterator[str]:
    """Why the two may not be comparable: other machines, other versions, runs of other length. One sentence each."""
    if before.scale != after.scale:
        yield f"a {before.scale} run is compared with a {after.scale} one"
    for name in {**before.machine, **after.machine}:
        old, new = before.machine.get(name, "unknown"), after.machine.get(name, "unknown")
        # Another revision is what one compares for.
        if old != new and name != "revision":
            yield f"the machines differ: {name} was {old} and is {new}"


def describe(before: Report, after: Report) -> str:
    """The comparison in Markdown: warnings, the figures of both, those of only one."""
    parts = [f"warning: {text}" for text in warnings(before, after)]
    rows = [_cells(change) for change in changes(before, after)]
    if rows:
        parts.append(table(("figure", "before", "after", "change", "verdict"), rows, right=(1, 2, 3)))
    else:
        parts.append("The reports have no figure in common.")
    for title, one, other in (("before", before, after), ("after", after, before)):
        names = [figure.name for figure in one.figures() if other.find(figure.name) is None]
        if names:
            parts.append(f"Only {title}: {', '.join(names)}")
    return "\n\n".join(parts)


def _cells(change: Change) -> tuple[str, ...]:
    relative = "–" if change.change is None else f"{change.change:+.1%}".replace("%", " %")
    return change.after.name, measured(change.before), measured(change.after), relative, change.verdict


def _range(figure: Figure) -> tuple[float, float]:
    return (
        figure.value if figure.low is None else figure.low,
        figure.value if figure.high is None else figure.high,
    )
