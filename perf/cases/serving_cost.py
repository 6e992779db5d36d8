"""What serving a frame costs beside the network: Lipstream and the baselines, in turns on the same machine."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from client import Keepalive
from client._triton import TritonTransport
from compositor_backend import contract
from compositor_backend.pack import AvatarPack
from export.demo.avatar import DEMO_ID
from perf.allocation import children_keep_freed_memory, keeping_freed_memory
from perf.baselines.material import Material
from perf.baselines.separated import SeparatedClient, build_separated, separated_name
from perf.baselines.single_process import SingleProcess
from perf.bench import Bench
from perf.processes import processes_by_role
from perf.results import Better, Figure, Plot, Section, Series
from perf.triton_counts import ModelCounts, read_counts
from server.launcher import TritonServer

BATCH = 25
"""Frames of a request; the seed's batches had 24."""
TEMPLATE_FRAMES = 50
ANSWER_WITHIN_S = 60.0
DEMO_IN_FLIGHT = 2
"""Requests under way at a time where throughput is measured, so that the network need not wait for the rest."""
LARGE_BURN_IN_S = 4.0
"""How long the separated way runs before it is measured: a heap takes some thirty of its messages to settle."""
SHARED_BYTES = 256 << 20
"""What the separated way's tensors need between Triton and its Python process; grown bit by bit otherwise."""
DEMO_ROUNDS = 10
DEMO_ROUND_S = 1.0
_CLIENT = "client"
_LIPSTREAM, _SEPARATED, _SINGLE = "lipstream", "separated", "single_process"
_LABELS = {_LIPSTREAM: "Lipstream", _SEPARATED: "separated", _SINGLE: "single-process"}

Answer = Callable[[int], Awaitable[Sequence[bytes]]]
"""Answers the request of that number with its frames."""


@dataclass(frozen=True)
class Round:
    """A round of one system: CPU time by process and elapsed time, both in milliseconds a frame."""

    cpu_ms: Mapping[str, float]
    wall_ms: float

    @property
    def total_cpu_ms(self) -> float:
        """All processes' CPU time."""
        return sum(self.cpu_ms.values())


@dataclass(frozen=True)
class System:
    """A system under test: how it answers, and the processes that it is made of, by role."""

    answer: Answer
    processes: Mapping[str, Sequence[psutil.Process]]
    in_flight: int = 1

    async def round(self, span_s: float) -> Round:
        """Ask for at least `span_s` and once at least, the next request when the one before is answered."""
        before, started, frames = self._cpu_s(), time.perf_counter(), 0
        request = 0
        while not request or time.perf_counter() - started < span_s:
            numbers = range(request, request + self.in_flight)
            frames += sum(map(len, await asyncio.gather(*map(self.answer, numbers))))
            request += self.in_flight
        wall_s, after = time.perf_counter() - started, self._cpu_s()
        scale = 1000 / frames
        return Round({role: (after[role] - before[role]) * scale for role in after}, wall_s * scale)

    def _cpu_s(self) -> dict[str, float]:
        spent = {_CLIENT: time.process_time()}
        for role, processes in self.processes.items():
            times = [process.cpu_times() for process in processes]
            spent[role] = sum(each.user + each.system for each in times)
        return spent


class CountingTransport(TritonTransport):
    """Counts the bytes of the tensors that it carries, both ways."""

    def __init__(self, url: str) -> None:
        super().__init__(url, Keepalive())
        self.bytes = 0

    async def infer(
        self,
        model: str,
        inputs: Mapping[str, NDArray[Any]],
        outputs: Sequence[str],
        timeout_s: float,
        avatar: str | None = None,
    ) -> dict[str, NDArray[Any]]:
        """See `Transport`."""
        found = await super().infer(model, inputs, outputs, timeout_s, avatar)
        self.bytes += sum(map(_nbytes, (*inputs.values(), *found.values())))
        return found


def _nbytes(tensor: NDArray[Any]) -> int:
    return sum(map(len, tensor.flat)) if tensor.dtype == object else tensor.nbytes


def measure(bench: Bench) -> Section:
    """Measure the cost of serving with the null network, and in a full run the demo's frames a second."""
    with keeping_freed_memory():
        figures, plots = _serving(bench)
        if not bench.quick:
            figures += _demo(bench)
    if not bench.quick:
        figures += _untuned(bench)
    return Section("serving_cost", "Serving cost", _TEXT, tuple(figures), tuple(plots))


# --- the null network ---
@dataclass
class Log:
    """All rounds of the systems, the server's statistics and the bytes carried over them."""

    rounds: dict[str, list[Round]] = field(default_factory=dict)
    steps: dict[str, dict[str, ModelCounts]] = field(default_factory=dict)
    bytes: dict[str, float] = field(default_factory=dict)

    def median_ms(self, system: str, role: str) -> float:
        """The median CPU time of the processes of that role."""
        return float(np.median([each.cpu_ms[role] for each in self.rounds[system]]))


def _serving(bench: Bench) -> tuple[list[Figure], list[Plot]]:
    avatar_id = bench.null_avatar(frames=TEMPLATE_FRAMES)
    with _servers(bench, bench.work_avatars, avatar_id) as servers:
        log, speech = asyncio.run(_ask(bench, avatar_id, servers))
    networks = {_LIPSTREAM: contract.LIPSYNC_MODEL.name, _SEPARATED: separated_name(avatar_id)}
    figures = _serving_figures(log, networks) + _speech_figures(speech)
    return figures, [_process_plot(log, networks), _step_plot(log.steps[_LIPSTREAM], networks[_LIPSTREAM])]


async def _ask(bench: Bench, avatar_id: str, servers: Mapping[str, TritonServer]) -> tuple[Log, Log]:
    """What asking both systems in turns showed, and what asking Lipstream with speech did."""
    transports = {name: CountingTransport(server.grpc_url) for name, server in servers.items()}
    processes = {name: processes_by_role(server.pid) for name, server in servers.items()}
    lipstream, separated = transports[_LIPSTREAM], transports[_SEPARATED]
    material = _material(bench.work_avatars, avatar_id)
    async with SeparatedClient(separated, separated_name(avatar_id), material) as client:
        systems = {
            _LIPSTREAM: System(_features_request(lipstream, avatar_id), processes[_LIPSTREAM]),
            _SEPARATED: System(_separated_request(client), processes[_SEPARATED]),
        }
        log = await _in_turns(bench, systems, transports)
        speech = {_LIPSTREAM: System(_speech_request(lipstream, avatar_id), processes[_LIPSTREAM])}
        speech_log = await _in_turns(bench, speech, transports)
    await lipstream.close()
    return log, speech_log


@contextmanager
def _servers(bench: Bench, avatars: Path, avatar_id: str) -> Iterator[dict[str, TritonServer]]:
    """A Triton with the avatar, and one with its network alone."""
    repository = _repository(bench)
    build_separated(repository, avatars, avatar_id)
    bench.tell(f"starting servers for {avatar_id}")
    with ExitStack() as running:
        lipstream = running.enter_context(bench.serving(avatars))
        with children_keep_freed_memory():
            options = (f"--backend-config=python,shm-default-byte-size={SHARED_BYTES}",)
            alone = bench.serving(avatars, repository, options)
            separated = running.enter_context(alone)
        try:
            yield {_LIPSTREAM: lipstream, _SEPARATED: separated}
        finally:
            # Each takes seconds; stopping them once more does nothing.
            with ThreadPoolExecutor() as pool:
                list(pool.map(TritonServer.stop, (lipstream, separated)))


async def _in_turns(
    bench: Bench, systems: Mapping[str, System], transports: Mapping[str, CountingTransport]
) -> Log:
    rounds, span_s = (5, 0.3) if bench.quick else (15, 1.0)
    for name, system in systems.items():
        bench.tell(f"warming {_LABELS[name]} up")
        await system.round(max(bench.burn_in_s, LARGE_BURN_IN_S if name == _SEPARATED else 0))
        transports[name].bytes = 0
    log = Log({name: [] for name in systems})
    before = {name: await _statistics(transports[name]) for name in systems}
    for number in range(rounds):
        bench.tell(f"serving cost, round {number + 1} of {rounds}")
        # Who begins changes, so that neither always finds the caches as the other left them.
        for name in sorted(systems, reverse=number % 2 == 1):
            log.rounds[name].append(await systems[name].round(span_s))
    for name in systems:
        log.steps[name] = _since(await _statistics(transports[name]), before[name])
        log.bytes[name] = transports[name].bytes / _frames(log.steps[name])
    return log


def _untuned(bench: Bench) -> list[Figure]:
    """The separated way in processes whose memory nobody tuned."""
    avatar_id = bench.null_avatar(frames=TEMPLATE_FRAMES)
    build_separated(_repository(bench), bench.work_avatars, avatar_id)
    with bench.serving(bench.work_avatars, _repository(bench)) as server:
        cpu_ms = asyncio.run(_ask_untuned(bench, avatar_id, server))
    label = "separated, memory not tuned: CPU of all processes"
    return [_figure("separated.untuned_cpu_ms", label, cpu_ms, "ms/frame", "less")]


async def _ask_untuned(bench: Bench, avatar_id: str, server: TritonServer) -> list[float]:
    transport = CountingTransport(server.grpc_url)
    material = _material(bench.work_avatars, avatar_id)
    async with SeparatedClient(transport, separated_name(avatar_id), material) as client:
        system = System(_separated_request(client), processes_by_role(server.pid))
        log = await _in_turns(bench, {_SEPARATED: system}, {_SEPARATED: transport})
    return [each.total_cpu_ms for each in log.rounds[_SEPARATED]]


def _repository(bench: Bench) -> Path:
    return bench.work / "separated"


# --- requests ---
def _index(request: int) -> NDArray[np.int32]:
    return (request * BATCH + np.arange(BATCH)).astype(np.int32)


def _audio(batch: int = BATCH) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((batch, 32, 16, 16), np.float32)


def _features_request(transport: TritonTransport, avatar_id: str) -> Answer:
    model, audio = contract.FEATURES_ENSEMBLE.name, _audio()
    return _ensemble_request(transport, model, avatar_id, {contract.AUDIO.name: audio})


def _speech_request(transport: TritonTransport, avatar_id: str) -> Answer:
    samples = np.random.default_rng(0).integers(-3000, 3000, contract.pcm_samples(BATCH), np.int16)
    model = contract.AVATAR_ENSEMBLE.name
    return _ensemble_request(transport, model, avatar_id, {contract.PCM.name: samples})


def _ensemble_request(
    transport: TritonTransport, model: str, avatar_id: str, sound: Mapping[str, NDArray[Any]]
) -> Answer:
    avatar = np.array([avatar_id.encode()], object)

    async def answer(request: int) -> Sequence[bytes]:
        inputs = {contract.AVATAR.name: avatar, contract.FRAME_INDEX.name: _index(request), **sound}
        name = contract.JPEG.name
        return list((await transport.infer(model, inputs, [name], ANSWER_WITHIN_S))[name])

    return answer


def _separated_request(client: SeparatedClient) -> Answer:
    audio = _audio()

    async def answer(request: int) -> Sequence[bytes]:
        return await client.frames(_template(request), audio)

    return answer


def _template(request: int) -> list[int]:
    return [number % TEMPLATE_FRAMES for number in range(request * BATCH, (request + 1) * BATCH)]


def _material(avatars: Path, avatar_id: str) -> Material:
    with AvatarPack(avatars / avatar_id) as pack:
        return Material.of_pack(pack, count=TEMPLATE_FRAMES)


# --- what the processes and the server say ---
async def _statistics(transport: TritonTransport) -> dict[str, ModelCounts]:
    # Triton counts a request only after its answer has left.
    await asyncio.sleep(0.05)
    return await asyncio.to_thread(read_counts, transport.url)


def _since(after: Mapping[str, ModelCounts], before: Mapping[str, ModelCounts]) -> dict[str, ModelCounts]:
    """What was counted in between, of the models that had something to do."""
    steps = {name: after[name].since(before[name]) for name in after if name in before}
    return {name: step for name, step in steps.items() if step.requests}


def _frames(steps: Mapping[str, ModelCounts]) -> int:
    """All requests are for `BATCH` frames, and each comes to every model once."""
    return BATCH * max(step.requests for step in steps.values())


def _ms_a_frame(step: ModelCounts, *parts: str) -> float:
    total_ns: int = sum(getattr(step, f"{part}_ns") for part in parts)
    return total_ns / 1e6 / (step.requests * BATCH)


# --- figures ---
def _serving_figures(log: Log, networks: Mapping[str, str]) -> list[Figure]:
    figures = []
    for name, rounds in log.rounds.items():
        label, network_ms = _LABELS[name], _ms_a_frame(log.steps[name][networks[name]], "infer")
        cpu_ms = np.array([each.total_cpu_ms for each in rounds])
        figures += [
            _figure(f"{name}.cpu_ms", f"{label}: CPU of all processes", cpu_ms, "ms/frame", "less"),
            _figure(f"{name}.network_ms", f"{label}: of it the null network's run", [network_ms], "ms/frame"),
            _figure(
                f"{name}.rest_ms", f"{label}: CPU but for that run", cpu_ms - network_ms, "ms/frame", "less"
            ),
            _figure(f"{name}.wall_ms", f"{label}: elapsed", [r.wall_ms for r in rounds], "ms/frame", "less"),
            _figure(
                f"{name}.bytes", f"{label}: tensors on the wire", [log.bytes[name]], "bytes/frame", "less"
            ),
        ]
    return [*figures, *_ratios(log, networks)]


def _ratios(log: Log, networks: Mapping[str, str]) -> list[Figure]:
    """The separated way over Lipstream, round by round."""
    network_ms = {name: _ms_a_frame(log.steps[name][networks[name]], "infer") for name in log.rounds}
    costs: dict[str, Callable[[str, Round], float]] = {
        "cpu": lambda name, found: found.total_cpu_ms - network_ms[name],
        "total": lambda name, found: found.total_cpu_ms,
        "wall": lambda name, found: found.wall_ms,
    }
    labels = {"cpu": "CPU but for the network's run", "total": "CPU", "wall": "elapsed"}
    pairs = list(zip(log.rounds[_SEPARATED], log.rounds[_LIPSTREAM], strict=True))
    return [
        _figure(
            f"{what}_ratio",
            f"{labels[what]}: separated over Lipstream",
            [cost(_SEPARATED, slow) / cost(_LIPSTREAM, fast) for slow, fast in pairs],
            "x",
            "more",
        )
        for what, cost in costs.items()
    ]


def _speech_figures(log: Log) -> list[Figure]:
    steps = log.steps[_LIPSTREAM]
    figures = []
    for name, model, label in (
        ("mel", contract.AUDIO_FEATURES_MODEL.name, "mel"),
        ("encoder", contract.AUDIO_ENCODER_MODEL.name, "audio encoder"),
    ):
        cpu_ms = [each.cpu_ms[model] for each in log.rounds[_LIPSTREAM]]
        elapsed_ms = _ms_a_frame(steps[model], "input", "infer", "output")
        figures += [
            _figure(f"pcm.{name}_ms", f"from speech: {label}, elapsed", [elapsed_ms], "ms/frame", "less"),
            _figure(f"pcm.{name}_cpu_ms", f"from speech: {label}, CPU", cpu_ms, "ms/frame", "less"),
        ]
    total_ms = [each.total_cpu_ms for each in log.rounds[_LIPSTREAM]]
    label = "from speech: CPU of all processes"
    return [
        *figures,
        _figure("pcm.cpu_ms", label, total_ms, "ms/frame", "less"),
        _figure(
            "pcm.bytes", "from speech: tensors on the wire", [log.bytes[_LIPSTREAM]], "bytes/frame", "less"
        ),
    ]


def _figure(
    name: str, label: str, values: Sequence[float] | NDArray[np.float64], unit: str, better: Better = ""
) -> Figure:
    low, middle, high = (float(value) for value in np.percentile(values, (25, 50, 75)))
    spread = (low, high) if len(values) > 1 else (None, None)
    return Figure(f"serving.{name}", label, middle, unit, better, *spread)


def _process_plot(log: Log, networks: Mapping[str, str]) -> Plot:
    """CPU time by process; both systems' networks are one series."""
    parts: dict[str, dict[str, float]] = {}
    for name, rounds in log.rounds.items():
        for role in rounds[0].cpu_ms:
            part = "network" if role == networks[name] else role
            parts.setdefault(part, {})[_LABELS[name]] = log.median_ms(name, role)
    # Models that are loaded but not asked would only crowd the picture.
    shown = {part: values for part, values in parts.items() if max(values.values()) >= 0.001}
    series = tuple(
        Series(part, tuple((_LABELS[name], values.get(_LABELS[name], 0.0)) for name in log.rounds))
        for part, values in shown.items()
    )
    title = "CPU time of a frame by process, null network, 1280x720"
    return Plot("serving_split", title, "", "ms per frame", "stacked", series)


def _step_plot(steps: Mapping[str, ModelCounts], network: str) -> Plot:
    order = (contract.AUDIO_WINDOWS_MODEL.name, network, contract.COMPOSITOR_MODEL.name)
    series = tuple(
        Series(part, tuple((_short(name, network), _ms_a_frame(steps[name], part)) for name in order))
        for part in ("queue", "input", "infer", "output")
    )
    title = "Time in Lipstream's steps by Triton's statistics, null network, 1280x720"
    return Plot("serving_steps", title, "", "ms per frame", "stacked", series)


def _short(model: str, network: str) -> str:
    return "network" if model == network else model


# --- the demo's network ---
def _demo(bench: Bench) -> list[Figure]:
    with _servers(bench, bench.avatars, DEMO_ID) as servers:
        rounds = asyncio.run(_ask_demo(bench, servers))
    figures = [figure for name, found in rounds.items() for figure in _demo_figures(name, found)]
    for name in (_SEPARATED, _SINGLE):
        pairs = zip(rounds[name], rounds[_LIPSTREAM], strict=True)
        ratios = [theirs.wall_ms / ours.wall_ms for theirs, ours in pairs]
        label = f"the demo's network: Lipstream's throughput over that of the {_LABELS[name]} way"
        figures.append(_figure(f"demo.{name}.fps_ratio", label, ratios, "x", "more"))
    return figures


async def _ask_demo(bench: Bench, servers: Mapping[str, TritonServer]) -> dict[str, list[Round]]:
    transports = {name: CountingTransport(server.grpc_url) for name, server in servers.items()}
    processes = {name: processes_by_role(server.pid) for name, server in servers.items()}
    material = _material(bench.avatars, DEMO_ID)
    features = _features_request(transports[_LIPSTREAM], DEMO_ID)
    async with SeparatedClient(transports[_SEPARATED], separated_name(DEMO_ID), material) as client:
        systems = {
            _LIPSTREAM: System(features, processes[_LIPSTREAM], DEMO_IN_FLIGHT),
            _SEPARATED: System(_separated_request(client), processes[_SEPARATED], DEMO_IN_FLIGHT),
            _SINGLE: System(_single_request(bench, material), {}),
        }
        rounds: dict[str, list[Round]] = {name: [] for name in systems}
        for number in range(DEMO_ROUNDS):
            bench.tell(f"the demo's network, round {number + 1} of {DEMO_ROUNDS}")
            first = number % len(systems)
            for name in [*systems][first:] + [*systems][:first]:
                rounds[name].append(await systems[name].round(DEMO_ROUND_S))
    await transports[_LIPSTREAM].close()
    # The first round warmed up.
    return {name: found[1:] for name, found in rounds.items()}


def _single_request(bench: Bench, material: Material) -> Answer:
    served = bench.avatars / DEMO_ID / "network.onnx"
    single = SingleProcess(served, material, threads=len(os.sched_getaffinity(0)), gpu=bench.gpu)
    audio = _audio()

    async def answer(request: int) -> Sequence[bytes]:
        return single.frames(_template(request), audio)

    return answer


def _demo_figures(name: str, rounds: Sequence[Round]) -> list[Figure]:
    label = f"the demo's network, {_LABELS[name]}"
    rates = [1000 / each.wall_ms for each in rounds]
    cpu_ms = [each.total_cpu_ms for each in rounds]
    return [
        _figure(f"demo.{name}.fps", f"{label}: throughput", rates, "frames/s", "more"),
        _figure(f"demo.{name}.cpu_ms", f"{label}: CPU of all processes", cpu_ms, "ms/frame", "less"),
    ]


_TEXT = f"""\
An avatar whose network computes nothing, on frames of 1280x720, asked by one client for {BATCH} frames at a time with
ready audio features (`avatar_from_features`); the CPU time is that of all processes, Triton's, its Python instances'
and the client's, so what is left is serving. Beside it the `separated` baseline: another Triton on the same machine
that holds only the same network, and a client that does the rest, as `perf/baselines/separated.py` says. They answer in
turns, a second each or less; ratios are medians over these turns. In the client's process and the separated way's
server the C library is told to keep freed memory: left to itself it hands every large block back, and the separated way
pays up to twice as much, as a full run shows.

The null network is no arithmetic but a copy in either system. What Triton says of its run (`infer`, elapsed) is a line
of its own; the first ratio leaves it out of both, since it is about everything but the network.

A full run also measures the demo's half-width network: {DEMO_IN_FLIGHT} requests of {BATCH} frames under way at a
time, and the single process, one frame at a time, that most open systems are.
"""
