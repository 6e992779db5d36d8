"""What a pool counts, for Prometheus; no label per avatar, of which there are thousands."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_LOAD_BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)


class PoolFigures:
    """Counters and gauges ``lipstream_pool_…`` in `registry`, a new one by default."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self._leases = Counter(
            "lipstream_pool_leases",
            "Leases asked for, by whether the avatar was there",
            ["found"],
            registry=self.registry,
        )
        self.evictions = Counter(
            "lipstream_pool_evictions",
            "Avatars unloaded, for room or after idling",
            ["why"],
            registry=self.registry,
        )
        self.reloads = Counter(
            "lipstream_pool_reloads",
            "Avatars loaded anew that others had unloaded, or a restart",
            registry=self.registry,
        )
        self._failures = Counter("lipstream_pool_load_failures", "Loads that failed", registry=self.registry)
        self._load_s = Histogram(
            "lipstream_pool_load_seconds",
            "Loads, first frame included",
            buckets=_LOAD_BUCKETS_S,
            registry=self.registry,
        )
        self._waiting = Gauge(
            "lipstream_pool_waiting", "Avatars that wait for a place", registry=self.registry
        )
        self.refused = Counter(
            "lipstream_pool_refused",
            "Leases and pins refused, by what was full",
            ["why"],
            registry=self.registry,
        )
        self.streams = Gauge("lipstream_pool_streams", "Leases under way", registry=self.registry)
        for found in ("yes", "no"):
            self._leases.labels(found)
        for why in ("room", "idle"):
            self.evictions.labels(why)
        for why in ("streams", "places", "memory"):
            self.refused.labels(why)

    def asked(self, *, hit: bool) -> None:
        """A lease was asked for, of an avatar that was there or about to be, or not."""
        self._leases.labels("yes" if hit else "no").inc()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """An avatar waits for a place."""
        with self._waiting.track_inprogress():
            yield

    @contextmanager
    def loading(self) -> Iterator[None]:
        """A load; the time of those that succeed is kept."""
        start_s = time.perf_counter()
        with self._failures.count_exceptions():
            yield
        self._load_s.observe(time.perf_counter() - start_s)

    def value(self, name: str, **labels: str) -> float:
        """A sample, by its name without ``lipstream_pool_``; 0 if it was never counted."""
        return self.registry.get_sample_value(f"lipstream_pool_{name}", labels) or 0.0

    @property
    def hits(self) -> int:
        """Leases of avatars that were there, or being loaded for somebody else."""
        return round(self.value("leases_total", found="yes"))

    @property
    def misses(self) -> int:
        """Leases of avatars that had to be loaded."""
        return round(self.value("leases_total", found="no"))

    @property
    def loads(self) -> int:
        """Loads that succeeded, reloads included."""
        return round(self.value("load_seconds_count"))
