"""A server's memory: out of its metrics, against a budget, and when a reading can be trusted."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from client import SettingsError
from client._server_memory import MemoryBudget, MemoryUse, MetricsReader, parse_memory
from tests.unit.client.speaker import settle
from tests.unit.client.test_triton import unused_address

CPU_ONLY = """\
# HELP nv_inference_pending_request_count Instantaneous number of pending requests awaiting execution per-model.
# TYPE nv_inference_pending_request_count gauge
nv_inference_pending_request_count{model="pen",version="1"} 0
# HELP nv_pinned_memory_pool_used_bytes Pinned memory pool used memory size, in bytes
# TYPE nv_pinned_memory_pool_used_bytes gauge
nv_pinned_memory_pool_used_bytes 0
# HELP nv_cpu_utilization CPU utilization rate [0.0 - 1.0]
# TYPE nv_cpu_utilization gauge
nv_cpu_utilization 0.42
# HELP nv_cpu_memory_total_bytes CPU total memory (RAM), in bytes
# TYPE nv_cpu_memory_total_bytes gauge
nv_cpu_memory_total_bytes 25276510208
# HELP nv_cpu_memory_used_bytes CPU used memory (RAM), in bytes
# TYPE nv_cpu_memory_used_bytes gauge
nv_cpu_memory_used_bytes 2415427584
# HELP nv_inference_request_failure Number of failed inference requests, all batch sizes
# TYPE nv_inference_request_failure counter
nv_inference_request_failure{model="ears",reason="REJECTED",version="1"} 3
"""
TWO_GPUS = """\
# HELP nv_gpu_memory_used_bytes GPU used memory, in bytes
# TYPE nv_gpu_memory_used_bytes gauge
nv_gpu_memory_used_bytes{gpu_uuid="GPU-02c1ae2e"} 1500000000
nv_gpu_memory_used_bytes{gpu_uuid="GPU-9fd3a7b0"} 2.5e+09
"""


class Readings:
    """Gives one reading after the other, the last one for ever; None is no answer."""

    def __init__(self, *uses: MemoryUse | None) -> None:
        self.uses = list(uses)
        self.reads = 0

    async def read(self) -> MemoryUse:
        self.reads += 1
        use = self.uses.pop(0) if len(self.uses) > 1 else self.uses[0]
        if use is None:
            raise ConnectionRefusedError("nobody there")
        return use


def test_metrics_of_a_real_triton() -> None:
    assert parse_memory(CPU_ONLY) == MemoryUse(host_bytes=2415427584)


def test_gpus_are_added_up() -> None:
    assert parse_memory(CPU_ONLY + TWO_GPUS) == MemoryUse(2415427584, 4_000_000_000)


def test_what_is_no_metrics_is_an_error() -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_memory("<html>\nnv_cpu_memory_used_bytes lots\n")


@pytest.mark.parametrize(
    ("limits", "excess"),
    [
        ({"host_bytes": 2000}, None),
        ({"host_bytes": 1999}, "2,000 bytes of host memory are in use and 1,999 may be"),
        ({"gpu_bytes": 3000}, None),
        ({"gpu_bytes": 2999}, "3,000 bytes of GPU memory are in use and 2,999 may be"),
        ({"host_bytes": 2000, "gpu_bytes": 1}, "3,000 bytes of GPU memory are in use and 1 may be"),
    ],
)
async def test_budgets(limits: dict[str, int], excess: str | None) -> None:
    assert await MemoryBudget(Readings(MemoryUse(2000, 3000)), **limits).excess() == excess


@pytest.mark.parametrize("use", [None, MemoryUse(host_bytes=2000)], ids=["no answer", "no GPU"])
async def test_what_nobody_knows_is_within_the_budget_and_said_once(
    use: MemoryUse | None, caplog: pytest.LogCaptureFixture
) -> None:
    budget = MemoryBudget(Readings(use), gpu_bytes=1, given_back_s=0, refresh_s=0.01)
    with caplog.at_level(logging.WARNING):
        assert [await budget.excess() for _ in range(3)] == [None] * 3
        await budget.refreshed()
    assert len(caplog.records) == 1
    assert "without regard to memory" in caplog.text


async def test_a_reading_counts_as_new_when_it_has_changed() -> None:
    old, new = MemoryUse(5), MemoryUse(4)
    readings = Readings(old, old, old, new)
    await MemoryBudget(readings, host_bytes=1, given_back_s=0, refresh_s=3600, poll_s=0).refreshed()
    assert readings.reads == 4


async def test_what_changes_before_memory_is_given_back_does_not_count() -> None:
    readings = Readings(MemoryUse(5))
    budget = MemoryBudget(readings, host_bytes=1, given_back_s=3600)
    waiting = asyncio.create_task(budget.refreshed())
    await settle()
    assert (readings.reads, waiting.done()) == (0, False)
    waiting.cancel()


async def test_or_when_triton_must_have_looked_again() -> None:
    budget = MemoryBudget(Readings(MemoryUse(5)), host_bytes=1, given_back_s=0.01, refresh_s=0.01, poll_s=0)
    await asyncio.wait_for(budget.refreshed(), 20)


@contextmanager
def metrics_served(status: int, body: bytes) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/metrics"
        finally:
            server.shutdown()
            thread.join()


async def test_metrics_are_read_over_http() -> None:
    with metrics_served(200, CPU_ONLY.encode()) as url:
        assert await MetricsReader(url).read() == MemoryUse(host_bytes=2415427584)


@pytest.mark.parametrize(("status", "body"), [(404, b""), (200, b"\xff\xfe"), (200, b"{} {")])
async def test_an_endpoint_of_something_else_is_no_reading(
    status: int, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with metrics_served(status, body) as url:
        assert await MemoryBudget(MetricsReader(url), host_bytes=1).excess() is None
    assert len(caplog.records) == 1


async def test_nor_is_an_endpoint_that_is_not_there(caplog: pytest.LogCaptureFixture) -> None:
    url = f"http://{unused_address()}/metrics"
    assert await MemoryBudget(MetricsReader(url), host_bytes=1).excess() is None
    assert "Connection refused" in caplog.text


@pytest.mark.parametrize("url", ["127.0.0.1:8002", "file:///etc/passwd", ""])
def test_a_malformed_address_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="is no metrics address"):
        MetricsReader(url)
