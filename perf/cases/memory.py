"""Memory: the pack on disk, and what the server's processes hold, by compositor instances."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from pathlib import Path

import numpy as np
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from client import LipstreamClient, read_audio
from compositor_backend.contract import COMPOSITOR_MODEL, SAMPLES_PER_FRAME
from compositor_backend.errors import LipstreamError
from perf.bench import Bench
from perf.mappings import mapped_pss
from perf.processes import processes_by_role
from perf.readings import TRITON, Reading, read, read_at_rest
from perf.results import Figure, Plot, Section, Series
from perf.scenarios import Pcm
from server.launcher import TritonServer
from server.settings import ROOT

SPEECH = ROOT / "export" / "demo" / "speech" / "hello.flac"
CONFIGS = ("config.pbtxt", "configs/embedded.pbtxt")
PACK_FRAMES = 523
"""Those of the avatar that the replaced system was measured with."""
QUICK_FRAMES = 40
CLIENTS = 8
BATCH = 25
INSTANCES = (1, 2, 8)
ROUNDS = 3
TOUCHED_WITHIN_S = 120
MB = 1e6
TEXT = """\
Proportional set size of all of the server's processes after real requests, once they rest and have given freed memory
back (`compositor_backend.memory`): a page that n of them share counts as 1/n for each. An avatar with the null network
and {frames} frames of 1280x720, of which {clients} clients want every frame, {batch} a request, until each compositor
instance has mapped the pack and answered; the middle of {rounds} servers for each number of instances. The figure is
the largest growth for each instance added, of all processes but Triton's own: with the same instances, the heap of that
one was up to 70 MB larger in one run than in the next.

*Avatars' packs* are pages of mapped files, which the system takes back at need. *Shared memory* is what the Python
backend keeps in `/dev/shm` to hand tensors over, a region for each instance: it begins with 1 MB and does not shrink,
so that after 25 mouths in and 25 JPEGs out a compositor's is 9 MB, or 17 where a request came before the memory of the
one before it was free again. A compositor's own memory is Python and numpy (20 MB) and, while it works, the copy that
the backend makes of a request's mouths (8 MB), frames under way, and holes.
"""


class ReadingError(LipstreamError):
    """Memory could not be measured; the message is one sentence for the user."""


def measure(bench: Bench) -> Section:
    """Figures ``memory.…``."""
    frames = QUICK_FRAMES if bench.quick else PACK_FRAMES
    pack = bench.null_pack("1280x720", frames)
    rounds = [
        {n: _with_compositors(bench, pack.name, frames, n) for n in INSTANCES}
        for _ in range(1 if bench.quick else ROUNDS)
    ]
    busy, at_rest = ({n: _middle([found[n][rest] for found in rounds]) for n in INSTANCES} for rest in (0, 1))
    figures = (
        *_pack_figures(pack, frames),
        *_instance_figures(at_rest),
        Figure(
            "memory.compositor_instance_busy_mb",
            "the same just after work",
            max(_growth(busy).values()),
            "MB",
            "less",
        ),
    )
    text = TEXT.format(frames=frames, rounds=len(rounds), clients=CLIENTS, batch=BATCH)
    return Section("memory", "Memory", text, figures, (_plot(at_rest),))


def _with_compositors(bench: Bench, avatar: str, frames: int, instances: int) -> tuple[Reading, Reading]:
    """Just after work, and at rest."""
    bench.tell(f"memory with {instances} compositors")
    models = model_repository(bench.work / "memory" / f"compositors_{instances}", instances)
    with bench.serving(bench.work_avatars, models) as server:
        asyncio.run(_touch(server, avatar, frames, instances))
        return read(server, bench.work_avatars), read_at_rest(server, bench.work_avatars)


def _middle(readings: Sequence[Reading]) -> Reading:
    """The one that is neither much larger nor much smaller than the others."""
    return sorted(readings, key=lambda reading: reading.without(TRITON))[len(readings) // 2]


def model_repository(folder: Path, compositors: int) -> Path:
    """A copy of the model repository with so many instances of the compositor."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "model_repository", folder)
    for file in CONFIGS:
        path = folder / COMPOSITOR_MODEL.name / file
        config = text_format.Parse(path.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
        for group in config.instance_group:
            group.count = compositors
        path.write_text(text_format.MessageToString(config), encoding="utf-8")
    return folder


async def _touch(server: TritonServer, avatar: str, frames: int, instances: int) -> None:
    """Have the avatar speak until every compositor instance has answered, and every frame has been shown twice."""
    pcm = np.resize(read_audio(SPEECH).pcm(), frames * SAMPLES_PER_FRAME)
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


async def _speak(client: LipstreamClient, avatar: str, pcm: Pcm, first_frame: int) -> None:
    stream = client.speak(
        avatar, pcm, chunk_frames=BATCH, first_chunk_frames=None, first_frame=first_frame, in_flight=1
    )
    async with aclosing(stream) as shown:
        async for _ in shown:
            pass


def _compositors_with_pack(server: TritonServer, avatar: str) -> int:
    """Compositor processes that have read the avatar's pixels."""
    region = f"/{avatar}/region_data.npy"
    processes = processes_by_role(server.pid)[COMPOSITOR_MODEL.name]
    return sum(
        any(name.endswith(region) and pss > 0 for name, pss in mapped_pss(process.pid).items())
        for process in processes
    )


# --- figures ---
def _pack_figures(pack: Path, frames: int) -> list[Figure]:
    """Of a pack as long as the replaced system's, or none."""
    if frames != PACK_FRAMES:
        return []
    size = sum(file.stat().st_size for file in pack.rglob("*") if file.is_file())
    return [Figure("memory.pack_gb", f"avatar of {PACK_FRAMES} frames on disk", size / 1e9, "GB", "less")]


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
    label = "another compositor adds at most, at rest"
    return [*figures, Figure("memory.compositor_instance_mb", label, worst, "MB", "less")]


def _growth(found: Mapping[int, Reading]) -> dict[tuple[int, int], float]:
    """MB that each compositor adds, from fewer of them to more."""
    return {
        (few, many): (found[many].without(TRITON) - found[few].without(TRITON)) / (many - few) / MB
        for few, many in itertools.pairwise(sorted(found))
    }


def _plot(found: Mapping[int, Reading]) -> Plot:
    parts = sorted({part for reading in found.values() for part in reading.parts})
    series = tuple(
        Series(part, tuple((str(n), reading.parts.get(part, 0) / MB) for n, reading in found.items()))
        for part in parts
    )
    return Plot("memory", "Memory by compositor instances", "compositor instances", "MB", "stacked", series)
