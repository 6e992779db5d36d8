"""What a server costs by how many avatars it has in memory: its processes' memory, and the CPU time of a frame."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from client import Keepalive
from client._triton import TritonTransport
from compositor_backend.contract import AUDIO, AVATAR, FEATURES_ENSEMBLE, FRAME_INDEX, JPEG, LIPSYNC_MODEL
from export.demo.avatar import DEMO_ID
from perf.bench import Bench
from perf.copies import copy_avatar
from perf.measured import spread_figure
from perf.processes import cpu_s
from perf.readings import PACK, Reading, read_at_rest
from perf.results import Figure, Plot, Section, Series
from server.launcher import TritonServer

RESIDENTS, QUICK_RESIDENTS = (1, 8, 64, 256), (1, 3)
FRAMES = 5
"""Of a request: a chunk of a live stream."""
IN_FLIGHT = 2
ROUNDS = 5
ANSWER_WITHIN_S = 60.0
SPARE_MIB = 64
MB = 1e6
TEXT = f"""\
Copies of the demo's avatar, each with a half-width network of its own, all of them resident; requests of {FRAMES}
frames from ready audio features, {IN_FLIGHT} under way, go to one after another. Memory is the proportional set size of
all processes at rest, the figure what each further avatar adds to it, pages of the avatars' packs left out: they are
mapped files, which the system takes back at need. CPU time is that of all of the server's processes, over {ROUNDS}
rounds, beside that with one avatar.
"""


@dataclass(frozen=True)
class Measured:
    """With some number of resident avatars: memory at rest, and the CPU milliseconds of a frame in each round."""

    memory: Reading
    cpu_ms: Sequence[float]


def measure(bench: Bench) -> Section:
    """Figures ``residents.…``."""
    shutil.rmtree(bench.work / "residents", ignore_errors=True)
    found = {
        count: _with_residents(bench, count) for count in (QUICK_RESIDENTS if bench.quick else RESIDENTS)
    }
    shutil.rmtree(bench.work / "residents")
    return Section("residents", "Resident avatars", TEXT, tuple(_figures(found)), _plots(found))


def _with_residents(bench: Bench, count: int) -> Measured:
    avatars = bench.work / "residents"
    names = [f"resident-{number}" for number in range(count)]
    for number, name in enumerate(names):
        if not (avatars / name).is_dir():
            bench.tell(f"copying the demo's avatar, {number + 1} of {count}")
            copy_avatar(bench.avatars, DEMO_ID, avatars, name)
    size = (avatars / names[0] / "network.onnx").stat().st_size
    room_mib = SPARE_MIB + count * (size + 4096) // (1 << 20)
    with bench.serving(avatars, networks_mib=room_mib) as server:
        bench.tell(f"{count} resident avatars")
        found = asyncio.run(_ask(bench, server, names))
        memory = read_at_rest(server, avatars)
    return Measured(memory, found)


async def _ask(bench: Bench, server: TritonServer, names: Sequence[str]) -> list[float]:
    transport = TritonTransport(server.grpc_url, Keepalive())
    try:
        await _visit(transport, names)  # all are loaded
        return [await _round_ms(bench, transport, server, names) for _ in range(1 if bench.quick else ROUNDS)]
    finally:
        await transport.close()


async def _round_ms(
    bench: Bench, transport: TritonTransport, server: TritonServer, names: Sequence[str]
) -> float:
    visits = itertools.cycle(names)
    started_s, before_s, frames = time.perf_counter(), cpu_s([server.pid]), 0
    while not frames or time.perf_counter() - started_s < bench.span_s / 2:
        await _visit(transport, [next(visits) for _ in range(2 * IN_FLIGHT)])
        frames += 2 * IN_FLIGHT * FRAMES
    return 1e3 * (cpu_s([server.pid]) - before_s) / frames


async def _visit(transport: TritonTransport, names: Sequence[str]) -> None:
    """A request to each of them, `IN_FLIGHT` under way."""
    audio = np.random.default_rng(0).standard_normal((FRAMES, 32, 16, 16), np.float32)
    free = asyncio.Semaphore(IN_FLIGHT)

    async def ask(name: str) -> None:
        inputs = {
            AVATAR.name: np.array([name.encode()], object),
            FRAME_INDEX.name: np.arange(FRAMES, dtype=np.int32),
            AUDIO.name: audio,
        }
        async with free:
            await transport.infer(FEATURES_ENSEMBLE.name, inputs, [JPEG.name], ANSWER_WITHIN_S, name)

    await asyncio.gather(*map(ask, names))


# --- figures ---
def _figures(found: Mapping[int, Measured]) -> list[Figure]:
    figures = []
    for count, each in found.items():
        label = f"{count} resident"
        figures += [
            Figure(f"residents.{count}.memory_mb", f"all processes, {label}", each.memory.total / MB, "MB"),
            spread_figure(each.cpu_ms, f"residents.{count}.cpu_ms", f"CPU, {label}", "ms/frame", "less"),
        ]
    few, many = min(found), max(found)
    more = found[many].memory.without(PACK) - found[few].memory.without(PACK)
    ratio = float(np.median(found[many].cpu_ms) / np.median(found[few].cpu_ms))
    return [
        *figures,
        Figure("residents.avatar_mb", "each further avatar adds", more / (many - few) / MB, "MB", "less"),
        Figure("residents.cpu_ratio", f"CPU with {many} over CPU with {few}", ratio, "x", "less"),
    ]


def _plots(found: Mapping[int, Measured]) -> tuple[Plot, Plot]:
    counts = [*found]
    parts = {
        LIPSYNC_MODEL.name: [found[n].memory.parts[LIPSYNC_MODEL.name] for n in counts],
        PACK: [found[n].memory.parts.get(PACK, 0) for n in counts],
        "the rest": [found[n].memory.without(LIPSYNC_MODEL.name, PACK) for n in counts],
    }
    memory = tuple(
        Series(part, tuple((str(n), size / MB) for n, size in zip(counts, sizes, strict=True)))
        for part, sizes in parts.items()
    )
    cpu = Series("CPU of all processes", tuple((str(n), float(np.median(found[n].cpu_ms))) for n in counts))
    x_label = "resident avatars"
    return (
        Plot("residents", "Memory by resident avatars", x_label, "MB", "stacked", memory),
        Plot("residents_cpu", "Cost by resident avatars", x_label, "ms per frame", "stacked", (cpu,)),
    )
