"""Triton's own `perf_analyzer` on the same server: throughput and latency against requests under way."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from client import read_audio
from compositor_backend.contract import AVATAR_ENSEMBLE
from export.demo.avatar import DEMO_ID
from perf.analyzer import WINDOWS, Analyzer, Measured, Target, find_analyzer, requests_of, write_requests
from perf.bench import Bench
from perf.results import Figure, Plot, Section, Series
from server.settings import ROOT

SPEECH = ROOT / "export" / "demo" / "speech" / "hello.flac"
CONCURRENCY = (1, 2, 4, 8, 16)
FRAMES = (25, 5)
"""Of a request: of an utterance that is there as a whole, and of one that comes in real time."""
LEAST_FRAMES_PER_S = 30
TEXT = f"""\
`perf_analyzer` 2.51 asks the demo's ensemble over gRPC for frames from speech, with requests that were cut from an
utterance as the client cuts them, {" and ".join(map(str, FRAMES))} frames each, and always keeps the same number of
them under way. Percentiles are over all requests of {WINDOWS} windows; with few requests in them, p99 is the slowest.
Files with all that it says, one for each of the ensemble's steps too, are in `analyzer/` beside this report. Unlike the
client it also asks for the face boxes, and throws answers away unread.
"""


def measure(bench: Bench, audio: Path = SPEECH) -> Section:
    """Figures ``analyzer.c<requests under way>.…``; ``….chunk5_…`` with 5 frames a request, else 25."""
    bench.tell("fetching perf_analyzer")
    analyzer = find_analyzer(bench.work / "perf_analyzer")
    with bench.serving(bench.avatars) as server:
        sweeps = {frames: _sweep(bench, analyzer, server.grpc_url, audio, frames) for frames in FRAMES}
    figures = [figure for frames, sweep in sweeps.items() for figure in _figures(frames, sweep)]
    return Section("analyzer", "perf_analyzer", TEXT, tuple(figures), _plots(sweeps))


def _sweep(bench: Bench, analyzer: Analyzer, url: str, audio: Path, frames: int) -> list[Measured]:
    requests = requests_of(DEMO_ID, read_audio(audio).pcm(), frames)
    file = write_requests(bench.work / f"requests_{frames}.json", requests)
    target = Target(AVATAR_ENSEMBLE.name, url, file)
    out = bench.work.parent / "analyzer" / f"{frames}_frames"
    sweep = []
    for number in (1, 4) if bench.quick else CONCURRENCY:
        bench.tell(f"perf_analyzer: {number} requests of {frames} frames under way")
        # Every request that is under way is to end within a window, on two slow cores too.
        window_s = max(1.5 if bench.quick else 3.0, number * frames / LEAST_FRAMES_PER_S)
        sweep.append(analyzer.measure(target, number, window_s, out))
    return sweep


def _figures(frames: int, sweep: list[Measured]) -> list[Figure]:
    figures = []
    for measured in sweep:
        prefix = f"analyzer.c{measured.concurrency}." + ("" if frames == FRAMES[0] else f"chunk{frames}_")
        label = f"{measured.concurrency} requests of {frames} frames under way"
        rate = measured.requests_per_s * frames
        figures.append(Figure(f"{prefix}fps", f"{label}: throughput", rate, "frames/s", "more"))
        figures += [
            Figure(f"{prefix}p{percentile}_ms", f"{label}: latency, p{percentile}", latency, "ms", "less")
            for percentile, latency in sorted(measured.latency_ms.items())
        ]
    return figures


def _plots(sweeps: Mapping[int, list[Measured]]) -> tuple[Plot, ...]:
    latency = tuple(
        Series(f"{frames} frames, p{p}", tuple((m.concurrency, m.latency_ms[p]) for m in sweep))
        for frames, sweep in sweeps.items()
        for p in (50, 99)
    )
    rate = tuple(
        Series(f"{frames} frames", tuple((m.concurrency, m.requests_per_s * frames) for m in sweep))
        for frames, sweep in sweeps.items()
    )
    x_label = "requests under way"
    return (
        Plot("analyzer_latency", "Latency by perf_analyzer", x_label, "ms a request", "line", latency),
        Plot("analyzer_throughput", "Throughput by perf_analyzer", x_label, "frames/s", "line", rate),
    )
