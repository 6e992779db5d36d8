"""TensorRT engines of an avatar's network: made by onnxruntime's TensorRT provider, proved, and put in place whole.

The provider builds an engine when a session runs, and again when a batch comes that is larger than all before; what it
built it keeps in a folder, under a name made of the graph's tensors, onnxruntime's version and more, but not of its
weights. So the graph is opened here as it is when it is served, with one row and with as many as a run will have, and
then once more: the second time nothing may be built.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import onnxruntime

from compositor_backend.engines import ENGINES_FOLDER, engine_folder, this_platform
from compositor_backend.manifest import NETWORK, NETWORK_FP16, Manifest
from compositor_backend.onnx_runtime import (
    CPU,
    CUDA,
    DEFAULT_SCRATCH_BYTES,
    TENSORRT,
    rows_of,
    tensorrt_options,
)
from compositor_backend.pack import file_sha256
from export.atomic import publish, staging
from export.engine_record import EngineRecord, engine_files
from export.errors import ExportError
from export.picture_parity import Inputs, Outputs, PictureParity, compare, run_graph, trial_inputs
from export.precision import LIMITS, network_px
from export.served_graph import ServedNetwork, inspect_network, run


class Session(Protocol):
    """What is needed of an onnxruntime session."""

    def get_outputs(self) -> Any:
        """Outputs, each with a `name`."""
        ...

    def run(self, outputs: list[str], inputs: Inputs) -> Any:
        """The outputs of those names."""
        ...


OpenSession = Callable[[Path, Path], Any]
"""Opens a graph with a folder for its engines, as it is served."""


@dataclass(frozen=True)
class Machine:
    """What engines are bound to: `platform` names their folder, `gpu`, `compute_capability` and `driver` are notes."""

    platform: str
    gpu: str = "unknown"
    compute_capability: str = "unknown"
    driver: str = "unknown"

    @property
    def tensorrt(self) -> str:
        """TensorRT's version."""
        return self.platform.rpartition("-trt")[2]


@dataclass(frozen=True)
class Built:
    """Engines in place; `fresh` is False where they were there already."""

    folder: Path
    record: EngineRecord
    fresh: bool

    def __str__(self) -> str:
        parity = PictureParity(self.record.psnr_db, self.record.max_difference, self.record.frames)
        what = f"1 to {self.record.rows} rows a run, {parity}" if self.fresh else "up to date"
        return f"{self.folder}: {what}"


def this_machine() -> Machine:
    """What engines built here are bound to; `ExportError` if none can be built."""
    platform = this_platform()
    if TENSORRT not in onnxruntime.get_available_providers() or platform is None:
        raise ExportError(
            "engines are built on the GPU that they are for: there is no NVIDIA GPU here, or no TensorRT, or no "
            "onnxruntime-gpu that knows it"
        )
    return Machine(platform, *_told_by_driver())


def _told_by_driver() -> tuple[str, ...]:
    command = ["nvidia-smi", "--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader", "--id=0"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    parts = tuple(part.strip() for part in answer.strip().split(","))
    return parts if len(parts) == 3 else ()


def open_tensorrt(graph: Path, engines: Path) -> Any:
    """TensorRT for all it can, CUDA for the rest; from memory, as a file's name would become part of the engines'."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    providers = [(TENSORRT, tensorrt_options(engines)), CUDA, CPU]
    session = onnxruntime.InferenceSession(graph.read_bytes(), options, providers=providers)
    if session.get_providers()[0] != TENSORRT:
        raise ExportError(f"{TENSORRT} did not start; onnxruntime's log has the reason")
    return session


def build_engine(
    folder: Path,
    machine: Machine,
    *,
    rows: int | None = None,
    force: bool = False,
    open_session: OpenSession = open_tensorrt,
) -> Built:
    """Build the engines of the avatar in `folder`, for `rows` rows a run: those that serving has, where not said.

    What is there for this network, machine and onnxruntime stays, unless `force` is given; what another avatar with the
    same network has is copied. `ExportError` if the engines' pictures are too far from float32's, or a second session
    builds others; nothing is then changed.
    """
    manifest = Manifest.load(folder)
    name = NETWORK_FP16 if NETWORK_FP16 in manifest.graphs else NETWORK
    graph, entry = folder / f"{name}.onnx", manifest.graphs[name]
    if file_sha256(graph) != entry.sha256:
        raise ExportError(f"{graph} is damaged: its SHA-256 is not the manifest's")
    rows = rows or rows_of("GPU", entry.row_bytes, DEFAULT_SCRATCH_BYTES["GPU"])
    target = engine_folder(folder, machine.platform, entry.sha256)
    known = None if force else _up_to_date(target, machine, entry.sha256, rows)
    if known is not None:
        return Built(target, known, fresh=False)
    try:
        with staging(target.parent) as stage:
            draft = stage / target.name
            shared = None if force else _shared(target, machine, entry.sha256, rows)
            if shared is not None:
                shutil.copytree(shared, draft)
            else:
                draft.mkdir()
                parity = _prove(folder / f"{NETWORK}.onnx", graph, draft, rows, open_session)
                _record(machine, entry.sha256, rows, parity, draft).write(draft)
            record = EngineRecord.load(draft)
            publish(target.parent, stage, lambda: [target.name])
    except OSError as error:
        raise ExportError(
            f"{folder / ENGINES_FOLDER} cannot be written: {error.strerror or error}"
        ) from error
    return Built(target, record, fresh=True)


def _up_to_date(target: Path, machine: Machine, sha256: str, rows: int) -> EngineRecord | None:
    try:
        record = EngineRecord.load(target)
        record.check(target)
    except (ExportError, OSError):
        return None
    found = (record.platform, record.network_sha256, record.onnxruntime)
    wanted = (machine.platform, sha256, onnxruntime.__version__)
    return record if found == wanted and record.rows >= rows else None


def _shared(target: Path, machine: Machine, sha256: str, rows: int) -> Path | None:
    """The same engines in another avatar's folder."""
    avatar = target.parents[2]
    for other in sorted(avatar.parent.glob(f"[!.]*/{target.relative_to(avatar)}")):
        if other != target and _up_to_date(other, machine, sha256, rows) is not None:
            return other
    return None


def _record(machine: Machine, sha256: str, rows: int, parity: PictureParity, engines: Path) -> EngineRecord:
    return EngineRecord(
        platform=machine.platform,
        gpu=machine.gpu,
        compute_capability=machine.compute_capability,
        driver=machine.driver,
        tensorrt=machine.tensorrt,
        onnxruntime=onnxruntime.__version__,
        network_sha256=sha256,
        rows=rows,
        psnr_db=round(parity.psnr_db, 2),
        max_difference=parity.max_difference,
        frames=parity.frames,
        files=engine_files(engines),
    )


# --- proof ---
def _prove(
    reference: Path, graph: Path, engines: Path, rows: int, open_session: OpenSession
) -> PictureParity:
    """Have the engines built, and compare their pictures with float32's on a CPU."""
    network = inspect_network(reference)
    parity = _compare(reference, graph, network, open_session(graph, engines), rows)
    built = engine_files(engines)
    if not built:
        raise ExportError(f"{graph}: the provider kept no engine; onnxruntime's log may have the reason")
    _run(graph, network, open_session(graph, engines), rows)
    if engine_files(engines) != built:
        raise ExportError(
            f"{graph}: a second session built other engines than the first: they would not be served"
        )
    return parity


def _compare(
    reference: Path, graph: Path, network: ServedNetwork, session: Session, rows: int
) -> PictureParity:
    trials = trial_inputs(network_px(network), network.audio_shape, sorted({1, rows}))
    return compare(f"the engine of {graph}", _runner(graph, session), run_graph(reference), trials, LIMITS)


def _run(graph: Path, network: ServedNetwork, session: Session, rows: int) -> None:
    for given in trial_inputs(network_px(network), network.audio_shape, sorted({1, rows})):
        _runner(graph, session)(given)


def _runner(graph: Path, session: Any) -> Callable[[Inputs], Outputs]:
    names = [tensor.name for tensor in session.get_outputs()]
    return lambda inputs: dict(zip(names, run(graph, session, names, inputs), strict=True))
