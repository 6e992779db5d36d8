"""Making an onnxruntime session as a model's config wants it."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from server.errors import ModelLoadError
from server.onnxruntime_backend.checksums import check_written_since
from server.onnxruntime_backend.config import DEFAULT_FILENAME, ModelConfig
from server.onnxruntime_backend.providers import CPU, Device, choose_providers

ORT_ERRORS: tuple[type[Exception], ...] = (
    RuntimeError,
    ValueError,
    *(kind for kind in vars(ort_errors).values() if isinstance(kind, type) and issubclass(kind, Exception)),
)
"""What onnxruntime raises; its classes have no base of their own."""

_GRAPH_LEVELS = {
    -1: onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    0: onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
    1: onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    2: onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
"""Triton's ``optimization.graph.level``; the C++ backend takes any other number for 0."""
_CGROUP_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")


@dataclass(frozen=True)
class Threads:
    """Threads of a session, 0 for onnxruntime's own choice: within an operator, and across operators."""

    intra_op: int
    inter_op: int


def create_session(config: ModelConfig, version_folder: Path, device: Device) -> Any:
    """The ``onnxruntime.InferenceSession`` of the model in `version_folder`, on `device`.

    Raises `ModelLoadError` if the file is missing, damaged or no ONNX, if a parameter has no valid value, and
    if a GPU was asked for but its provider did not start (onnxruntime would quietly compute on the
    CPU).
    """
    path = model_path(config, version_folder)
    check_written_since(config.name, version_folder)
    # A model's version lies in its folder, and that one among all models'.
    repository = version_folder.resolve().parents[1]
    providers = choose_providers(config, device, onnxruntime.get_available_providers(), repository)
    options = session_options(config, device)
    beside = _add_files_beside(path, options)
    if device.kind == "GPU" and hasattr(onnxruntime, "preload_dlls"):
        # Finds CUDA and cuDNN where their wheels put them; since onnxruntime 1.21.
        onnxruntime.preload_dlls()
    try:
        session = onnxruntime.InferenceSession(path, options, providers=providers)
    except ORT_ERRORS as error:
        raise ModelLoadError(f"{config.name}: {path.name} does not load: {first_line(error)}") from error
    del beside  # the session has copied what it needs of it
    if device.kind == "GPU" and session.get_providers() == [CPU]:
        raise ModelLoadError(
            f"{config.name}: the config asks for KIND_GPU, but none of "
            f"{', '.join(name for name, _ in providers[:-1])} started; the log has onnxruntime's reason"
        )
    return session


def model_path(config: ModelConfig, version_folder: Path) -> Path:
    """The ONNX file: `config.filename` in `version_folder`, or ``model.onnx`` in it if it is a folder."""
    path = version_folder / config.filename
    if not path.resolve().is_relative_to(version_folder.resolve()):
        raise ModelLoadError(
            f"{config.name}: default_model_filename {config.filename!r} leads out of its folder"
        )
    if path.is_dir():
        path = path / DEFAULT_FILENAME
    if not path.is_file():
        raise ModelLoadError(f"{config.name}: there is no {path}")
    return path


def _add_files_beside(path: Path, options: Any) -> list[bytes]:
    """Hand over what a graph keeps in files beside it, as onnxruntime since 1.23 lets us; what must live till it loads.

    Left to itself onnxruntime maps these files, and draws with whatever is written into them from then on.
    """
    if not hasattr(options, "add_external_initializers_from_files_in_memory"):
        return []
    files = [file for file in sorted(path.parent.rglob("*")) if file.is_file() and file != path]
    contents = [file.read_bytes() for file in files]
    if files:
        names = [file.relative_to(path.parent).as_posix() for file in files]
        options.add_external_initializers_from_files_in_memory(names, contents, list(map(len, contents)))
    return contents


def session_options(config: ModelConfig, device: Device) -> Any:
    """``onnxruntime.SessionOptions`` from the parameters that the C++ backend documents."""
    threads = choose_threads(config, device, usable_cpus())
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = _GRAPH_LEVELS.get(config.graph_level, _GRAPH_LEVELS[0])
    options.execution_mode = (
        onnxruntime.ExecutionMode.ORT_PARALLEL
        if _integer(config, "execution_mode", maximum=1)
        else onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    )
    options.intra_op_num_threads = threads.intra_op
    options.inter_op_num_threads = threads.inter_op
    options.enable_cpu_mem_arena = _boolean(config, "enable_mem_arena", default=True)
    # A pattern is one block for all of a run's tensors, kept beside those that the first run took one by one: an
    # avatar's process had 246 MB in place of 163, and was no faster for it.
    one_by_one = device.kind != "GPU" and config.batched
    options.enable_mem_pattern = _boolean(config, "enable_mem_pattern", default=not one_by_one)
    # Idle threads would spin for a while after each run, taking the cores from other instances.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return options


def choose_threads(config: ModelConfig, device: Device, cpus: int) -> Threads:
    """The config's ``intra_op_thread_count`` and ``inter_op_thread_count`` where they are above 0.

    Else the CPU instances of the model share `cpus` evenly; a GPU instance needs one thread to feed it.
    """
    share = 1 if device.kind == "GPU" else max(1, cpus // config.cpu_instances)
    intra_op = _integer(config, "intra_op_thread_count") or share
    return Threads(intra_op, _integer(config, "inter_op_thread_count"))


def usable_cpus() -> int:
    """Cores that this process may use: its affinity, cut by the container's CPU quota."""
    cpus = len(os.sched_getaffinity(0))
    try:
        quota, period = _CGROUP_CPU_MAX.read_text().split()
    except (OSError, ValueError):
        return cpus
    return cpus if quota == "max" else max(1, min(cpus, math.ceil(int(quota) / int(period))))


def first_line(error: Exception) -> str:
    """Messages of onnxruntime without the source lines that follow."""
    return str(error).strip().split("\n", 1)[0]


def _integer(config: ModelConfig, key: str, maximum: int | None = None) -> int:
    value = config.parameters.get(key, "0")
    try:
        number = int(value)
    except ValueError:
        raise ModelLoadError(f"{config.name}: {key} is {value!r}; an integer is wanted") from None
    if maximum is not None and not 0 <= number <= maximum:
        raise ModelLoadError(f"{config.name}: {key} is {value}; 0 to {maximum} is wanted")
    return max(0, number)


def _boolean(config: ModelConfig, key: str, *, default: bool) -> bool:
    value = config.parameters.get(key, str(default)).lower()
    if value not in ("1", "true", "0", "false"):
        raise ModelLoadError(f"{config.name}: {key} is {value!r}; 1, true, 0 or false is wanted")
    return value in ("1", "true")
