"""A running pool's figures, read from where they are served."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from client._metrics import FETCH_ERRORS, check_metrics_url, fetch_metrics
from client.errors import ServerFaultError, ServerUnavailableError

_PREFIX = "lipstream_pool_"


@dataclass(frozen=True)
class PoolStatistics:
    """Counts since the pool began; `waiting` (avatars that wait for a place) and `streams` are now.

    `hit_rate` is the share of leases whose avatar was there; it and `mean_load_s` are None before the first.
    """

    hits: int
    misses: int
    hit_rate: float | None
    loads: int
    mean_load_s: float | None
    load_failures: int
    reloads: int
    evictions: int
    waiting: int
    streams: int
    refused: int


def read_pool_statistics(url: str) -> PoolStatistics:
    """The figures served at `url` (``http://host:port/metrics``); blocks for seconds at most.

    `ServerUnavailableError` if nobody answers there, `ServerFaultError` if what answers is no pool.
    """
    try:
        text = fetch_metrics(check_metrics_url(url))
    except FETCH_ERRORS as error:
        raise ServerUnavailableError(f"no figures can be read at {url}: {error}", url=url) from error
    try:
        return parse_pool_statistics(text)
    except (KeyError, ValueError) as error:
        raise ServerFaultError(f"what {url} serves are no figures of a pool", url=url) from error


def parse_pool_statistics(text: str) -> PoolStatistics:
    """The figures out of Prometheus's text format; `KeyError` or `ValueError` where it has none of a pool."""
    totals: dict[str, float] = defaultdict(float)
    leases: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            name = sample.name.removeprefix(_PREFIX)
            if name == "leases_total":
                leases[sample.labels["found"]] = sample.value
            elif name != sample.name:
                totals[name] += sample.value
    hits, misses = round(leases["yes"]), round(leases["no"])
    loads = round(totals["load_seconds_count"])
    return PoolStatistics(
        hits=hits,
        misses=misses,
        hit_rate=hits / (hits + misses) if hits + misses else None,
        loads=loads,
        mean_load_s=totals["load_seconds_sum"] / loads if loads else None,
        load_failures=round(totals["load_failures_total"]),
        reloads=round(totals["reloads_total"]),
        evictions=round(totals["evictions_total"]),
        waiting=round(totals["waiting"]),
        streams=round(totals["streams"]),
        refused=round(totals["refused_total"]),
    )
