"""Writes the Triton configs that each avatar brings along: its network, its two ensembles, its audio encoder.

They are built as protobuf messages and written as text, never as strings with holes, and every field is
written out: Triton completes nothing. The protobuf definition is that of the oldest Triton that has to read them.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from compositor_backend import contract
from compositor_backend.contract import Model, Tensor
from export.bounded import read_text

GPU_INSTANCES = 8
"""Instances of a U-Net on each GPU."""
GPU_SLOT = "gpu_slot"
"""The rate limiter's resource: the server has eight, so eight executions run at a time, whoever's they are."""
QUEUE_DELAY_US = 500
"""How long a batch waits for others: requests that come together run together, and none is held up noticeably."""
GPU_QUEUE = 128
"""Requests that may wait for a network: those of 32 clients with four under way each."""
ENCODER_MAX_BATCH = 64
"""At least `contract.MAX_WINDOWS`, the windows of one request."""
ENCODER_GPU_INSTANCES = 2
CPU_INSTANCES = 1
"""The embedded server's: one session with all cores computes a batch soonest, and weights lie there once."""
EMBEDDED = "embedded"
MAX_CONFIG_BYTES = 1 << 20
PRODUCTION_CONFIG = Path("config.pbtxt")
EMBEDDED_CONFIG = Path("configs") / f"{EMBEDDED}.pbtxt"

CHECKED_AUDIO = f"CHECKED_{contract.AUDIO.name}"
"""AUDIO after `avatar_frames` has looked at it, in the ensemble that takes ready features."""


@dataclass(frozen=True)
class Network:
    """What a config says of a lip-sync network; `audio_shape` leaves out the batch dimension."""

    name: str
    network_px: int
    audio_shape: tuple[int, ...]

    @property
    def model(self) -> Model:
        """The tensors of the contract."""
        return contract.lipsync_model(self.name, self.network_px, self.audio_shape)


# --- U-Net and audio encoder ---
def write_lipsync(folder: Path, network: Network) -> None:
    """Write ``config.pbtxt`` and ``configs/embedded.pbtxt`` of a U-Net into its model's folder."""
    about = "A lip-sync network: FACE and AUDIO of each frame in, its MOUTH and the network's AVATAR_KEY out."
    model = network.model
    _write_pair(
        folder,
        gpu_config(model, contract.MAX_FRAMES, GPU_INSTANCES),
        cpu_config(model, contract.MAX_FRAMES),
        about,
    )


def write_audio_encoder(folder: Path, name: str) -> None:
    """Write ``config.pbtxt`` and ``configs/embedded.pbtxt`` of the audio encoder of that model name."""
    about = "An audio encoder: mel windows in, embeddings out, for all avatars whose networks were trained with it."
    model = contract.audio_encoder_model(name)
    production = gpu_config(model, ENCODER_MAX_BATCH, ENCODER_GPU_INSTANCES)
    _write_pair(folder, production, cpu_config(model, ENCODER_MAX_BATCH), about)


def gpu_config(model: Model, max_batch: int, instances: int) -> pb.ModelConfig:
    """The production config of an ONNX graph: `instances` on each GPU, taking turns with all other avatars'."""
    config = _onnx_config(model, max_batch)
    config.dynamic_batching.default_queue_policy.max_queue_size = GPU_QUEUE
    group = config.instance_group.add(count=instances, kind=pb.ModelInstanceGroup.KIND_GPU)
    group.rate_limiter.resources.add(name=GPU_SLOT, count=1)
    config.model_warmup.extend(_warm_up(model, batch) for batch in (1, max_batch))
    return config


def cpu_config(model: Model, max_batch: int) -> pb.ModelConfig:
    """The config of an ONNX graph for a machine without a GPU; no bound on its queue, which costs speed there."""
    config = _onnx_config(model, max_batch)
    config.instance_group.add(count=CPU_INSTANCES, kind=pb.ModelInstanceGroup.KIND_CPU)
    config.model_warmup.append(_warm_up(model, 1))
    return config


# --- ensembles ---
def write_avatar_ensemble(folder: Path, avatar_id: str, encoder: str | None, network: Network) -> None:
    """Write the ``config.pbtxt`` of the ensemble that takes speech."""
    about = f"Speech (16 kHz PCM) and frame numbers in, JPEG frames of the avatar {avatar_id!r} out."
    write_config(
        folder / PRODUCTION_CONFIG, avatar_ensemble(avatar_id, encoder, network), [about, *_ENSEMBLE_NOTES]
    )


def write_features_ensemble(folder: Path, avatar_id: str, network: Network) -> None:
    """Write the ``config.pbtxt`` of the ensemble that takes ready audio features."""
    about = f"Ready audio features and frame numbers in, JPEG frames of the avatar {avatar_id!r} out."
    write_config(folder / PRODUCTION_CONFIG, features_ensemble(avatar_id, network), [about, *_ENSEMBLE_NOTES])


def avatar_ensemble(avatar_id: str, encoder: str | None, network: Network) -> pb.ModelConfig:
    """The ensemble that takes speech; `encoder` is the audio encoder's short name, None where mel is heard itself."""
    if encoder is None:
        left_out = (contract.FEATURES, contract.EMBEDDING)
        heard = []
    else:
        left_out = (contract.FEATURES, contract.MEL)
        heard = [_step(contract.audio_encoder_model(contract.audio_encoder_name(encoder)))]
    steps = (
        _step(contract.AUDIO_FEATURES_MODEL),
        *heard,
        _step(contract.AVATAR_FRAMES_MODEL, left_out),
        _step(network.model),
        _step(contract.COMPOSITOR_MODEL),
    )
    return _ensemble(contract.avatar_ensemble(avatar_id), steps)


def features_ensemble(avatar_id: str, network: Network) -> pb.ModelConfig:
    """The ensemble that takes ready audio features; `avatar_frames` checks them and hands them on."""
    frames = _step(contract.AVATAR_FRAMES_MODEL, left_out=(contract.EMBEDDING, contract.MEL))
    frames.input_map[contract.FEATURES.name] = contract.AUDIO.name
    frames.output_map[contract.AUDIO.name] = CHECKED_AUDIO
    unet = _step(network.model)
    unet.input_map[contract.AUDIO.name] = CHECKED_AUDIO
    steps = (frames, unet, _step(contract.COMPOSITOR_MODEL))
    return _ensemble(contract.features_ensemble(avatar_id, network.audio_shape), steps)


def read_config(path: Path) -> pb.ModelConfig:
    """Parse a ``config.pbtxt``; `text_format.ParseError` for what Triton does not know."""
    return text_format.Parse(read_text(path, MAX_CONFIG_BYTES), pb.ModelConfig())


# --- messages ---
def _onnx_config(model: Model, max_batch: int) -> pb.ModelConfig:
    config = pb.ModelConfig(name=model.name, backend="onnxruntime", max_batch_size=max_batch)
    config.default_model_filename = "model.onnx"
    _add_tensors(config, model, batched=True)
    config.dynamic_batching.max_queue_delay_microseconds = QUEUE_DELAY_US
    return config


def _add_tensors(config: pb.ModelConfig, model: Model, batched: bool) -> None:
    """Inputs and outputs; Triton leaves the batch dimension out of the dims of a model that batches."""
    for target, tensors in ((config.input, model.inputs), (config.output, model.outputs)):
        for tensor in tensors:
            dims = tensor.shape[1:] if batched else tensor.shape
            target.add(name=tensor.name, data_type=_data_type(tensor), dims=dims)


def _data_type(tensor: Tensor) -> int:
    return int(pb.DataType.Value(tensor.config_dtype))


def _warm_up(model: Model, batch: int) -> pb.ModelWarmup:
    sample = pb.ModelWarmup(name=f"batch_{batch}", batch_size=batch)
    for tensor in model.inputs:
        entry = sample.inputs[tensor.name]
        entry.data_type = _data_type(tensor)
        entry.dims.extend(tensor.shape[1:])
        entry.zero_data = True
    return sample


def _step(model: Model, left_out: Iterable[Tensor] = ()) -> pb.ModelEnsembling.Step:
    """A step whose tensors have the same names in the ensemble."""
    step = pb.ModelEnsembling.Step(model_name=model.name, model_version=-1)
    skipped = {tensor.name for tensor in left_out}
    for mapping, tensors in ((step.input_map, model.inputs), (step.output_map, model.outputs)):
        for tensor in tensors:
            if tensor.name not in skipped:
                mapping[tensor.name] = tensor.name
    return step


def _ensemble(model: Model, steps: Sequence[pb.ModelEnsembling.Step]) -> pb.ModelConfig:
    config = pb.ModelConfig(name=model.name, platform="ensemble", max_batch_size=0)
    _add_tensors(config, model, batched=False)
    config.ensemble_scheduling.step.extend(steps)
    return config


# --- text ---
_WRITTEN_BY = "Written by `python -m export`, which will write it anew: edits last until the next import."
_BATCH_NOTES = (
    "backend: in a container Triton's own in C++; without one, the stand-in of server/ on the onnxruntime package.",
    "max_batch_size: rows of a batch at most; dims leave that dimension out.",
    f"dynamic_batching: requests of all clients that come within {QUEUE_DELAY_US / 1000:g} ms run as one. No "
    "preferred sizes: what is there is run, since waiting for a full batch would hold up speech.",
)
_GPU_NOTES = (
    *_BATCH_NOTES,
    "max_queue_size: so many requests may wait, and one more is refused at once. A longer queue would give everybody "
    "frames too late to be shown, and hold their memory; who is refused can come back or go elsewhere.",
    "instance_group: so many executions can be under way on a GPU, each with a copy of the weights. Each takes one "
    f"of the server's resources {GPU_SLOT!r}, so that all avatars' networks together keep to its number. No "
    "execution accelerator: onnxruntime's CUDA provider computes.",
    "model_warmup: the smallest and the largest batch run at load, so that no client pays for the first one.",
)
_CPU_NOTES = (
    *_BATCH_NOTES,
    "No default_queue_policy: on 2 cores, with Triton 2.51, one cost a seventh of the frames. Pools bound the streams "
    "instead.",
    "instance_group: one session, whose threads take the cores that there are (intra_op_thread_count sets another "
    "number); a second would compete for them, and hold the weights again.",
    "model_warmup: a run at load, so that no client pays for the first one.",
)
_ENSEMBLE_NOTES = (
    "max_batch_size is 0: a request is B frames of one avatar, whose tensors already have the dimension that counts "
    "them. Requests of different clients meet at the networks.",
)


def _write_pair(folder: Path, production: pb.ModelConfig, embedded: pb.ModelConfig, about: str) -> None:
    write_config(folder / PRODUCTION_CONFIG, production, [f"{about} Production: a GPU.", *_GPU_NOTES])
    no_gpu = f"{about} For a machine without a GPU: tritonserver --model-config-name={EMBEDDED}."
    write_config(folder / EMBEDDED_CONFIG, embedded, [no_gpu, *_CPU_NOTES])


def write_config(path: Path, config: pb.ModelConfig, notes: Sequence[str]) -> None:
    """Write a config as text; `notes` stand above it as comments, the first of them with who wrote it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    about, *others = notes
    lines = [_comment(f"{about} {_WRITTEN_BY}"), "#", *map(_comment, others), ""]
    path.write_text("\n".join(lines) + "\n" + text_format.MessageToString(config), encoding="utf-8")


def _comment(text: str) -> str:
    return textwrap.fill(text, 108, initial_indent="# ", subsequent_indent="#   ")
