"""The production configs of a U-Net's engines: TensorRT's own backend, or onnxruntime's with its TensorRT provider.

``configs/embedded.pbtxt`` stays on ``model.onnx``: a machine without a GPU serves the same avatars.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tritonclient.grpc import model_config_pb2 as pb

from compositor_backend import contract
from compositor_backend.contract import Model
from export import model_configs
from export.engine_settings import ACCELERATOR, ONNX, PLAN, EngineSettings
from export.model_configs import GPU_INSTANCES, PRODUCTION_CONFIG, Network, gpu_config

PLAN_FILE = "model.plan"
HALF_FILE = "model.fp16.onnx"
CACHE_FOLDER = "tensorrt_cache"
CACHE_KEY_LENGTH = 16
"""Hex digits of the SHA-256 of ``model.onnx`` in the path and the names of cached engines."""
WORKSPACE_BYTES = 4 << 30
MIN_SUBGRAPH_NODES = 20
"""Smaller parts are left to CUDA: those that make AVATAR_KEY, which are none of TensorRT's business."""

_PLAN_NOTES = (
    "platform: an engine that TensorRT built on one kind of GPU; engine.json says which, and how near it is to "
    "1/model.onnx. The server's TensorRT has to be of the same version.",
    "optimization.cuda: an execution with as many rows as one of the graph specs is launched as one CUDA graph; any "
    "other number of rows runs as well, launch by launch.",
    "instance_group: profile 0 is the engine's only one, for all batches.",
)
_ACCELERATOR_NOTES = (
    "execution_accelerators: onnxruntime's TensorRT provider builds its engine at the first load, which takes minutes, "
    "and keeps it in trt_engine_cache_path. It finds cached engines by name, never by weights: the path and the "
    "prefix name this model and the SHA-256 of its model.onnx, so that no two networks can share an engine.",
    "trt_engine_cache_path is relative to the folder of all avatars, which has to be the server's working folder, and "
    "writable until the engine is there. Triton takes the new files for a changed model: the next load of the avatar "
    "loads its network a second time, once.",
)
_ONNX_NOTES = (
    "default_model_filename: the network in half precision; the embedded config stays on model.onnx.",
)


def engine_config(network: Network, settings: EngineSettings, sha256: str, face: str = "") -> pb.ModelConfig:
    """The production config of an engine; `sha256` is that of ``model.onnx``.

    `face` is the tensor that holds FACE as numbers (`engine_graph.face_as_numbers`), for an accelerator.
    """
    if settings.form == PLAN:
        return plan_config(network.model, settings)
    if settings.form == ACCELERATOR:
        return accelerator_config(network, settings, sha256, face)
    config = gpu_config(network.model, contract.MAX_FRAMES, GPU_INSTANCES)
    if settings.precision == "fp16":
        config.default_model_filename = HALF_FILE
    return config


def write_engine_config(folder: Path, config: pb.ModelConfig, settings: EngineSettings) -> None:
    """Write ``config.pbtxt`` into a model's folder, with the reasons for what is in it."""
    notes = {PLAN: _PLAN_NOTES, ACCELERATOR: _ACCELERATOR_NOTES, ONNX: _ONNX_NOTES}[settings.form]
    about = (
        "An avatar's U-Net: FACE and AUDIO of each frame in, its MOUTH and the network's AVATAR_KEY out. "
        f"Production: a GPU, {settings.precision}."
    )
    model_configs.write_config(folder / PRODUCTION_CONFIG, config, [about, *notes])


# --- TensorRT's backend ---
def plan_config(model: Model, settings: EngineSettings) -> pb.ModelConfig:
    """Triton's TensorRT backend on ``1/model.plan``: instances, batching and warm-up as for the ONNX graph."""
    config = gpu_config(model, settings.batches.largest, GPU_INSTANCES)
    config.platform = "tensorrt_plan"
    config.backend = "tensorrt"
    config.default_model_filename = PLAN_FILE
    config.instance_group[0].profile.append("0")
    config.optimization.cuda.graphs = True
    for batch in settings.batches.sizes:
        spec = config.optimization.cuda.graph_spec.add(batch_size=batch)
        for tensor in model.inputs:
            spec.input[tensor.name].dim.extend(tensor.shape[1:])
    return config


# --- onnxruntime's TensorRT provider ---
def accelerator_config(
    network: Network, settings: EngineSettings, sha256: str, face: str = ""
) -> pb.ModelConfig:
    """Triton's ONNX Runtime backend on ``model.onnx``, with its TensorRT accelerator."""
    config = gpu_config(network.model, settings.batches.largest, GPU_INSTANCES)
    accelerators = config.optimization.execution_accelerators.gpu_execution_accelerator
    accelerator = accelerators.add(name="tensorrt")
    for key, value in _parameters(network, settings, sha256, face).items():
        accelerator.parameters[key] = value
    return config


def _parameters(network: Network, settings: EngineSettings, sha256: str, face: str) -> Mapping[str, str]:
    cache = str(cache_path(network.name, sha256))
    batches = settings.batches
    return {
        "precision_mode": settings.precision.upper(),
        "max_workspace_size_bytes": str(WORKSPACE_BYTES),
        "trt_min_subgraph_size": str(MIN_SUBGRAPH_NODES),
        "trt_engine_cache_enable": "true",
        "trt_engine_cache_path": cache,
        "trt_engine_cache_prefix": cache_prefix(network.name, sha256),
        "trt_timing_cache_enable": "true",
        "trt_timing_cache_path": cache,
        "trt_profile_min_shapes": profile_shapes(network.model, batches.smallest, face),
        "trt_profile_opt_shapes": profile_shapes(network.model, batches.tuned, face),
        "trt_profile_max_shapes": profile_shapes(network.model, batches.largest, face),
    }


def cache_path(model_name: str, sha256: str) -> Path:
    """Where a model's engines are cached, relative to the folder that all models of the avatars lie in."""
    return Path(model_name) / CACHE_FOLDER / sha256[:CACHE_KEY_LENGTH]


def cache_prefix(model_name: str, sha256: str) -> str:
    """What the names of its cached engines begin with; the key's length is fixed, so no two models' are equal."""
    return f"{model_name}-{sha256[:CACHE_KEY_LENGTH]}"


def profile_shapes(model: Model, batch: int, face: str = "") -> str:
    """The shapes of the inputs as the provider reads them, ``NAME:1x3x320x320,…``.

    `face`, if given, has FACE's shape too: it is the input where the Cast of FACE is left to another provider.
    """
    shapes: list[tuple[str, Sequence[int]]] = [(tensor.name, tensor.shape) for tensor in model.inputs]
    if face:
        shapes.append((face, model.inputs[0].shape))
    return ",".join(f"{name}:{'x'.join(map(str, (batch, *shape[1:])))}" for name, shape in shapes)
