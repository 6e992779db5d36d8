"""Engines on a real GPU: skipped where there is none, or what the test needs is not installed."""

from __future__ import annotations

import ctypes
import importlib.util
import json
from pathlib import Path

import onnxruntime
import pytest
from google.protobuf import json_format

from export.cuda_driver import LIBRARY
from export.engine import build_engine
from export.engine_accelerator import TENSORRT
from export.engine_configs import cache_prefix
from export.engine_record import EngineRecord
from export.engine_settings import ACCELERATOR, ONNX, PLAN, Batches, EngineSettings
from export.model_configs import read_config
from export.onnx_export import write_unet
from export.picture_parity import Run, compare, run_graph, trial_inputs
from export.precision import LIMITS
from export.served_graph import inspect_network
from server.onnxruntime_backend.config import parse_model_config
from server.onnxruntime_backend.providers import CUDA, Device
from server.onnxruntime_backend.session import create_session
from tests.support.engines import write_avatars
from tests.support.networks import even_unet

BATCHES = Batches(1, 25, 32)


def has_gpu() -> bool:
    try:
        return int(ctypes.CDLL(LIBRARY).cuInit(0)) == 0
    except OSError:
        return False


GPU = has_gpu()
PROVIDERS = onnxruntime.get_available_providers()
pytestmark = [pytest.mark.functional, pytest.mark.skipif(not GPU, reason="there is no NVIDIA GPU")]
needs_tensorrt = pytest.mark.skipif(not importlib.util.find_spec("tensorrt"), reason="no tensorrt package")


def needs(provider: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(provider not in PROVIDERS, reason=f"onnxruntime has no {provider}")


@pytest.fixture
def avatars(tmp_path: Path) -> Path:
    """Two avatars with U-Nets of their own."""
    root = write_avatars(tmp_path, "ann", "bob")
    for seed, name in enumerate(("lipsync_ann", "lipsync_bob")):
        write_unet(even_unet(seed=seed), f"{seed}b" * 32, root / name / "1" / "model.onnx")
    return root


@needs_tensorrt
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_plan_draws_what_its_network_draws(avatars: Path, precision: str) -> None:
    outcome = build_engine(avatars, "lipsync_ann", EngineSettings(PLAN, precision, BATCHES))
    record = EngineRecord.load(avatars / "lipsync_ann")
    assert record is not None
    assert record.psnr_db is not None
    assert record.psnr_db >= 45
    assert set(record.milliseconds) == {"1", "8", "25", "32"}
    assert read_config(avatars / "lipsync_ann" / "config.pbtxt").platform == "tensorrt_plan"
    print(outcome.text)  # noqa: T201 (milliseconds of a batch, for whoever runs this on a new GPU)
    assert build_engine(avatars, "lipsync_ann", EngineSettings(PLAN, precision, BATCHES)).why is None


def on_gpu(avatars: Path, name: str, provider: str) -> Run:
    """What the server's backend makes of a model's production config."""
    folder = avatars / name
    text = json_format.MessageToDict(read_config(folder / "config.pbtxt"), preserving_proto_field_name=True)
    session = create_session(parse_model_config(json.dumps(text)), folder / "1", Device("GPU"))
    assert session.get_providers()[0] == provider
    names = [tensor.name for tensor in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, inputs), strict=True))


def held_to_limits(avatars: Path, name: str, run: Run) -> None:
    source = avatars / name / "1" / "model.onnx"
    network = inspect_network(source)
    inputs = trial_inputs(network.named(name).network_px, network.audio_shape, BATCHES.sizes)
    compare(f"{name} on the GPU", run, run_graph(source), inputs, LIMITS)


@needs(CUDA)
def test_half_precision_through_cuda(avatars: Path) -> None:
    build_engine(avatars, "lipsync_ann", EngineSettings(ONNX))
    held_to_limits(avatars, "lipsync_ann", on_gpu(avatars, "lipsync_ann", CUDA))


@needs(TENSORRT)
def test_half_precision_through_tensorrts_provider_from_a_cache_of_its_own(avatars: Path) -> None:
    """Each network has engines in its own folder, and a second load finds them and draws with its own weights."""
    settings = EngineSettings(ACCELERATOR, "fp16", BATCHES)
    for name in ("lipsync_ann", "lipsync_bob"):
        build_engine(avatars, name, settings)
        record = EngineRecord.load(avatars / name)
        assert record is not None
        assert record.psnr_db is not None
        prefix = cache_prefix(name, record.model_sha256)
        engines = list((avatars / name / "tensorrt_cache").rglob("*.engine"))
        assert engines
        assert all(engine.name.startswith(prefix) for engine in engines)
    before = {path: path.stat().st_mtime_ns for path in avatars.rglob("*.engine")}
    for name in ("lipsync_ann", "lipsync_bob"):
        held_to_limits(avatars, name, on_gpu(avatars, name, TENSORRT))
    assert {path: path.stat().st_mtime_ns for path in avatars.rglob("*.engine")} == before
