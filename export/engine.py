"""TensorRT engines of an avatar's network: made by onnxruntime's TensorRT provider, proved, and put in place whole."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import onnxruntime

from compositor_backend.engines import engine_folder, this_platform
from compositor_backend.manifest import NETWORK, NETWORK_FP16, Manifest
from compositor_backend.onnx_runtime import CUDA, TENSORRT, tensorrt_options
from compositor_backend.pack import file_sha256
from export.errors import ExportError
from export.picture_parity import Inputs, Outputs, PictureParity, compare, run_graph, trial_inputs
from export.precision import LIMITS, network_px
from export.served_graph import inspect_network, run

RECORD_FILE = "engine.json"
BATCHES = (1, 8)
"""Rows that engines are built for, and proved with."""

Providers = Callable[[Path], Sequence[Any]]
"""onnxruntime's providers that keep their engines in a folder."""


def engine_platform() -> str:
    """The platform of this machine; `ExportError` if it cannot build engines."""
    platform = this_platform()
    if TENSORRT not in onnxruntime.get_available_providers() or platform is None:
        raise ExportError(
            "engines are built on the GPU that they are for: there is no NVIDIA GPU here, or no TensorRT, or no "
            "onnxruntime-gpu that knows it"
        )
    return platform


def tensorrt_providers(engines: Path) -> Sequence[Any]:
    """TensorRT for all it can, CUDA for the rest."""
    return [(TENSORRT, tensorrt_options(engines)), CUDA]


def build_engine(
    folder: Path, platform: str, providers: Providers = tensorrt_providers
) -> tuple[Path, PictureParity]:
    """Build the engines of the avatar in `folder`; where they lie, and how near their pictures are to float32's.

    `ExportError` if they are too far off; nothing is then left of them.
    """
    manifest = Manifest.load(folder)
    name = NETWORK_FP16 if NETWORK_FP16 in manifest.graphs else NETWORK
    graph, sha256 = folder / f"{name}.onnx", manifest.graphs[name].sha256
    if file_sha256(graph) != sha256:
        raise ExportError(f"{graph} is damaged: its SHA-256 is not the manifest's")
    target = engine_folder(folder, platform, sha256)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".building-", dir=target.parent))
    try:
        parity = _prove(folder / f"{NETWORK}.onnx", graph, providers(draft))
        (draft / RECORD_FILE).write_text(_record(platform, sha256, parity), encoding="utf-8")
        draft.chmod(0o755)
        if target.exists():
            shutil.rmtree(target)
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target, parity


def _prove(reference: Path, graph: Path, providers: Sequence[Any]) -> PictureParity:
    """Run the graph on the providers, which builds their engines, and compare its pictures with float32's on a CPU."""
    network = inspect_network(reference)
    session = onnxruntime.InferenceSession(str(graph), providers=list(providers))
    first = providers[0] if isinstance(providers[0], str) else providers[0][0]
    if session.get_providers()[0] != first:
        raise ExportError(f"{first} did not start; onnxruntime's log has the reason")
    names = [tensor.name for tensor in session.get_outputs()]

    def candidate(inputs: Inputs) -> Outputs:
        return dict(zip(names, run(graph, session, names, inputs), strict=True))

    trials = trial_inputs(network_px(network), network.audio_shape, BATCHES)
    return compare(f"the engine of {graph}", candidate, run_graph(reference), trials, LIMITS)


def _record(platform: str, sha256: str, parity: PictureParity) -> str:
    value = {
        "platform": platform,
        "network_sha256": sha256,
        "onnxruntime": onnxruntime.__version__,
        "parity": str(parity),
    }
    return json.dumps(value, indent=2) + "\n"
