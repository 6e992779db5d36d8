"""The full-width network on a GPU: frames a second through the real server, and how far from the device's floor."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from client import LipstreamClient, read_audio
from perf.bench import Bench
from perf.measured import spread_figure
from perf.results import Figure, Plot, Section, Series
from perf.roofline import CPU, CUDA, bandwidth, network_seconds, traffic
from perf.scenarios import Pcm, live_streams, most_streams, saturate
from perf.subjects import build_full_width_avatar

SPEECH = Path(__file__).parents[2] / "export" / "demo" / "speech" / "hello.flac"
AVATAR = "full-width"
BATCHES = (1, 2, 4, 8, 16, 32)
CLIENTS = 16
MOST_STREAMS = 256
LATE_SHARE = 0.01
TEXT = """\
A U-Net of full width with random weights (the arithmetic is that of trained ones), served with the production configs,
from speech, through the client, which runs on the same machine. The network alone runs in onnxruntime with its tensors
on the device. Its floor: the bytes that its convolutions read and write, each tensor once, weights once a run, over
the bandwidth that the device reaches in a plain copy.
"""


def measure(bench: Bench) -> Section:
    """Figures ``gpu.…``; without a GPU the same on the CPU, which is of use to tests only."""
    bench.tell("building an avatar with the full-width network")
    build_full_width_avatar(bench.work_avatars, bench.avatars, AVATAR)
    network = bench.work_avatars / AVATAR / "network.onnx"
    figures, plot = _network(bench, network)
    with bench.serving(bench.work_avatars) as server:
        figures += asyncio.run(_served(bench, server.grpc_url))
    return Section("gpu", "Full width on a GPU", TEXT, tuple(figures), (plot,))


@dataclass(frozen=True)
class _Run:
    frames: int
    seconds: float
    floor_s: float


def _network(bench: Bench, network: Path) -> tuple[list[Figure], Plot]:
    provider = CUDA if bench.gpu else CPU
    bench.tell("the network alone")
    moved, rate = traffic(network), bandwidth(provider)
    batches = BATCHES if bench.gpu else BATCHES[:2]
    runs = [
        _Run(
            frames,
            network_seconds(network, provider, frames, 5 if bench.quick else 20),
            moved.seconds(frames, rate),
        )
        for frames in batches
    ]
    best = max(runs, key=lambda run: run.frames / run.seconds)
    figures = [
        Figure("gpu.bandwidth", "memory bandwidth of a copy", rate / 1e9, "GB/s"),
        Figure("gpu.traffic", "bytes that the network moves a frame", moved.a_frame / 1e6, "MB/frame"),
        Figure(
            "gpu.network_fps",
            f"the network alone, {best.frames} at a time",
            best.frames / best.seconds,
            "frames/s",
            "more",
        ),
        Figure(
            "gpu.roofline_share",
            "the network alone, share of the memory roofline",
            best.floor_s / best.seconds,
            "",
            "more",
        ),
    ]
    series = (
        Series("measured", tuple((run.frames, run.frames / run.seconds) for run in runs)),
        Series("floor", tuple((run.frames, run.frames / run.floor_s) for run in runs)),
    )
    return figures, Plot("gpu_batches", "The network alone", "frames at a time", "frames/s", "line", series)


async def _served(bench: Bench, url: str) -> list[Figure]:
    pcm = read_audio(SPEECH).pcm()
    async with LipstreamClient(url) as client:
        bench.tell("frames a second end to end")
        warm = await saturate(client, AVATAR, pcm, 2, 100)
        frames = max(50 * CLIENTS if bench.gpu else 0, round(warm.frames_per_s * bench.span_s))
        rates = [
            (await saturate(client, AVATAR, pcm, CLIENTS, frames)).frames_per_s
            for _ in range(1 if bench.quick else 5)
        ]
        most, ages = await _live(bench, client, pcm)
    figures = [
        spread_figure(rates, "gpu.fps", "end to end", "frames/s", "more"),
        Figure("gpu.most", "live streams, ≤ 1 % late", most, "streams", "more"),
    ]
    if ages:
        age_ms = 1e3 * float(np.percentile(ages, 99))
        figures.append(Figure("gpu.age_p99_ms", f"age of a frame, {most} live, p99", age_ms, "ms", "less"))
    return figures


async def _live(bench: Bench, client: LipstreamClient, pcm: Pcm) -> tuple[int, list[float]]:
    ages: dict[int, list[float]] = {}

    async def try_streams(streams: int) -> bool:
        bench.tell(f"{streams} live")
        log = await live_streams(client, AVATAR, pcm, streams, bench.span_s + bench.burn_in_s)
        ages[streams] = log.age_s
        return log.late_share <= LATE_SHARE

    most = await most_streams(try_streams, MOST_STREAMS if bench.gpu else 1)
    return most, ages.get(most, [])
