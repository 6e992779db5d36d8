"""Live streams, saturation and the first frame, through the client and the whole chain."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import numpy as np

from client import LipstreamClient, Timeouts, read_audio
from compositor_backend.contract import FRAME_RATE_HZ
from export.demo.avatar import DEMO_ID
from perf.bench import Bench
from perf.measured import spread_figure
from perf.results import Figure, Plot, Section, Series
from perf.scenarios import (
    PLAYOUT_S,
    LiveLog,
    Pcm,
    first_frame_s,
    live_streams,
    most_streams,
    request_latencies,
    saturate,
)
from server.settings import ROOT

SPEECH = ROOT / "export" / "demo" / "speech" / "hello.flac"
CLIENTS = (1, 4, 16)
WARM_UP_FRAMES = 200
REQUEST_FRAMES = 25
MOST_STREAMS = 64
ANSWER_WITHIN_S = 600.0
"""A server that is saturated has a minute's work before it, on a slow machine more."""
LATE_SHARE = 0.01
"""Of the frames, the share that may come too late."""
LOAD = 0.8
"""Of saturation, where latency is measured …"""
STRANGERS = 8
"""… by so many that ask in even steps."""
TEXT = f"""\
From speech, through the client, on the machine that also serves. *The demo* is its avatar with the half-width network;
*null* has a network that computes nothing. Saturation: clients that together want a given number of frames, four
requests under way each; the rounds of all numbers of clients take turns. Live: viewers with clocks of their own hear
speech in real time and watch at {FRAME_RATE_HZ} frames/s in chunks of 5; a player holds the first frame back by
{1e3 * PLAYOUT_S:.0f} ms, and a frame that comes after its turn is late. The age of a frame is the time since the last
sample that it depends on. Latency at {100 * LOAD:.0f} % of saturation: requests of 5 frames, asked for by the clock,
answered or not.
"""


def measure(bench: Bench) -> Section:
    """Figures ``streams.…``, of the demo and of the null network."""
    pcm = read_audio(SPEECH).pcm()
    null = bench.null_avatar()
    with bench.serving(bench.avatars) as server:
        demo = asyncio.run(_Subject(bench, server.grpc_url, DEMO_ID, "demo", pcm).measured())
    with bench.serving(bench.work_avatars) as server:
        other = asyncio.run(_Subject(bench, server.grpc_url, null, "null", pcm).measured())
    figures = (*demo.figures, *_worst(demo, other), *other.figures)
    return Section("streams", "Streams", TEXT, figures, _plots(demo, other))


@dataclass(frozen=True)
class Measured:
    """What was measured of an avatar: frames/s by number of clients, viewers by number of streams, and figures."""

    label: str
    throughput: dict[int, float]
    drop_pct: float
    disordered: int
    live: dict[int, LiveLog]
    figures: tuple[Figure, ...]


@dataclass(frozen=True)
class _Subject:
    bench: Bench
    url: str
    avatar: str
    label: str
    pcm: Pcm

    @property
    def clients(self) -> tuple[int, ...]:
        """Numbers of clients to saturate the server with."""
        return CLIENTS[:2] if self.bench.quick else CLIENTS

    async def measured(self) -> Measured:
        async with LipstreamClient(self.url, timeouts=Timeouts(request_s=ANSWER_WITHIN_S)) as client:
            self.bench.tell(f"{self.label}: warming up")
            for _ in range(1 if self.bench.quick else 2):
                warm = await saturate(client, self.avatar, self.pcm, 2, WARM_UP_FRAMES)
            first = await self._first_frames(client)
            # Two requests for each of the most clients, at least.
            least = 2 * REQUEST_FRAMES * self.clients[-1]
            frames = max(least, round(warm.frames_per_s * self.bench.span_s))
            throughput, drop_pct, disordered = await self._saturation(client, frames)
            latency, small = await self._latency(client, frames)
            live, most = await self._live(client)
        disordered += sum(log.disordered for log in live.values())
        counts = {clients: float(np.median(rounds)) for clients, rounds in throughput.items()}
        figures = (
            spread_figure(throughput[1], self._name("fps"), f"{self.label}: one client", "frames/s", "more"),
            *first,
            small,
            *latency,
            *self._live_figures(live, most),
        )
        return Measured(self.label, counts, drop_pct, disordered, live, figures)

    async def _first_frames(self, client: LipstreamClient) -> list[Figure]:
        self.bench.tell(f"{self.label}: first frames")
        taken = [
            await first_frame_s(client, self.avatar, self.pcm) for _ in range(3 if self.bench.quick else 12)
        ]
        first, again = (1e3 * np.array(times) for times in zip(*taken, strict=True))
        return [
            spread_figure(first, self._name("first_frame_ms"), f"{self.label}: first frame", "ms", "less"),
            spread_figure(
                again,
                self._name("interrupted_ms"),
                f"{self.label}: first frame after an interruption",
                "ms",
                "less",
            ),
        ]

    async def _saturation(
        self, client: LipstreamClient, frames: int
    ) -> tuple[dict[int, list[float]], float, int]:
        rounds = 1 if self.bench.quick else 3
        found: dict[int, list[float]] = {clients: [] for clients in self.clients}
        disordered = 0
        for _ in range(rounds):
            for clients in self.clients:
                self.bench.tell(f"{self.label}: saturation by {clients}")
                went = await saturate(client, self.avatar, self.pcm, clients, frames)
                found[clients].append(went.frames_per_s)
                disordered += went.disordered
        # Round by round, so that a busy machine slows both ends alike.
        first, last = (np.array(found[clients]) for clients in (self.clients[0], self.clients[-1]))
        return found, 100 * max(0.0, 1 - float(np.median(last / first))), disordered

    async def _latency(self, client: LipstreamClient, frames: int) -> tuple[list[Figure], Figure]:
        self.bench.tell(f"{self.label}: latency at {100 * LOAD:.0f} % of saturation")
        went = await saturate(client, self.avatar, self.pcm, 4, frames // 2, chunk_frames=5)
        taken = await request_latencies(
            client, self.avatar, self.pcm, LOAD * went.frames_per_s, STRANGERS, 4 * self.bench.span_s
        )
        p50, p90, p99 = (1e3 * float(value) for value in np.percentile(taken, (50, 90, 99)))
        label = f"{self.label}: latency of 5 frames at {100 * LOAD:.0f} %"
        latency = [
            Figure(self._name(f"latency_{name}_ms"), f"{label}, {name}", value, "ms", "less")
            for name, value in (("p50", p50), ("p90", p90), ("p99", p99))
        ]
        latency.append(Figure(self._name("p99_to_p50"), f"{label}, p99 over p50", p99 / p50, "x", "less"))
        small = Figure(
            self._name("chunk5_fps"), f"{self.label}: chunks of 5", went.frames_per_s, "frames/s", "more"
        )
        return latency, small

    async def _live(self, client: LipstreamClient) -> tuple[dict[int, LiveLog], int]:
        logs: dict[int, LiveLog] = {}

        async def try_streams(streams: int) -> bool:
            self.bench.tell(f"{self.label}: {streams} live")
            logs[streams] = await live_streams(
                client, self.avatar, self.pcm, streams, self.bench.span_s + self.bench.burn_in_s
            )
            return logs[streams].late_share <= LATE_SHARE

        most = await most_streams(try_streams, 4 if self.bench.quick else MOST_STREAMS)
        return dict(sorted(logs.items())), most

    def _live_figures(self, live: dict[int, LiveLog], most: int) -> list[Figure]:
        figures = [
            Figure(self._name("most"), f"{self.label}: live streams, ≤ 1 % late", most, "streams", "more")
        ]
        log = live.get(most)
        if log is None:
            return figures
        for percentile in (50, 90, 99):
            age_ms = 1e3 * float(np.percentile(log.age_s, percentile))
            label = f"{self.label}: age of a frame, {most} live, p{percentile}"
            figures.append(Figure(self._name(f"age_p{percentile}_ms"), label, age_ms, "ms", "less"))
        label = f"{self.label}: longest stop, {most} live"
        return [*figures, Figure(self._name("stop_ms"), label, 1e3 * log.longest_stop_s, "ms", "less")]

    def _name(self, what: str) -> str:
        return f"streams.{self.label}.{what}"


def _worst(*subjects: Measured) -> list[Figure]:
    """Over all avatars, what is worst."""
    ratios = [
        figure.value
        for subject in subjects
        for figure in subject.figures
        if figure.name.endswith("p99_to_p50")
    ]
    drop = max(subject.drop_pct for subject in subjects)
    disordered = sum(subject.disordered for subject in subjects)
    return [
        Figure("streams.saturation_drop_pct", "throughput lost from 1 to 16 clients", drop, "%", "less"),
        Figure("streams.lost_or_disordered", "frames lost or out of order", disordered, "frames", "less"),
        Figure("streams.p99_to_p50", "p99 over p50 of latency", max(ratios), "x", "less"),
    ]


def _plots(*subjects: Measured) -> tuple[Plot, ...]:
    throughput = tuple(Series(s.label, tuple(s.throughput.items())) for s in subjects)
    ages = tuple(
        Series(
            f"{s.label}, p{percentile}",
            # Where the machine is too slow for so many, there may be no frame at all.
            tuple(
                (n, 1e3 * float(np.percentile(log.age_s, percentile)))
                for n, log in s.live.items()
                if log.age_s
            ),
        )
        for s in subjects
        for percentile in (50, 99)
    )
    return (
        Plot("throughput", "Saturation", "clients", "frames/s", "line", throughput),
        Plot("ages", "Age of live frames", "live streams", "ms", "line", ages),
    )
