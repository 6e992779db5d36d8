from __future__ import annotations

import numpy as np

from perf.measured import cpu_figure, ratio_figure, spread_figure
from perf.side_by_side import Log

MS = 1_000_000
LOG = Log({}, {"slow": np.array([80, 90, 300]) * MS, "fast": np.array([10, 9, 20]) * MS})


def test_cpu_time_is_told_for_each_of_a_samples_things() -> None:
    figure = cpu_figure(LOG, "slow", "n", "l", per=10)
    assert (figure.value, figure.low, figure.high, figure.unit, figure.better) == (
        9,
        8.5,
        19.5,
        "ms/frame",
        "less",
    )


def test_a_ratio_is_the_median_of_the_rounds() -> None:
    figure = ratio_figure(LOG, "slow", "fast", "n", "l")
    assert (figure.value, figure.unit, figure.better) == (10, "x", "more")
    assert (figure.low, figure.high) == (9, 12.5)


def test_repeated_measurements_have_quartiles() -> None:
    figure = spread_figure([1, 2, 3, 4, 5], "n", "l", "s")
    assert (figure.value, figure.low, figure.high) == (3, 2, 4)
