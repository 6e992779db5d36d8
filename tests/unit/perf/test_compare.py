from __future__ import annotations

from typing import Literal

import pytest

from perf.compare import Change, changes, describe, warnings
from perf.results import Better, Figure
from tests.unit.perf.sample import MACHINE, figures, report, table_rows


def change(
    before: float | tuple[float, float, float],
    after: float | tuple[float, float, float],
    better: Better = "less",
    units: tuple[str, str] = ("ms", "ms"),
) -> Change:
    """Values, or (low, median, high)."""

    def figure(found: float | tuple[float, float, float], unit: str) -> Figure:
        if isinstance(found, tuple):
            return Figure("f", "F", found[1], unit, better, found[0], found[2])
        return Figure("f", "F", found, unit, better)

    return Change(figure(before, units[0]), figure(after, units[1]))


Verdict = Literal["better", "worse", "differs", "within noise", "units differ"]


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (change(10, 8), "better"),
        (change(8, 10), "worse"),
        (change(10, 8, "more"), "worse"),
        (change(8, 10, "more"), "better"),
        (change(8, 10, ""), "differs"),
        (change(10, 10.4), "within noise"),
        (change(10, 9.6), "within noise"),
        (change(10, 10.6), "within noise"),
        (change(10, 11.1), "worse"),
        (change(10, 11.1, units=("x", "x")), "worse"),
        (change(10, 10.6, units=("GB", "GB")), "worse"),
        (change(10, 9.6, units=("GB", "GB")), "within noise"),
        (change((9, 10, 12), (11, 13, 14)), "within noise"),
        (change((9, 10, 11), (11.5, 13, 14)), "worse"),
        (change((11.5, 13, 14), (9, 10, 11)), "better"),
        (change((9, 10, 11), 10.9), "within noise"),
        (change((9.99, 10, 10.01), (10.2, 10.21, 10.22)), "within noise"),
        (change(0, 0), "within noise"),
        (change(0, 3), "worse"),
        (change(10, 5, units=("ms", "s")), "units differ"),
        (change(-10, -8, "more"), "better"),
    ],
)
def test_a_change_counts_beyond_noise_only(found: Change, verdict: Verdict) -> None:
    assert found.verdict == verdict


def test_a_quick_run_s_times_differ_by_more_without_any_change_but_not_its_sizes() -> None:
    def quick(found: Change) -> Verdict:
        return Change(found.before, found.after, quick=True).verdict

    assert quick(change(10, 11.4)) == "within noise"
    assert quick(change(10, 11.6)) == "worse"
    assert quick(change(10, 10.6, units=("GB", "GB"))) == "worse"
    assert changes(figures("full", a=1), figures("quick", a=1))[0].quick
    assert not changes(figures("full", a=1), figures("full", a=1))[0].quick


def test_the_change_is_relative_to_what_was() -> None:
    assert change(10, 8).change == pytest.approx(-0.2)
    assert change(0, 8).change is None
    assert change(10, 8, units=("ms", "s")).change is None


def test_figures_of_both_are_compared_and_the_others_named() -> None:
    before, after = figures(a=10, gone=1, c=0), figures(c=5, a=20, new=1)
    assert [found.after.name for found in changes(before, after)] == ["c", "a"]
    text = describe(before, after)
    assert table_rows(text)[1:] == [["c", "0", "5", "–", "better"], ["a", "10", "20", "+100.0 %", "better"]]
    assert "Only before: gone" in text
    assert "Only after: new" in text
    assert "warning" not in text


def test_reports_with_nothing_in_common_say_so() -> None:
    assert "no figure in common" in describe(figures(a=1), figures(b=1))


def test_other_machines_and_lengths_of_run_are_warned_of_but_not_another_revision() -> None:
    other = {**MACHINE, "CPU": "Another CPU", "revision": "def456", "numpy": "2"}
    found = list(warnings(report(), report(scale="full", machine=other)))
    assert len(found) == 3
    assert "quick" in found[0]
    assert "CPU was Some CPU and is Another CPU" in found[1]
    assert "numpy was unknown and is 2" in found[2]
    assert "warning: the machines differ" in describe(report(), report(machine=other))
