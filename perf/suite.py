"""The cases of a run, in order, and the run itself."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Protocol, cast

from compositor_backend.errors import LipstreamError, SettingsError
from perf import machine
from perf.bench import Bench
from perf.results import Report, Section

Measure = Callable[[Bench], Section]


class CaseError(LipstreamError):
    """A case could not be measured; the text names it and says why."""


@dataclass(frozen=True)
class Case:
    """A module with a function ``measure(bench)``, imported when its turn comes.

    `quick`: in a quick run too; `gpu`: only where there is one, unless asked for by name.
    """

    name: str
    module: str
    quick: bool = False
    gpu: bool = False

    def measure(self, bench: Bench) -> Section:
        """What the case found; `CaseError` for whatever it, or what it needs, refuses."""
        try:
            measure = cast("Measure", importlib.import_module(self.module).measure)
            return measure(bench)
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("perf"):
                raise
            raise CaseError(
                f"{self.name} needs {error.name}, which is not installed: pip install 'lipstream[perf]'"
            ) from error
        except LipstreamError as error:
            raise CaseError(f"{self.name} could not be measured: {error}") from error


# What needs no server comes first, and the longest last: a run that is broken off has the most to show.
CASES = (
    Case("stages", "perf.cases.stages", quick=True),
    Case("frame_sizes", "perf.cases.frame_sizes", quick=True),
    Case("serving_cost", "perf.cases.serving_cost", quick=True),
    Case("idle", "perf.cases.idle", quick=True),
    Case("regions", "perf.cases.regions", quick=True),
    Case("first_frame", "perf.cases.first_frame"),
    Case("memory", "perf.cases.memory"),
    Case("residents", "perf.cases.residents"),
    Case("catalogue", "perf.cases.catalogue"),
    Case("streams", "perf.cases.streams"),
    Case("analyzer", "perf.cases.analyzer"),
    Case("gpu", "perf.cases.gpu", gpu=True),
)


class Progress(Protocol):
    """Is told how far a run is."""

    def begin(self, case: str) -> None:
        """That case begins."""

    def end(self, case: str) -> None:
        """It is measured."""


def select(
    quick: bool, only: Sequence[str] = (), cases: Sequence[Case] = CASES, gpu: bool = False
) -> list[Case]:
    """The cases of a quick or full run, or those named in `only`, in the suite's order; `SettingsError` if unknown."""
    known = [case.name for case in cases]
    for name in only:
        if name not in known:
            raise SettingsError(f"there is no case {name!r}; there are {', '.join(known)}")
    if only:
        return [case for case in cases if case.name in only]
    return [case for case in cases if (case.quick or not quick) and (gpu or not case.gpu)]


def run(bench: Bench, cases: Iterable[Case], progress: Progress, save: Callable[[Report], None]) -> Report:
    """Measure the cases one after another, and give what there is so far to `save` after each.

    The first that fails ends the run with a `CaseError`: what follows would be measured beside its leftovers.
    """
    created = datetime.now(timezone.utc).isoformat(timespec="seconds")
    report = Report("quick" if bench.quick else "full", created, machine.describe())
    for case in cases:
        progress.begin(case.name)
        report = replace(report, sections=(*report.sections, case.measure(bench)))
        save(report)
        progress.end(case.name)
    return report
