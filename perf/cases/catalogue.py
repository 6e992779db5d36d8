"""Thousands of avatars on disk, few in memory: is every frame right, and are the right avatars in memory?"""

from __future__ import annotations

import asyncio
import dataclasses
import re
import shutil
import time
import urllib.request
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client import Keepalive
from client._triton import TritonTransport
from compositor_backend.compositor import compose
from compositor_backend.contract import AUDIO, AVATAR, FEATURES_ENSEMBLE, FRAME_INDEX, JPEG, LIPSYNC_MODEL
from compositor_backend.errors import LipstreamError
from compositor_backend.manifest import NETWORK, Manifest
from compositor_backend.pack import AvatarPack, file_sha256
from compositor_backend.timeline import template_frames
from export.shared_files import SharedFile
from perf.bench import Bench
from perf.measured import spread_figure
from perf.null_network import KEY, write_shaded_network
from perf.readings import PACK, Reading, read_at_rest
from perf.results import Figure, Plot, Section, Series

AVATARS, QUICK_AVATARS = 11_000, 300
REQUESTS, QUICK_REQUESTS = 2_000, 120
EARLY_REQUESTS, QUICK_EARLY_REQUESTS = 200, 60
CLIENTS = 8
FRAMES = 5
TEMPLATE_FRAMES = 12
RESIDENT = 16
ROOM_MIB = 1
NETWORK_BYTES = (ROOM_MIB << 20) // RESIDENT
"""Of each network's file, so that exactly `RESIDENT` of them fit the smallest budget there is."""
ZIPF = 1.1
"""The avatar of rank r is asked for in proportion to r^-1.1, as is said of much that people choose from."""
STARTS = 5
ANSWER_WITHIN_S = 60.0
_SHADES = 23
"""Of each colour: more than enough, cubed, for all avatars, and so far apart that they differ in a JPEG."""
TEXT = """\
{avatars} avatars, each with a network of its own that draws in a colour of its own, and room for {resident} networks.
{clients} clients take turns at {requests} requests of {frames} frames; an avatar's rank among those asked for follows
Zipf's law (exponent {zipf}). Each frame's bytes are held against those that composing in this process makes of the
avatar's own picture, colour and index. The hit rate is the share of requests that had no network loaded; beside it that
of an LRU of {resident}, simulated over the requests in the order in which they were sent; requests that wait for the
same network share a load, so it may be higher. Memory, all processes, packs
left out: at the end against after {early} requests. Starting: the median of {starts}, with all avatars and with one.
"""


class CatalogueError(LipstreamError):
    """It could not be measured; the message is one sentence for the user."""


@dataclass
class Storm:
    """What came of the requests so far."""

    sent: list[int] = field(default_factory=list)
    wrong: int = 0
    lost: int = 0
    taken_s: list[float] = field(default_factory=list)


def measure(bench: Bench) -> Section:
    """Figures ``catalogue.…``."""
    count = QUICK_AVATARS if bench.quick else AVATARS
    requests = QUICK_REQUESTS if bench.quick else REQUESTS
    early = QUICK_EARLY_REQUESTS if bench.quick else EARLY_REQUESTS
    starts = 1 if bench.quick else STARTS
    avatars = bench.work / "catalogue"
    shutil.rmtree(avatars, ignore_errors=True)
    try:
        _write_avatars(bench, avatars, count)
        later = _start_later_s(bench, avatars, starts)
        storm, memory, loads = _storm(bench, avatars, _zipf(count, requests), early)
    finally:
        shutil.rmtree(avatars, ignore_errors=True)
    text = TEXT.format(
        avatars=f"{count:,}",
        resident=RESIDENT,
        clients=CLIENTS,
        requests=f"{requests:,}",
        frames=FRAMES,
        zipf=ZIPF,
        early=early,
        starts=starts,
    )
    return Section(
        "catalogue", "Catalogue", text, tuple(_figures(storm, memory, loads, later)), (_plot(storm),)
    )


# --- avatars ---
def avatar_name(number: int) -> str:
    """The id of an avatar of the catalogue."""
    return f"person-{number:05d}"


def shade_of(number: int) -> tuple[int, int, int]:
    """The colour (RGB) that its network adds to the face."""
    step = 256 // _SHADES
    return number % _SHADES * step, number // _SHADES % _SHADES * step, number // _SHADES**2 * step


def _write_avatars(bench: Bench, avatars: Path, count: int) -> None:
    source = bench.null_pack("1280x720", TEMPLATE_FRAMES)
    manifest = Manifest.load(source)
    files = [SharedFile(source / f"{name}.npy") for name in manifest.files]
    names = [f"{name}.npy" for name in manifest.files]
    for number in range(count):
        if number % 500 == 0:
            bench.tell(f"writing avatars, {number:,} of {count:,}")
        folder = avatars / avatar_name(number)
        folder.mkdir(parents=True)
        for name, file in zip(names, files, strict=True):
            file.put(folder / name)
        network = write_shaded_network(folder / f"{NETWORK}.onnx", shade_of(number), NETWORK_BYTES)
        entry = dataclasses.replace(
            manifest.graphs[NETWORK], bytes=NETWORK_BYTES, sha256=file_sha256(network)
        )
        dataclasses.replace(manifest, id=folder.name, graphs={NETWORK: entry}).save(folder)


# --- starting ---
def _start_later_s(bench: Bench, avatars: Path, starts: int) -> list[float]:
    """How many seconds later a server is ready with all avatars than with one."""
    one = bench.work / "one-avatar"
    shutil.rmtree(one, ignore_errors=True)
    (one / avatar_name(0)).mkdir(parents=True)
    for file in (avatars / avatar_name(0)).iterdir():
        SharedFile(file).put(one / avatar_name(0) / file.name)
    _start_s(bench, one)  # the first start reads libraries from the disk
    return [_start_s(bench, avatars) - _start_s(bench, one) for _ in range(starts)]


def _start_s(bench: Bench, avatars: Path) -> float:
    bench.tell(f"starting with {avatars.name}")
    started_s = time.perf_counter()
    with bench.serving(avatars, networks_mib=ROOM_MIB):
        return time.perf_counter() - started_s


# --- requests ---
def _zipf(count: int, requests: int) -> list[int]:
    """Numbers of the avatars asked for, in order: the ranks go to avatars at random."""
    random = np.random.default_rng(12)
    weights = np.arange(1, count + 1, dtype=float) ** -ZIPF
    ranks = random.choice(count, requests, p=weights / weights.sum())
    found: list[int] = random.permutation(count)[ranks].tolist()
    return found


def _storm(
    bench: Bench, avatars: Path, order: Sequence[int], early: int
) -> tuple[Storm, tuple[Reading, Reading], int]:
    """What came of the requests, memory after the early ones and at the end, and how many networks were loaded."""
    storm = Storm()
    with bench.serving(avatars, networks_mib=ROOM_MIB) as server:
        readings = []
        for part in (order[:early], order[early:]):
            bench.tell(f"{len(part):,} requests for {len(set(part)):,} avatars")
            asyncio.run(_ask_all(server.grpc_url, avatars, part, storm))
            readings.append(read_at_rest(server, avatars))
        return storm, (readings[0], readings[1]), _loads(server.metrics_url)


async def _ask_all(url: str, avatars: Path, order: Sequence[int], storm: Storm) -> None:
    transport, waiting = TritonTransport(url, Keepalive()), iter(order)
    with AvatarPack(avatars / avatar_name(0)) as pack:
        try:
            await asyncio.gather(*(_client(transport, pack, waiting, storm) for _ in range(CLIENTS)))
        finally:
            await transport.close()


async def _client(transport: TritonTransport, pack: AvatarPack, waiting: Iterator[int], storm: Storm) -> None:
    """Ask for one after another of those that still wait, and look at each answer."""
    audio = np.zeros((FRAMES, *pack.manifest.audio_shape), np.float32)
    for number in waiting:
        index = (len(storm.sent) * 3 + np.arange(FRAMES)).astype(np.int32)
        storm.sent.append(number)
        inputs = {
            AVATAR.name: np.array([avatar_name(number).encode()], object),
            FRAME_INDEX.name: index,
            AUDIO.name: audio,
        }
        started_s = time.perf_counter()
        try:
            answer = await transport.infer(
                FEATURES_ENSEMBLE.name, inputs, [JPEG.name], ANSWER_WITHIN_S, avatar_name(number)
            )
        except LipstreamError:
            storm.lost += FRAMES
            continue
        storm.taken_s.append(time.perf_counter() - started_s)
        wanted = await asyncio.to_thread(_frames, pack, number, index)
        pairs = zip(answer[JPEG.name].tolist(), wanted, strict=True)
        storm.wrong += sum(got != expected for got, expected in pairs)


def _frames(pack: AvatarPack, number: int, index: NDArray[np.int32]) -> list[bytes]:
    """What the avatar is to show: its packs are all alike, its mouth has its colour."""
    template = template_frames(index, pack.frames)
    faces = pack.faces[template].transpose(0, 2, 3, 1)
    mouths = np.minimum(faces.astype(np.uint16) + np.array(shade_of(number), np.uint16), 255)
    keys = np.full((len(index), 1), KEY, np.int64)
    return [bytes(jpeg) for jpeg in compose(pack, template, mouths.astype(np.uint8), keys)]


def _loads(metrics_url: str) -> int:
    """How many networks `lipsync` has loaded, by Triton's metrics."""
    with urllib.request.urlopen(metrics_url, timeout=10) as answer:
        text = answer.read().decode()
    found = re.search(
        rf'lipstream_networks_loads_total{{[^}}]*model="{LIPSYNC_MODEL.name}"[^}}]*}} (\S+)', text
    )
    if found is None:
        raise CatalogueError("Triton's metrics do not tell how many networks were loaded")
    return round(float(found[1]))


def lru_misses(order: Sequence[int], room: int) -> int:
    """How many of the things asked for, in that order, an LRU with room for so many does not have."""
    held: OrderedDict[int, None] = OrderedDict()
    misses = 0
    for number in order:
        misses += number not in held
        held[number] = None
        held.move_to_end(number)
        if len(held) > room:
            held.popitem(last=False)
    return misses


# --- figures ---
def _figures(
    storm: Storm, memory: tuple[Reading, Reading], loads: int, later: Sequence[float]
) -> list[Figure]:
    count = len(storm.sent)
    hits, ideal = (100 * (1 - missed / count) for missed in (loads, lru_misses(storm.sent, RESIDENT)))
    early, late = (reading.without(PACK) for reading in memory)
    return [
        Figure(
            "catalogue.wrong_frames", "frames that are not the avatar's own", storm.wrong, "frames", "less"
        ),
        Figure("catalogue.lost_frames", "frames that did not come", storm.lost, "frames", "less"),
        Figure("catalogue.hit_rate_pct", "requests whose network was in memory", hits, "%", "more"),
        Figure("catalogue.lru_hit_rate_pct", "the same of a simulated LRU", ideal, "%"),
        Figure("catalogue.hit_rate_below_pct", "how much less that is", ideal - hits, "%", "less"),
        Figure("catalogue.memory_mb", "memory at the end", late / 1e6, "MB", "less"),
        Figure(
            "catalogue.memory_growth_pct", "growth since the early requests", 100 * (late / early - 1), "%"
        ),
        spread_figure(later, "catalogue.start_later_s", "starting takes longer than with one", "s"),
        spread_figure([1e3 * s for s in storm.taken_s], "catalogue.request_ms", "a request", "ms", "less"),
    ]


def _plot(storm: Storm) -> Plot:
    shares = np.percentile(1e3 * np.array(storm.taken_s), (1, 10, 25, 50, 75, 90, 95, 99))
    points = tuple(zip((1, 10, 25, 50, 75, 90, 95, 99), shares.tolist(), strict=True))
    series = (Series("a request", points),)
    return Plot("catalogue", "Answers while avatars come and go", "percentile", "ms", "line", series)
