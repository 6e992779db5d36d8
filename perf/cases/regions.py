"""The changed part of a frame beside the whole of it: bytes of the demo's sentence, and the CPU time of a frame."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import numpy as np

from client import Keepalive, LipstreamClient, read_audio
from client._triton import TritonTransport
from compositor_backend.contract import (
    AUDIO,
    AVATAR,
    FEATURES_ENSEMBLE,
    FRAME_INDEX,
    JPEG,
    REGION,
    REGION_RECT,
)
from export.demo.avatar import DEMO_ID
from perf.bench import Bench
from perf.measured import spread_figure
from perf.processes import cpu_s
from perf.results import Figure, Section
from server.launcher import TritonServer
from server.settings import ROOT

SPEECH = ROOT / "export" / "demo" / "speech" / "hello.flac"
BATCH = 25
ANSWER_WITHIN_S = 60.0
TEXT = f"""\
*Bytes*: the demo's sentence once as JPEG and once as REGION, each frame's share. *CPU*: the null network on frames of
1280x720, requests of {BATCH} frames from ready audio features for one output or the other, in turns; the CPU time of
all of the server's processes.
"""

Ask = Callable[[int], Awaitable[None]]


def measure(bench: Bench) -> Section:
    """Figures ``regions.…``."""
    bench.tell("regions of the demo's sentence")
    with bench.serving(bench.avatars) as server:
        jpeg, region = asyncio.run(_bytes(server.grpc_url))
    avatar_id = bench.null_avatar()
    with bench.serving(bench.work_avatars) as server:
        cpu_ms = asyncio.run(_costs(bench, server, avatar_id))
    shares = [small / large for small, large in zip(region, jpeg, strict=True)]
    ratios = [small / large for small, large in zip(cpu_ms[REGION.name], cpu_ms[JPEG.name], strict=True)]
    figures: list[Figure] = [
        spread_figure(jpeg, "regions.jpeg_bytes", "JPEG of a frame", "bytes", "less"),
        spread_figure(region, "regions.region_bytes", "REGION of a frame", "bytes", "less"),
        Figure("regions.bytes_share", "REGION's bytes over JPEG's", sum(region) / sum(jpeg), "", "less"),
        Figure("regions.largest_share", "the same of the worst frame", max(shares), "", "less"),
    ]
    figures += [
        spread_figure(values, f"regions.{name.lower()}_cpu_ms", f"CPU, {name}", "ms/frame", "less")
        for name, values in cpu_ms.items()
    ]
    figures.append(spread_figure(ratios, "regions.cpu_ratio", "CPU of REGION over that of JPEG", "x", "less"))
    return Section("regions", "Regions", TEXT, tuple(figures))


async def _bytes(url: str) -> tuple[list[int], list[int]]:
    """Of each frame of the demo's sentence, as JPEG and as REGION."""
    pcm = read_audio(SPEECH).pcm()
    async with LipstreamClient(url) as client:
        jpegs = [len(frame.jpeg) async for frame in client.speak(DEMO_ID, pcm)]
        regions = [len(frame.region or b"") async for frame in client.speak(DEMO_ID, pcm, regions=True)]
    return jpegs, regions


async def _costs(bench: Bench, server: TritonServer, avatar_id: str) -> dict[str, list[float]]:
    transport = TritonTransport(server.grpc_url, Keepalive())
    wanted = {JPEG.name: [JPEG.name], REGION.name: [REGION.name, REGION_RECT.name]}
    asks = {name: _request(transport, avatar_id, outputs) for name, outputs in wanted.items()}
    found: dict[str, list[float]] = {name: [] for name in asks}
    try:
        for number in range(4 if bench.quick else 16):
            for name in sorted(asks, reverse=number % 2 == 1):
                cost_ms = await _cost_ms(asks[name], server, bench.span_s / 8)
                if number:  # the first round warms up
                    found[name].append(cost_ms)
    finally:
        await transport.close()
    return found


def _request(transport: TritonTransport, avatar_id: str, outputs: list[str]) -> Ask:
    audio = np.random.default_rng(0).standard_normal((BATCH, 32, 16, 16), np.float32)
    avatar = np.array([avatar_id.encode()], object)

    async def ask(request: int) -> None:
        index = (request * BATCH + np.arange(BATCH)).astype(np.int32)
        inputs = {AVATAR.name: avatar, FRAME_INDEX.name: index, AUDIO.name: audio}
        await transport.infer(FEATURES_ENSEMBLE.name, inputs, outputs, ANSWER_WITHIN_S, avatar_id)

    return ask


async def _cost_ms(ask: Ask, server: TritonServer, span_s: float) -> float:
    before_s, requests, loop = cpu_s([server.pid]), 0, asyncio.get_running_loop()
    ends_s = loop.time() + span_s
    while not requests or loop.time() < ends_s:
        await ask(requests)
        requests += 1
    return 1e3 * (cpu_s([server.pid]) - before_s) / (requests * BATCH)
