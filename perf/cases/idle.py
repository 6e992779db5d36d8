"""Avatars that nobody speaks through."""

from __future__ import annotations

import asyncio
import time

import numpy as np

from client import LipstreamClient
from export.demo.avatar import DEMO_ID
from perf.bench import Bench
from perf.measured import spread_figure
from perf.processes import cpu_s
from perf.results import Section
from perf.scenarios import idle_streams, saturate

STREAMS = 20
CLIENTS = 2
FRAMES = 3000
TEXT = f"""\
Silence, through the client: the server joins what was rendered at import, and no network runs. Frames a second:
{CLIENTS} clients, four requests of 25 frames under way each. The {STREAMS} streams are sessions that idle, each
taking a frame every 40 ms by its own clock; their cost is the CPU time of all processes, the client's among them, over
elapsed time.
"""


def measure(bench: Bench) -> Section:
    """Figures ``idle.…`` of the demo's avatar."""
    with bench.serving(bench.avatars) as server:
        rates, costs, cores, late = asyncio.run(_measured(bench, server.grpc_url, server.pid))
    figures = (
        spread_figure(rates, "idle.fps", "idle frames", "frames/s", "more"),
        spread_figure(costs, "idle.cpu_ms", "an idle frame, CPU of all processes", "ms/frame", "less"),
        spread_figure(cores, f"idle.{STREAMS}_streams_cores", f"{STREAMS} idle streams", "cores", "less"),
        spread_figure(late, f"idle.{STREAMS}_streams_late_pct", "of them, frames too late", "%", "less"),
    )
    return Section("idle", "Idle frames", TEXT, figures)


async def _measured(
    bench: Bench, url: str, pid: int
) -> tuple[list[float], list[float], list[float], list[float]]:
    rounds = 2 if bench.quick else 5
    silence = np.zeros(640, np.int16)
    rates, costs, cores, late = [], [], [], []
    async with LipstreamClient(url) as client:
        await saturate(client, DEMO_ID, silence, CLIENTS, FRAMES)
        for _ in range(rounds):
            bench.tell("idle frames as fast as they come")
            spent_s = _spent_s(pid)
            went = await saturate(client, DEMO_ID, silence, CLIENTS, FRAMES)
            rates.append(went.frames_per_s)
            costs.append(1e3 * (_spent_s(pid) - spent_s) / FRAMES)
            bench.tell(f"{STREAMS} idle streams")
            spent_s, started_s = _spent_s(pid), time.perf_counter()
            log = await idle_streams(client, DEMO_ID, STREAMS, bench.span_s / 2)
            cores.append((_spent_s(pid) - spent_s) / (time.perf_counter() - started_s))
            late.append(100 * log.late_share)
    return rates, costs, cores, late


def _spent_s(pid: int) -> float:
    """CPU time of the server and of this process."""
    return cpu_s([pid]) + time.process_time()
