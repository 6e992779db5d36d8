from __future__ import annotations

import numpy as np
import pytest

from perf.side_by_side import Settings, measure, null_system


class FakeTime:
    """A clock that only the systems under test move."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.calls: list[tuple[str, int]] = []

    def __call__(self) -> int:
        return self.now_ns

    def system(self, name: str, *costs_ns: int):
        """Takes the costs in turn, sample by sample."""

        def answer(sample: int) -> None:
            self.calls.append((name, sample))
            self.now_ns += costs_ns[sample % len(costs_ns)]

        return answer


def test_every_system_answers_the_same_samples_and_burn_in_is_not_counted() -> None:
    clock = FakeTime()
    systems = {"a": clock.system("a", 100, 1, 2, 3), "b": clock.system("b", 1000, 20, 20, 20)}
    log = measure(systems, Settings(min_rounds=3, min_time_s=0, burn_in_rounds=1), clock, clock)
    assert log.rounds == 3
    assert log.cpu_ns["a"].tolist() == log.wall_ns["a"].tolist() == [1, 2, 3]
    assert log.cpu_ratio("b", "a") == np.median([20, 10, 20 / 3])
    assert clock.calls == [(n, s) for s, turn in enumerate(("ab", "ba", "ab", "ba")) for n in turn]


def test_measuring_goes_on_until_the_minimum_time_has_passed_too() -> None:
    clock = FakeTime()
    log = measure({"a": clock.system("a", 250_000_000)}, Settings(2, 1.0, 3), clock, clock)
    assert log.rounds == 4
    assert log.cpu_percentiles_ms("a", 50, 99) == log.wall_percentiles_ms("a", 50, 99) == (250.0, 250.0)


def test_percentiles_are_those_of_the_samples() -> None:
    clock = FakeTime()
    costs = [n * 1_000_000 for n in range(101)]
    log = measure({"a": clock.system("a", *costs)}, Settings(101, 0, 0), clock, clock)
    assert log.cpu_percentiles_ms("a", 0, 50, 99, 100) == (0.0, 50.0, 99.0, 100.0)


def test_a_system_that_computes_costs_more_cpu_than_one_that_does_not() -> None:
    log = measure({"sum": lambda _: sum(range(100_000)), "null": null_system}, Settings(20, 0, 1))
    assert log.cpu_ratio("sum", "null") > 10


@pytest.mark.parametrize(("rounds", "time_s", "burn_in"), [(0, 1, 1), (1, -1, 1), (1, 1, -1)])
def test_settings_that_measure_nothing_are_refused(rounds: int, time_s: float, burn_in: int) -> None:
    with pytest.raises(ValueError, match="measures nothing"):
        Settings(rounds, time_s, burn_in)


def test_nothing_to_measure_is_refused() -> None:
    with pytest.raises(ValueError, match="no system under test"):
        measure({})
