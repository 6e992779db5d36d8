"""Measures several systems under test side by side, so that a busy machine slows all of them alike.

The words are those of MLPerf's loadgen: a system under test answers samples by number; settings say for how long;
the log keeps every single measurement.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SystemUnderTest = Callable[[int], object]
"""Answers the sample of that number; what it returns is thrown away."""
Clock = Callable[[], int]
"""Nanoseconds since some moment."""


@dataclass(frozen=True)
class Settings:
    """How long to measure: at least `min_rounds` *and* at least `min_time_s`, after `burn_in_rounds` not counted.

    In a round every system answers one sample, the same for all.
    """

    min_rounds: int = 50
    min_time_s: float = 1.0
    burn_in_rounds: int = 3

    def __post_init__(self) -> None:
        """Refuse what would measure nothing."""
        if self.min_rounds < 1 or self.min_time_s < 0 or self.burn_in_rounds < 0:
            raise ValueError(
                f"{self} measures nothing: at least one round, and no negative number, is wanted"
            )


@dataclass(frozen=True, eq=False)
class Log:
    """What each system took for each sample, in the order measured.

    `wall_ns` and `cpu_ns` are int64 [rounds] by the system's name; CPU time is that of all threads of this process.
    """

    wall_ns: Mapping[str, NDArray[np.int64]]
    cpu_ns: Mapping[str, NDArray[np.int64]]

    @property
    def rounds(self) -> int:
        """How many samples each system answered."""
        return min(len(times) for times in self.cpu_ns.values())

    def cpu_ratio(self, slower: str, faster: str) -> float:
        """How many times the CPU time of `faster` `slower` takes: the median over the rounds."""
        # A round's two figures were measured within the same moment; medians taken apart need not have been.
        return float(np.median(self.cpu_ns[slower] / np.maximum(1, self.cpu_ns[faster])))

    def cpu_percentiles_ms(self, system: str, *percentiles: float) -> tuple[float, ...]:
        """CPU time per sample in milliseconds at those percentiles (0 to 100)."""
        return tuple(float(value) / 1e6 for value in np.percentile(self.cpu_ns[system], percentiles))

    def wall_percentiles_ms(self, system: str, *percentiles: float) -> tuple[float, ...]:
        """Time per sample in milliseconds at those percentiles (0 to 100)."""
        return tuple(float(value) / 1e6 for value in np.percentile(self.wall_ns[system], percentiles))


def measure(
    systems: Mapping[str, SystemUnderTest],
    settings: Settings | None = None,
    wall: Clock = time.perf_counter_ns,
    cpu: Clock = time.process_time_ns,
) -> Log:
    """Let every system answer samples 0, 1, 2 … in turns until both limits of the settings are reached.

    Who begins changes from round to round, so that none always finds the caches as the same other one left them.
    """
    if not systems:
        raise ValueError("no system under test was given; one or more are wanted")
    settings = settings or Settings()
    times: dict[str, list[tuple[int, int]]] = {name: [] for name in systems}
    names = list(systems)
    started = wall()
    for sample in itertools.count():
        if sample == settings.burn_in_rounds:
            started = wall()
        counted = sample - settings.burn_in_rounds
        if counted >= settings.min_rounds and wall() - started >= settings.min_time_s * 1e9:
            break
        first = sample % len(names)
        for name in names[first:] + names[:first]:
            spent = _time(systems[name], sample, wall, cpu)
            if counted >= 0:
                times[name].append(spent)
    tables = {name: np.array(rows, np.int64) for name, rows in times.items()}
    return Log(
        {n: table[:, 0] for n, table in tables.items()}, {n: table[:, 1] for n, table in tables.items()}
    )


def null_system(sample: int) -> None:
    """Does nothing: what it takes is the cost of measuring."""


def _time(system: SystemUnderTest, sample: int, wall: Clock, cpu: Clock) -> tuple[int, int]:
    wall_started, cpu_started = wall(), cpu()
    system(sample)
    cpu_ended, wall_ended = cpu(), wall()
    return wall_ended - wall_started, cpu_ended - cpu_started
