"""Memory: the pack on disk, and what the server's processes hold, by avatars and by compositor instances."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from google.protobuf import text_format

from client import LipstreamClient, read_audio
from compositor_backend.contract import (
    AVATAR_PREFIX,
    COMPOSITOR_MODEL,
    LIPSYNC_PREFIX,
    SAMPLES_PER_FRAME,
    avatar_ensemble_name,
)
from compositor_backend.errors import LipstreamError
from compositor_backend.memory import REST_S
from export.demo.avatar import DEMO_ID
from export.model_configs import EMBEDDED_CONFIG, PRODUCTION_CONFIG, read_config
from perf.bench import Bench
from perf.copies import copy_avatar
from perf.mappings import mapped_pss
from perf.processes import processes_by_role
from perf.results import Figure, Plot, Section, Series
from perf.scenarios import Pcm
from server.launcher import TritonServer
from server.settings import ROOT

SPEECH = ROOT / "export" / "demo" / "speech" / "hello.flac"
PACK_FRAMES = 523
"""Those of the avatar that the replaced system was measured with."""
QUICK_FRAMES = 40
CLIENTS = 8
BATCH = 25
INSTANCES = (1, 2, 8)
ROUNDS = 3
TOUCHED_WITHIN_S = 120
SETTLED_WITHIN_S = 1.0
MB = 1e6
PACK, SHARED, NETWORKS = "avatars' packs", "shared memory", "networks"
TRITON = "tritonserver"
TEXT = """\
Proportional set size of all of the server's processes after real requests, once they rest and have given freed memory
back (`compositor_backend.memory`): a page that n of them share counts as 1/n for each. *By compositors*: an avatar with
the null network and {frames} frames of 1280x720, of which {clients} clients want every frame, {batch} a request, until
each compositor instance has mapped the pack and answered; the middle of {rounds} servers for each number. The figure is
the largest growth for each instance added, of all processes but Triton's own: with the same instances, the heap of that
one was up to 70 MB larger in one run than in the next. *By avatars*: copies of the demo's avatar with files and a
half-width network of their own, loaded one after another, each speaking every template frame.

*Avatars' packs* are pages of mapped files, which the system takes back at need. *Shared memory* is what the Python
backend keeps in `/dev/shm` to hand tensors over, a region for each instance: it begins with 1 MB and does not shrink,
so that after 25 mouths in and 25 JPEGs out a compositor's is 9 MB, or 17 where a request came before the memory of the
one before it was free again. A compositor's own memory is Python and numpy (20 MB) and, while it works, the copy that
the backend makes of a request's mouths (8 MB), frames under way, and holes.
"""


class ReadingError(LipstreamError):
    """Memory could not be measured; the message is one sentence for the user."""


@dataclass(frozen=True)
class Reading:
    """Proportional set size in bytes of all processes, by what holds it."""

    parts: Mapping[str, int]

    @property
    def total(self) -> int:
        """Of all processes."""
        return sum(self.parts.values())

    @property
    def steady(self) -> int:
        """Of all but Triton's own process."""
        return self.total - self.parts.get(TRITON, 0)


def measure(bench: Bench) -> Section:
    """Figures ``memory.…``."""
    frames = QUICK_FRAMES if bench.quick else PACK_FRAMES
    pack = bench.null_pack("1280x720", frames)
    avatar = pack.name.removeprefix(AVATAR_PREFIX)
    rounds = [
        {n: _with_compositors(bench, avatar, frames, n) for n in INSTANCES}
        for _ in range(1 if bench.quick else ROUNDS)
    ]
    busy, by_instances = (
        {n: _middle([found[n][at_rest] for found in rounds]) for n in INSTANCES} for at_rest in (0, 1)
    )
    by_avatars = _with_avatars(bench, 2 if bench.quick else 4)
    figures = (
        *_pack_figures(pack, frames),
        *_instance_figures(by_instances),
        Figure(
            "memory.compositor_instance_busy_mb",
            "the same just after work",
            max(_growth(busy).values()),
            "MB",
            "less",
        ),
        *_avatar_figures(by_avatars),
    )
    plots = (
        _plot("memory", "Memory by compositor instances", "compositor instances", by_instances),
        _plot("memory_avatars", "Memory by avatars", "avatars loaded", dict(enumerate(by_avatars))),
    )
    text = TEXT.format(frames=frames, rounds=len(rounds), clients=CLIENTS, batch=BATCH)
    return Section("memory", "Memory", text, figures, plots)


# --- by compositors ---
def _with_compositors(bench: Bench, avatar: str, frames: int, instances: int) -> tuple[Reading, Reading]:
    """Just after work, and at rest."""
    bench.tell(f"memory with {instances} compositors")
    models = model_repository(bench.work / "memory" / f"compositors_{instances}", instances)
    with bench.serving(bench.work_avatars, [avatar], [models]) as server:
        asyncio.run(_touch(server, avatar, frames, instances))
        busy = read(server, [bench.work_avatars])
        return busy, _at_rest(server, [bench.work_avatars])


def _middle(readings: Sequence[Reading]) -> Reading:
    """The one that is neither much larger nor much smaller than the others."""
    return sorted(readings, key=lambda reading: reading.steady)[len(readings) // 2]


def model_repository(folder: Path, compositors: int) -> Path:
    """A copy of what all avatars share, with so many instances of the compositor."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "model_repository", folder)
    for file in (PRODUCTION_CONFIG, EMBEDDED_CONFIG):
        path = folder / COMPOSITOR_MODEL.name / file
        config = read_config(path)
        for group in config.instance_group:
            group.count = compositors
        path.write_text(text_format.MessageToString(config), encoding="utf-8")
    return folder


async def _touch(server: TritonServer, avatar: str, frames: int, instances: int) -> None:
    """Have the avatar speak until every compositor instance has answered, and every frame has been shown twice."""
    pcm = _speech(frames)
    deadline_s = time.monotonic() + TOUCHED_WITHIN_S
    async with LipstreamClient(server.grpc_url) as client:
        for number in itertools.count():
            await asyncio.gather(
                *(_speak(client, avatar, pcm, frames * n // CLIENTS) for n in range(CLIENTS))
            )
            ready = _compositors_with_pack(server, avatar)
            if ready == instances and number >= 1:
                return
            if time.monotonic() > deadline_s:
                raise ReadingError(
                    f"{ready} of {instances} compositors have answered after {TOUCHED_WITHIN_S} s"
                )


async def _speak(client: LipstreamClient, avatar: str, pcm: Pcm, first_frame: int = 0) -> None:
    stream = client.speak(
        avatar, pcm, chunk_frames=BATCH, first_chunk_frames=None, first_frame=first_frame, in_flight=1
    )
    async with aclosing(stream) as shown:
        async for _ in shown:
            pass


def _speech(frames: int) -> Pcm:
    return np.resize(read_audio(SPEECH).pcm(), frames * SAMPLES_PER_FRAME)


def _compositors_with_pack(server: TritonServer, avatar: str) -> int:
    """Compositor processes that have read the avatar's pixels."""
    region = f"/{avatar_ensemble_name(avatar)}/region_data.npy"
    processes = processes_by_role(server.pid)[COMPOSITOR_MODEL.name]
    return sum(
        any(name.endswith(region) and pss > 0 for name, pss in mapped_pss(process.pid).items())
        for process in processes
    )


# --- by avatars ---
def _with_avatars(bench: Bench, most: int) -> list[Reading]:
    """A reading with no avatar, with one, with two …"""
    avatars = bench.work / "memory" / "avatars"
    shutil.rmtree(avatars, ignore_errors=True)
    names = [f"viewer-{number}" for number in range(1, most + 1)]
    for name in names:
        bench.tell(f"copying the demo's avatar to {name}")
        copy_avatar(bench.avatars, DEMO_ID, avatars, name)
    with bench.serving(avatars) as server:
        return asyncio.run(_load_one_by_one(bench, server, avatars, names))


async def _load_one_by_one(
    bench: Bench, server: TritonServer, avatars: Path, names: Sequence[str]
) -> list[Reading]:
    readings = [_at_rest(server, [avatars])]
    async with LipstreamClient(server.grpc_url) as client:
        for name in names:
            bench.tell(f"memory: {name} speaks")
            await client.load(name)
            await _speak(client, name, _speech(_frames(avatars, name)))
            readings.append(_at_rest(server, [avatars]))
    return readings


def _frames(avatars: Path, avatar: str) -> int:
    return len(np.load(avatars / avatar_ensemble_name(avatar) / "rects.npy"))


# --- readings ---
def read(server: TritonServer, avatars: Sequence[Path]) -> Reading:
    """What the server's processes hold now; `avatars` are the folders that packs are mapped from."""
    folders = tuple(f"{folder.resolve()}/" for folder in avatars)
    parts: dict[str, int] = {}
    for role, processes in processes_by_role(server.pid).items():
        for process in processes:
            for name, pss in mapped_pss(process.pid).items():
                part = _part(role, name, folders)
                parts[part] = parts.get(part, 0) + pss
    return Reading(parts)


def _at_rest(server: TritonServer, avatars: Sequence[Path]) -> Reading:
    """The same once the processes have had the time to give freed memory back."""
    time.sleep(REST_S + SETTLED_WITHIN_S)
    return read(server, avatars)


def _part(role: str, mapping: str, avatars: tuple[str, ...]) -> str:
    if mapping.startswith(avatars) and mapping.endswith(".npy"):
        return PACK
    if mapping.startswith("/dev/shm/"):
        return SHARED
    return NETWORKS if role.startswith(LIPSYNC_PREFIX) else role


# --- figures ---
def _pack_figures(pack: Path, frames: int) -> list[Figure]:
    """Of a pack as long as the replaced system's, or none."""
    if frames != PACK_FRAMES:
        return []
    size = sum(file.stat().st_size for file in pack.rglob("*") if file.is_file())
    return [Figure("memory.pack_gb", f"pack of {PACK_FRAMES} frames on disk", size / 1e9, "GB", "less")]


def _instance_figures(found: Mapping[int, Reading]) -> list[Figure]:
    growth = _growth(found)
    figures = [
        Figure(
            f"memory.compositors_{n}_mb", f"all processes, {n} compositors", reading.total / MB, "MB", "less"
        )
        for n, reading in found.items()
    ]
    for (few, many), each in growth.items():
        label = f"each compositor from {few} to {many} adds"
        figures.append(Figure(f"memory.compositor_{few}_to_{many}_mb", label, each, "MB", "less"))
    worst = max(growth.values())
    return [
        *figures,
        Figure(
            "memory.compositor_instance_mb", "another compositor adds at most, at rest", worst, "MB", "less"
        ),
    ]


def _growth(found: Mapping[int, Reading]) -> dict[tuple[int, int], float]:
    """MB that each compositor adds, from fewer of them to more."""
    return {
        (few, many): (found[many].steady - found[few].steady) / (many - few) / MB
        for few, many in itertools.pairwise(sorted(found))
    }


def _avatar_figures(found: Sequence[Reading]) -> list[Figure]:
    """What each avatar after the first adds; the first also fills the processes that all share."""
    steps = list(itertools.pairwise(found))[1:]
    grown = {
        "avatar_pss": ("another avatar adds", [more.total - less.total for less, more in steps]),
        "avatar_pack": ("of it pages of its pack", [_part_grown(less, more, PACK) for less, more in steps]),
        "avatar_network": ("of it its network", [_part_grown(less, more, NETWORKS) for less, more in steps]),
    }
    figures = [
        Figure(f"memory.{name}_mb", label, median(values) / MB, "MB", "less")
        for name, (label, values) in grown.items()
    ]
    return [
        Figure("memory.base_mb", "all processes, no avatar", found[0].total / MB, "MB", "less"),
        Figure("memory.server_mb", "all processes, one avatar", found[1].total / MB, "MB", "less"),
        *figures,
    ]


def _part_grown(less: Reading, more: Reading, part: str) -> int:
    return more.parts.get(part, 0) - less.parts.get(part, 0)


def _plot(name: str, title: str, x_label: str, found: Mapping[int, Reading]) -> Plot:
    parts = sorted({part for reading in found.values() for part in reading.parts})
    series = tuple(
        Series(part, tuple((str(n), reading.parts.get(part, 0) / MB) for n, reading in found.items()))
        for part in parts
    )
    return Plot(name, title, x_label, "MB", "stacked", series)
