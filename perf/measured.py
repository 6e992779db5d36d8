"""From logs of single measurements to figures of the report."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from perf.results import Better, Figure
from perf.side_by_side import Log


def cpu_figure(
    log: Log, system: str, name: str, label: str, per: float = 1.0, unit: str = "ms/frame"
) -> Figure:
    """CPU milliseconds of a system, for each of the `per` things that a sample is of."""
    low, median, high = log.cpu_percentiles_ms(system, 25, 50, 75)
    return Figure(name, label, median / per, unit, "less", low / per, high / per)


def ratio_figure(
    log: Log, slower: str, faster: str, name: str, label: str, better: Better = "more"
) -> Figure:
    """How many times the CPU time of `faster` `slower` takes, round by round."""
    return spread_figure(log.cpu_ns[slower] / np.maximum(1, log.cpu_ns[faster]), name, label, "x", better)


def spread_figure(
    values: Sequence[float] | np.ndarray[tuple[int], np.dtype[np.float64]],
    name: str,
    label: str,
    unit: str,
    better: Better = "",
) -> Figure:
    """Median and quartiles of repeated measurements."""
    low, median, high = (float(value) for value in np.percentile(np.asarray(values, float), (25, 50, 75)))
    return Figure(name, label, median, unit, better, low, high)
