"""The first frame of an avatar that is not loaded, split by what takes the time."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

from client import LipstreamClient, ModelStatistics, read_audio
from compositor_backend.contract import (
    AUDIO_FEATURES_MODEL,
    AVATAR_FRAMES_MODEL,
    CHUNK_GRID_FRAMES,
    COMPOSITOR_MODEL,
    SAMPLES_PER_FRAME,
    audio_encoder_name,
    lipsync_name,
)
from export.demo.avatar import DEMO_ID
from perf.bench import Bench
from perf.copies import copy_avatar
from perf.measured import spread_figure
from perf.page_cache import drop, resident_share
from perf.results import Figure, Plot, Section, Series
from perf.scenarios import Pcm
from server.settings import ROOT

SPEECH = ROOT / "export" / "demo" / "speech" / "hello.flac"
NEWCOMER, NEIGHBOUR = "newcomer", "neighbour"
ALONE, SECOND, COLD = "first avatar", "encoder loaded", "cold page cache"
COUNTED_AFTER_S = 0.05
"""Triton counts a request only after its answer has left."""
GONE = 0.05
"""The share of a file's pages that may be left in memory where the cache is called cold."""
TEXT = f"""\
A copy of the demo's avatar, half-width network and files of its own, is loaded through the client on a server that runs
the shared models, and then asked for {CHUNK_GRID_FRAMES} frames. *First avatar*: nothing has been asked of the server
before, and the audio encoder is loaded with the avatar; this is the figure that is held against the target. *Encoder
loaded*: another avatar with the same encoder has been loaded and has spoken. *Cold page cache*: as the first avatar,
with all files of the avatar and of the encoder put out of memory before. Every time on a server just started; medians.

The load is one call: Triton starts the encoder's and the network's processes side by side and lets each compute one
row. That row of the network is *warm-up*; *start* is the rest, chiefly Python, onnxruntime and making the session. The
request is split by Triton's statistics. Its steps take longer than ever after: `avatar_frames` and `compositor` open
the pack, `audio_features` has never computed so much, the network's answers want memory. What the steps leave is the
client's and the transport's.
"""


def measure(bench: Bench) -> Section:
    """Figures ``first_frame.…``."""
    avatars = bench.work / "first_frame"
    bench.tell("copying the demo's avatar")
    files = copy_avatar(bench.avatars, DEMO_ID, avatars, NEWCOMER)
    copy_avatar(bench.avatars, DEMO_ID, avatars, NEIGHBOUR)
    pcm = read_audio(SPEECH).pcm()[: CHUNK_GRID_FRAMES * SAMPLES_PER_FRAME]
    found: dict[str, list[FirstFrame]] = {ALONE: [], SECOND: [], COLD: []}
    left: list[float] = []
    for number in range(1 if bench.quick else 5):
        for scenario in found:
            bench.tell(f"first frame, {scenario}, round {number + 1}")
            cold = files if scenario == COLD else ()
            found[scenario].append(_fresh_server(bench, avatars, scenario == SECOND, pcm, cold, left))
    text = f"{TEXT}\n{_about_cache(left)}\n"
    if max(left) > GONE:
        del found[COLD]
    return Section("first_frame", "First frame", text, tuple(_figures(found)), (_plot(found),))


@dataclass(frozen=True)
class FirstFrame:
    """Seconds of a load, of the request after it and of the one after that; `steps_s` splits load and first request."""

    load_s: float
    request_s: float
    again_s: float
    steps_s: Mapping[str, float]

    @property
    def total_s(self) -> float:
        """From the wish for an avatar to its first frame."""
        return self.load_s + self.request_s


def _fresh_server(
    bench: Bench, avatars: Path, neighbour: bool, pcm: Pcm, cold: Sequence[Path], left: list[float]
) -> FirstFrame:
    """One measurement; what of the files in `cold` is left in memory is added to `left`."""
    with bench.serving(avatars) as server:
        if cold:
            drop(cold)
            left.append(resident_share(cold))
        return asyncio.run(_ask(server.grpc_url, neighbour, pcm))


async def _ask(url: str, neighbour: bool, pcm: Pcm) -> FirstFrame:
    async with LipstreamClient(url) as client:
        await client.is_ready()
        if neighbour:
            await client.load(NEIGHBOUR)
            await _frames_s(client, NEIGHBOUR, pcm)
        load_s = await _load_s(client)
        loaded = await _statistics(client)
        request_s = await _frames_s(client, NEWCOMER, pcm)
        answered = await _statistics(client)
        again_s = await _frames_s(client, NEWCOMER, pcm)
    return FirstFrame(load_s, request_s, again_s, _steps_s(load_s, loaded, request_s, answered))


async def _load_s(client: LipstreamClient) -> float:
    started_s = time.perf_counter()
    await client.load(NEWCOMER)
    return time.perf_counter() - started_s


async def _frames_s(client: LipstreamClient, avatar: str, pcm: Pcm) -> float:
    """Seconds to the first frame of an utterance of one request."""
    started_s = time.perf_counter()
    async with aclosing(client.speak(avatar, pcm, chunk_frames=CHUNK_GRID_FRAMES)) as frames:
        await anext(frames)
        taken_s = time.perf_counter() - started_s
        async for _ in frames:
            pass
    return taken_s


async def _statistics(client: LipstreamClient) -> dict[str, ModelStatistics]:
    await asyncio.sleep(COUNTED_AFTER_S)
    return {each.model: each for each in await client.statistics()}


_STEPS = {
    AUDIO_FEATURES_MODEL.name: "request: audio_features",
    audio_encoder_name(DEMO_ID): "request: audio encoder",
    AVATAR_FRAMES_MODEL.name: "request: avatar_frames",
    lipsync_name(NEWCOMER): "request: network",
    COMPOSITOR_MODEL.name: "request: compositor",
}


def _steps_s(
    load_s: float,
    loaded: Mapping[str, ModelStatistics],
    request_s: float,
    answered: Mapping[str, ModelStatistics],
) -> dict[str, float]:
    """What takes the time; the parts make up the whole."""
    warm_up_s = _elapsed_s(loaded[lipsync_name(NEWCOMER)])
    steps = {label: _elapsed_s(answered[model].since(loaded[model])) for model, label in _STEPS.items()}
    return {
        "load: start": load_s - warm_up_s,
        "load: warm-up": warm_up_s,
        **steps,
        "request: client and transport": max(0.0, request_s - sum(steps.values())),
    }


def _elapsed_s(counted: ModelStatistics) -> float:
    return (counted.queue_ns + counted.input_ns + counted.infer_ns + counted.output_ns) / 1e9


def _about_cache(left: Sequence[float]) -> str:
    percent = 100 * max(left)
    if max(left) > GONE:
        return f"The page cache could not be emptied here: {percent:.0f} % of the files stayed, so no cold figure."
    return f"Emptying the page cache took effect: {percent:.1f} % of the files' pages were left at most."


def _figures(found: Mapping[str, Sequence[FirstFrame]]) -> list[Figure]:
    def spread(scenario: str, part: str, name: str, label: str) -> Figure:
        values = [getattr(each, part) for each in found[scenario]]
        return spread_figure(values, f"first_frame.{name}", label, "s", "less")

    figures = [
        spread(ALONE, "total_s", "total_s", "first frame of an avatar not loaded, encoder not loaded either"),
        spread(ALONE, "load_s", "load_s", "of it the load"),
        spread(ALONE, "request_s", "request_s", "of it the first request, 5 frames"),
        spread(ALONE, "again_s", "again_s", "the same request once more"),
        spread(SECOND, "total_s", "with_encoder_s", "first frame of an avatar not loaded, encoder loaded"),
        spread(SECOND, "load_s", "with_encoder_load_s", "of it the load"),
        spread(SECOND, "request_s", "with_encoder_request_s", "of it the first request"),
    ]
    if COLD in found:
        figures.append(spread(COLD, "total_s", "cold_cache_s", "first frame with its files not in memory"))
    return figures


def _plot(found: Mapping[str, Sequence[FirstFrame]]) -> Plot:
    """The measurement in the middle of each scenario, part by part: medians of parts would not add up."""
    middle = {scenario: _middle(each) for scenario, each in found.items()}
    parts = next(iter(middle.values())).steps_s
    series = tuple(
        Series(part, tuple((scenario, each.steps_s[part]) for scenario, each in middle.items()))
        for part in parts
    )
    return Plot("first_frame", "First frame of an avatar not loaded", "", "s", "stacked", series)


def _middle(found: Sequence[FirstFrame]) -> FirstFrame:
    wanted = statistics.median_low(each.total_s for each in found)
    return next(each for each in found if each.total_s == wanted)
