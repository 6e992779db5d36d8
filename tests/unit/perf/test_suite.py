from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from compositor_backend.errors import PackError, SettingsError
from perf.bench import Bench
from perf.results import Report, Section
from perf.suite import CASES, Case, CaseError, run, select
from tests.unit.perf.sample import SERVING, STAGES

Given = Callable[[str, Callable[[Bench], Section]], Case]


class Told:
    def __init__(self) -> None:
        self.words: list[str] = []

    def begin(self, case: str) -> None:
        self.words.append(f"begin {case}")

    def end(self, case: str) -> None:
        self.words.append(f"end {case}")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(True, tmp_path, tmp_path, lambda text: None)


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Given:
    """Makes a case of a function, in a module that can be imported."""

    def make(name: str, measure: Callable[[Bench], Section]) -> Case:
        module = ModuleType(f"made_up_{name}")
        module.measure = measure  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        return Case(name, module.__name__)

    return make


def refuse(bench: Bench) -> Section:
    raise PackError("the pack is damaged")


def test_cases_run_in_order_and_each_is_saved_at_once(bench: Bench, given: Given) -> None:
    told, saved = Told(), []
    found = run(bench, [given("a", lambda _: STAGES), given("b", lambda _: SERVING)], told, saved.append)
    assert found.sections == (STAGES, SERVING)
    assert [report.sections for report in saved] == [(STAGES,), (STAGES, SERVING)]
    assert told.words == ["begin a", "end a", "begin b", "end b"]
    assert found.scale == "quick"
    assert found.created.endswith("+00:00")
    assert "CPU" in found.machine


def test_a_case_is_given_the_bench(bench: Bench, given: Given) -> None:
    seen: list[Bench] = []
    run(bench, [given("a", lambda it: seen.append(it) or STAGES)], Told(), lambda report: None)
    assert seen == [bench]


def test_a_case_that_fails_ends_the_run_and_what_was_measured_is_saved(bench: Bench, given: Given) -> None:
    saved: list[Report] = []
    cases = [given("a", lambda _: STAGES), given("bad", refuse), given("c", lambda _: SERVING)]
    with pytest.raises(CaseError, match="bad could not be measured: the pack is damaged"):
        run(bench, cases, Told(), saved.append)
    assert [report.sections for report in saved] == [(STAGES,)]


def test_what_is_not_installed_is_named(bench: Bench, given: Given) -> None:
    def want(bench: Bench) -> Section:
        raise ModuleNotFoundError("No module named 'nothing'", name="nothing")

    with pytest.raises(CaseError, match="a needs nothing, which is not installed"):
        given("a", want).measure(bench)


def test_a_defect_is_not_made_a_sentence_of(bench: Bench, given: Given) -> None:
    with pytest.raises(ZeroDivisionError):
        given("a", lambda _: 1 // 0).measure(bench)  # type: ignore[arg-type,return-value]


CHOICE = (Case("a", "m", quick=True), Case("b", "m"), Case("c", "m", quick=True))


@pytest.mark.parametrize(
    ("quick", "only", "names"),
    [(True, [], "ac"), (False, [], "abc"), (True, ["b"], "b"), (False, ["c", "a"], "ac")],
)
def test_which_cases_a_run_has(quick: bool, only: list[str], names: str) -> None:
    assert "".join(case.name for case in select(quick, only, CHOICE)) == names


def test_an_unknown_case_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SettingsError, match="there is no case 'x'; there are a, b, c"):
        select(True, ["a", "x"], CHOICE)


def test_every_case_of_the_suite_is_there() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    assert any(case.quick for case in CASES)
    for case in CASES:
        assert importlib.util.find_spec(case.module) is not None, case.module


def test_cases_of_a_gpu_run_where_there_is_one_or_where_they_are_named() -> None:
    cases = [Case("plain", "made_up"), Case("fast", "made_up", gpu=True)]
    assert [case.name for case in select(False, (), cases)] == ["plain"]
    assert [case.name for case in select(False, (), cases, gpu=True)] == ["plain", "fast"]
    assert [case.name for case in select(False, ["fast"], cases)] == ["fast"]
