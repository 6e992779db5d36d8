"""Opening and running ONNX graphs: the only module that knows `onnxruntime`.

All sessions of a process take their activations from one arena, and compute one piece of a batch after another, so a
process needs the weights of its networks and the activations of a single piece, whatever the batch. (Measured with the
half-width network of the 328 family, of which 52 MB live at a time: 59 MB for a piece of one row, and 14 MB for each
session. With onnxruntime's usual settings each session took 0.8 GB.)

On a CPU each network has a session. On a GPU networks of one architecture share them (`compositor_backend.weights`),
and what each holds for itself is a buffer of weights on the device. There is a session for each of a few numbers of
rows, run once before it is used, since on an H100 one that is run for another number than before stops for five
seconds; a piece of any other number is padded.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
import os
import platform
import threading
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state

from compositor_backend.device_memory import DeviceBuffer, DeviceMemoryError
from compositor_backend.engines import engine_folder, this_platform
from compositor_backend.errors import BusyError, NetworkError
from compositor_backend.graph_file import GraphFile
from compositor_backend.load_journal import LoadJournal
from compositor_backend.saved_graphs import SavedGraphs
from compositor_backend.weights import SplitGraph, split_weights

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
DEFAULT_SCRATCH_BYTES = {"CPU": 64 << 20, "GPU": 256 << 20}
"""Activations of one run. On a CPU more rows at a time no longer fit the caches: row by row the demo's network takes
17 % less time than in batches of 25. On a GPU they are what fills it: an H100 makes three times as much of five
rows of a full-width network in half precision, which fit this, as of one."""
ROWS = {"CPU": (1, 2, 3, 4, 5, 6, 7, 8), "GPU": (1, 5, 10, 25)}
"""Rows that one run may have. Of eight at a time a CPU makes as much as of any other number: the 160 family takes 6 to
10 % more for 32, and 96 px Wav2Lip 3 % less; what a run touches of the arena stays in memory. A GPU takes seconds to
get ready for each number, so there it has those of the client's chunks."""
CUDA_OPTIONS = {"cudnn_conv_algo_search": "HEURISTIC"}
"""Of onnxruntime's CUDA provider. By default it tries every algorithm of each convolution, which on an H100 takes
eleven seconds for each number of rows instead of seven, and finds nothing better."""
_NOTHING = np.zeros(0, np.float32)
_DTYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32, "tensor(float16)": np.float16}
MAX_SAVED_BYTES = 8 << 30
HUNG_STATUS = 70
"""Exit status of a process that ends itself since a graph does not stop being opened."""

_ERRORS: tuple[type[Exception], ...] = (
    RuntimeError,
    ValueError,
    *(kind for kind in vars(ort_state).values() if isinstance(kind, type) and issubclass(kind, Exception)),
)
"""What onnxruntime raises; its classes have no base of their own."""
_CGROUP_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")


@dataclass(frozen=True)
class Device:
    """What a model instance runs on: `kind` is "CPU" or "GPU", `id` the GPU's number."""

    kind: str
    id: int = 0


class Runtime:
    """Opens graphs on one device; make one in a process.

    `threads` compute a run on a CPU. `journal` and `load_timeout_s` are for graphs that do not come to an end.
    """

    def __init__(
        self,
        device: Device,
        *,
        threads: int,
        scratch_bytes: int | None,
        cache_folder: Path,
        load_timeout_s: float,
        warn: Callable[[str], None],
        share_sessions: bool | None = None,
    ) -> None:
        self.device = device
        self._share_sessions = device.kind == "GPU" if share_sessions is None else share_sessions
        self._shared: dict[str, _Architecture] = {}
        self._shared_lock = threading.Lock()
        self._threads = threads
        self._scratch_bytes = scratch_bytes or DEFAULT_SCRATCH_BYTES[device.kind]
        self._load_timeout_s = load_timeout_s
        self._warn = warn
        self._platform = this_platform() if device.kind == "GPU" else None
        self._journal = LoadJournal(cache_folder / "opening")
        self._saved = SavedGraphs(cache_folder, self._description(), MAX_SAVED_BYTES)
        _share_arena(device, arena_region_bytes(self._scratch_bytes))

    def open(self, graph: GraphFile) -> Network:
        """Open a graph whose file is what `graph` says; `NetworkError` if it is not, or does not open.

        The file is read once, and what was read is what is compared and opened.
        """
        with ExitStack() as opening:
            try:
                opening.enter_context(self._journal.opening(graph.sha256))
            except OSError as error:
                self._warn(f"the journal of the cache folder cannot be written: {error}")
            sizes = row_sizes(self.device.kind, graph.row_bytes, self._scratch_bytes)
            if self._share_sessions and self._engines(graph) is None:
                sessions, weights = self._share(graph, sizes)
                return Network(graph, sessions, opening.pop_all(), lambda: self._limit(graph), weights)
            with self._limit(graph):
                session = self._session(graph)
            return Network(
                graph, dict.fromkeys(sizes, session), opening.pop_all(), lambda: self._limit(graph)
            )

    def _share(self, graph: GraphFile, sizes: tuple[int, ...]) -> tuple[dict[int, Any], DeviceWeights]:
        """The sessions of the graph's architecture, made for its first network, and the network's weights."""
        split = split_weights(_read(graph))
        weights = DeviceWeights(split, self.device)
        with self._shared_lock:
            shared = self._shared.setdefault(split.sha256, _Architecture())
        with shared.lock:
            for rows in sizes:
                if rows not in shared.sessions:
                    with self._limit(graph):
                        shared.sessions[rows] = self._prepared(split.model, rows, weights, graph)
            return {rows: shared.sessions[rows] for rows in sizes}, weights

    def _prepared(self, model: bytes, rows: int, weights: DeviceWeights, graph: GraphFile) -> Any:
        """A session that has been run once, for so many rows."""
        session = self._create(model, graph, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL)
        _run_once(session, rows, weights, graph)
        return session

    def _limit(self, graph: GraphFile) -> AbstractContextManager[None]:
        return _ending_process_after(self._load_timeout_s, graph, self._warn)

    def _session(self, graph: GraphFile) -> Any:
        data = _read(graph)
        saved = self._saved.find(graph.sha256)
        if saved is not None:
            return self._create(saved, graph, onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL)
        session: list[Any] = []
        try:
            self._saved.save(graph.sha256, lambda path: session.append(self._optimised(data, graph, path)))
        except OSError as error:
            self._warn(f"the optimised graph of {graph.path} cannot be saved: {error}")
        return session[0] if session else self._optimised(data, graph, None)

    def _optimised(self, data: bytes, graph: GraphFile, save_to: Path | None) -> Any:
        return self._create(data, graph, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL, save_to)

    def _create(self, data: bytes, graph: GraphFile, level: Any, save_to: Path | None = None) -> Any:
        options = self._options(level)
        if save_to is not None:
            options.optimized_model_filepath = str(save_to)
        try:
            session = onnxruntime.InferenceSession(
                data, options, providers=self._providers(graph), enable_fallback=0
            )
        except _ERRORS as error:
            raise NetworkError(f"{graph.path} does not open: {_first_line(error)}") from error
        # Kept by the class so that it could be opened again with other providers: as much memory as the weights.
        session._model_bytes = None
        if self.device.kind == "GPU" and session.get_providers() == [CPU]:
            raise NetworkError(
                f"{graph.path}: no GPU provider of onnxruntime started; its log has the reason"
            )
        return session

    def _options(self, level: Any) -> Any:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = level
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        # A pattern is one block for all of a run's tensors, kept beside those that the first run took one by one.
        options.enable_mem_pattern = False
        # Otherwise values that nobody reads any more stay until one of the same shape comes: half as much again.
        options.enable_mem_reuse = False
        options.add_session_config_entry("session.use_env_allocators", "1")
        # Weights come and go with their session, and would leave holes in an arena.
        options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
        # Idle threads would spin for a while after each run, taking the cores from other processes.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return options

    def _providers(self, graph: GraphFile) -> list[Any]:
        if self.device.kind == "CPU":
            return [CPU]
        available = onnxruntime.get_available_providers()
        device_id = str(self.device.id)
        providers: list[Any] = []
        engines = self._engines(graph)
        if TENSORRT in available and engines is not None:
            providers.append((TENSORRT, {**tensorrt_options(engines), "device_id": device_id}))
        return [*providers, (CUDA, {**CUDA_OPTIONS, "device_id": device_id}), CPU]

    def _engines(self, graph: GraphFile) -> Path | None:
        """The folder of the engines made of that graph for this machine, if there is one."""
        if self._platform is None:
            return None
        folder = engine_folder(graph.path.parent, self._platform, graph.sha256)
        return folder if folder.is_dir() else None

    def _description(self) -> str:
        return "|".join(
            [
                onnxruntime.__version__,
                self.device.kind,
                *onnxruntime.get_available_providers(),
                platform.machine(),
                _processor(),
            ]
        )


class DeviceWeights:
    """The weights of one network in a buffer on the device; several sessions may read them."""

    def __init__(self, split: SplitGraph, device: Device) -> None:
        self._device = "cuda" if device.kind == "GPU" else "cpu"
        self._id = device.id
        self._tensors = split.tensors
        self._buffer: Any
        try:
            if device.kind == "CPU":
                self._buffer, self._start = split.buffer, split.buffer.ctypes.data
            else:
                self._buffer = DeviceBuffer(split.buffer, device.id)
                self._start = self._buffer.pointer
        except DeviceMemoryError as error:
            text = f"no room on the GPU for a network's {split.buffer.nbytes} bytes of weights; retry later"
            raise BusyError(text) from error

    @property
    def names(self) -> Set[str]:
        """Of the inputs that they are."""
        return self._tensors.keys()

    def bind(self, binding: Any) -> None:
        """Make them the inputs of a run."""
        for name, tensor in self._tensors.items():
            dtype, shape = tensor.dtype.type, tensor.shape
            binding.bind_input(name, self._device, self._id, dtype, shape, self._start + tensor.offset)


class _Architecture:
    """The sessions of an architecture by their number of rows; `lock` is held while they are made."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.sessions: dict[int, Any] = {}


class Network:
    """An open graph. `rows` of a batch are computed at a time; its first run still belongs to opening it.

    `sessions` are those for the numbers of rows that a run may have, ascending. `opening` is left when opening is over,
    and `limit` entered for the first run: it ends the process if it takes too long. `weights` are those of sessions
    that have none.
    """

    def __init__(
        self,
        graph: GraphFile,
        sessions: Mapping[int, Any],
        opening: ExitStack,
        limit: Callable[[], AbstractContextManager[None]],
        weights: DeviceWeights | None = None,
    ) -> None:
        self.graph = graph
        self.rows = max(sessions)
        self._sessions = sessions
        self._weights = weights
        self._bindings: dict[int, Any] = {}
        self._opening = opening
        self._limit: Callable[[], AbstractContextManager[None]] = limit

    @property
    def nbytes(self) -> int:
        """Size of the graph's file."""
        return self.graph.nbytes

    def run(self, inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]) -> None:
        """Compute up to `rows` rows: C-contiguous inputs by name, written into the C-contiguous outputs by name.

        `NetworkError` if the graph does not run, or gives something of another dtype or shape.
        """
        try:
            rows = len(next(iter(inputs.values())))
            size = next(size for size in self._sessions if size >= rows)
            if size == rows:
                self._run(size, inputs, outputs)
            else:
                self._run_padded(inputs, outputs, rows, size)
        except _ERRORS as error:
            raise NetworkError(f"{self.graph.path} does not run: {_first_line(error)}") from error
        finally:
            self.settle()

    def _run(
        self, size: int, inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]
    ) -> None:
        session, binding = self._sessions[size], self._binding(size)
        _bind(binding, inputs, outputs)
        try:
            with self._limit():
                session.run_with_iobinding(binding)
        finally:
            # Of a binding that is kept: or it would keep the file that an input is mapped from.
            for name in inputs:
                binding.bind_cpu_input(name, _NOTHING)

    def _binding(self, size: int) -> Any:
        """For a run of that size. One with weights is kept: to bind nearly two hundred of them takes 0.4 ms."""
        binding = self._bindings.get(size)
        if binding is None:
            binding = self._sessions[size].io_binding()
            if self._weights is not None:
                self._weights.bind(binding)
                self._bindings[size] = binding
        return binding

    def _run_padded(
        self, inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]], rows: int, size: int
    ) -> None:
        """Compute `size` rows, the last one again and again, and keep `rows` of them."""
        padded = {
            name: np.concatenate([tensor, np.repeat(tensor[-1:], size - rows, axis=0)])
            for name, tensor in inputs.items()
        }
        made = {name: np.empty((size, *tensor.shape[1:]), tensor.dtype) for name, tensor in outputs.items()}
        self._run(size, padded, made)
        for name, tensor in outputs.items():
            tensor[...] = made[name][:rows]

    def settle(self) -> None:
        """Say that opening the network is over, whether it was run or not; again does nothing."""
        self._opening.close()
        self._limit = nullcontext


def _bind(binding: Any, inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]) -> None:
    for name, tensor in inputs.items():
        binding.bind_cpu_input(name, tensor)
    for name, tensor in outputs.items():
        shape, pointer = tensor.shape, tensor.ctypes.data
        binding.bind_output(name, "cpu", 0, tensor.dtype.type, shape, pointer)


def _run_once(session: Any, rows: int, weights: DeviceWeights, graph: GraphFile) -> None:
    """Have the provider get ready for runs of so many rows."""
    inputs = {
        tensor.name: np.zeros((rows, *tensor.shape[1:]), _DTYPES[tensor.type])
        for tensor in session.get_inputs()
        if tensor.name not in weights.names
    }
    try:
        binding = session.io_binding()
        weights.bind(binding)
        _bind(binding, inputs, {})
        for tensor in session.get_outputs():
            binding.bind_output(tensor.name, "cpu")
        session.run_with_iobinding(binding)
    except _ERRORS as error:
        raise NetworkError(f"{graph.path} does not run: {_first_line(error)}") from error


def tensorrt_options(engines: Path) -> dict[str, str]:
    """Options of onnxruntime's TensorRT provider for the engines of one network, in a folder of their own."""
    return {
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": str(engines),
        "trt_fp16_enable": "True",
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(engines),
    }


def gpu_available() -> bool:
    """Whether onnxruntime has a provider for GPUs."""
    return CUDA in onnxruntime.get_available_providers()


def usable_cpus() -> int:
    """Cores that this process may use: its affinity, cut by the container's CPU quota."""
    cpus = len(os.sched_getaffinity(0))
    try:
        quota, period = _CGROUP_CPU_MAX.read_text().split()
    except (OSError, ValueError):
        return cpus
    return cpus if quota == "max" else max(1, min(cpus, math.ceil(int(quota) / int(period))))


_ARENA_LOCK = threading.Lock()
_ARENAS: set[Device] = set()


def row_sizes(kind: str, row_bytes: int, scratch_bytes: int) -> tuple[int, ...]:
    """Numbers of rows, ascending, that one run on a "CPU" or "GPU" may have: one, and what else fits the scratch."""
    most = max(1, scratch_bytes // row_bytes)
    return tuple(size for size in ROWS[kind] if size <= most)


def rows_of(kind: str, row_bytes: int, scratch_bytes: int) -> int:
    """The most of them."""
    return row_sizes(kind, row_bytes, scratch_bytes)[-1]


def arena_region_bytes(scratch_bytes: int) -> int:
    """The arena's first region: room for a piece's activations, and an eighth and more of them for holes.

    A region for each request that finds no room, onnxruntime's other way, takes half as much again: what a smaller
    value left cannot be joined to hold a larger one. (Of host memory only pages that are touched count.)
    """
    return scratch_bytes + scratch_bytes // 4


def _share_arena(device: Device, region_bytes: int) -> None:
    """Register the arenas of this process, once: that of the GPU before the CPU's, as onnxruntime wants it."""
    with _ARENA_LOCK:
        if device in _ARENAS:
            return
        if device.kind == "GPU":
            _register_gpu_arena(device, region_bytes)
        config = _arena_config(region_bytes)
        kind, memory = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, onnxruntime.OrtMemType.DEFAULT
        onnxruntime.create_and_register_allocator(onnxruntime.OrtMemoryInfo("Cpu", kind, 0, memory), config)
        _ARENAS.add(device)


def _arena_config(region_bytes: int) -> Any:
    # Strategy 0: each further region is twice as large as the one before.
    return onnxruntime.OrtArenaCfg(
        {"max_mem": 0, "arena_extend_strategy": 0, "initial_chunk_size_bytes": region_bytes}
    )


def _register_gpu_arena(device: Device, region_bytes: int) -> None:
    if not gpu_available():
        raise NetworkError(
            f"expected a GPU, but onnxruntime has no {CUDA} here: install onnxruntime-gpu, or use the embedded configs"
        )
    if importlib.util.find_spec("onnx") is None:
        raise NetworkError("serving on a GPU needs the package onnx: pip install onnx")
    if hasattr(onnxruntime, "preload_dlls"):
        # Finds CUDA and cuDNN where their wheels put them; since onnxruntime 1.21.
        onnxruntime.preload_dlls()
    kind, memory = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, onnxruntime.OrtMemType.DEFAULT
    info = onnxruntime.OrtMemoryInfo("Cuda", kind, device.id, memory)
    config = _arena_config(region_bytes)
    onnxruntime.create_and_register_allocator_v2(CUDA, info, {"device_id": str(device.id)}, config)


def _read(graph: GraphFile) -> bytes:
    try:
        # No more than is expected, however long the file has become.
        with graph.path.open("rb") as file:
            data = file.read(graph.nbytes + 1)
    except OSError as error:
        raise NetworkError(f"{graph.path} cannot be read: {error}") from error
    if hashlib.sha256(data).hexdigest() != graph.sha256:
        raise NetworkError(f"{graph.path} is damaged: its SHA-256 is not the manifest's")
    return data


@contextmanager
def _ending_process_after(seconds: float, graph: GraphFile, warn: Callable[[str], None]) -> Iterator[None]:
    """End this process if the block is not left within `seconds`: nothing else ends a call into onnxruntime."""

    def end() -> None:
        warn(f"{graph.path} is still being opened after {seconds:.0f} s: this process ends")
        os._exit(HUNG_STATUS)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _processor() -> str:
    """What tells one kind of processor from another: its model, and what it can do."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    wanted = ("model name", "flags", "Features")
    found = {line.split(":")[0].strip(): line for line in lines if line.startswith(wanted)}
    return " ".join(sorted(found.values()))


def _first_line(error: Exception) -> str:
    """Messages of onnxruntime without the source lines that follow."""
    return str(error).strip().split("\n", 1)[0][:300]
