"""The first frames of an avatar that is not in memory, beside one that is."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Sequence
from contextlib import aclosing

from client import LipstreamClient, read_audio
from compositor_backend.contract import CHUNK_GRID_FRAMES, SAMPLES_PER_FRAME
from export.demo.avatar import DEMO_ID
from perf.bench import Bench
from perf.copies import copy_avatar
from perf.measured import spread_figure
from perf.results import Figure, Plot, Section, Series
from perf.scenarios import Pcm
from server.settings import ROOT

SPEECH = ROOT / "export" / "demo" / "speech" / "hello.flac"
RESIDENT, SAVED, UNSAVED = "resident", "saved graph", "no saved graph"
TEXT = f"""\
Copies of the demo's avatar, half-width networks and files of their own, on a server where another one has spoken; each
is asked for {CHUNK_GRID_FRAMES} frames, three times: *no saved graph*, when nothing is known of it; *resident*, at once
again; *saved graph*, after the others have pushed it out of memory, its optimised graph saved. Medians; files are in
the page cache.
"""


def measure(bench: Bench) -> Section:
    """Figures ``first_frame.…`` in seconds, and in milliseconds what a cold avatar takes longer."""
    avatars = bench.work / "first_frame"
    shutil.rmtree(avatars, ignore_errors=True)
    shutil.rmtree(bench.work / "graphs", ignore_errors=True)
    names = [f"newcomer-{number}" for number in range(3 if bench.quick else 9)]
    for name in ("neighbour", *names):
        bench.tell(f"copying the demo's avatar to {name}")
        copy_avatar(bench.avatars, DEMO_ID, avatars, name)
    pcm = read_audio(SPEECH).pcm()[: CHUNK_GRID_FRAMES * SAMPLES_PER_FRAME]
    with bench.serving(avatars, networks_mib=_ROOM_MIB) as server:
        bench.tell("first frames")
        found = asyncio.run(_ask(server.grpc_url, names, pcm))
    return Section("first_frame", "First frame", TEXT, tuple(_figures(found)), (_plot(found),))


_ROOM_MIB = 13
"""For two half-width networks: the third pushes the first out."""


async def _ask(url: str, names: Sequence[str], pcm: Pcm) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {UNSAVED: [], RESIDENT: [], SAVED: []}
    async with LipstreamClient(url) as client:
        await _chunk_s(client, "neighbour", pcm)
        for name in names:
            found[UNSAVED].append(await _chunk_s(client, name, pcm))
            found[RESIDENT].append(await _chunk_s(client, name, pcm))
        for name in names:
            found[SAVED].append(await _chunk_s(client, name, pcm))
    return found


async def _chunk_s(client: LipstreamClient, avatar: str, pcm: Pcm) -> float:
    """Seconds to the frames of an utterance of one request."""
    started_s = time.perf_counter()
    async with aclosing(client.speak(avatar, pcm, chunk_frames=CHUNK_GRID_FRAMES)) as frames:
        async for _ in frames:
            pass
    return time.perf_counter() - started_s


def _figures(found: dict[str, list[float]]) -> list[Figure]:
    keys = {RESIDENT: "resident", SAVED: "saved", UNSAVED: "unsaved"}
    figures = [
        spread_figure(taken, f"first_frame.{keys[name]}_s", f"first chunk, {name}", "s", "less")
        for name, taken in found.items()
    ]
    base = sorted(found[RESIDENT])[len(found[RESIDENT]) // 2]
    return figures + [
        spread_figure(
            [1e3 * (taken - base) for taken in found[name]],
            f"first_frame.{keys[name]}_later_ms",
            f"{name}: later than a resident one",
            "ms",
            "less",
        )
        for name in (SAVED, UNSAVED)
    ]


def _plot(found: dict[str, list[float]]) -> Plot:
    series = tuple(
        Series(name, tuple(enumerate(1e3 * taken for taken in values))) for name, values in found.items()
    )
    return Plot("first_frame", "First chunk of an avatar", "avatar", "ms", "line", series)
