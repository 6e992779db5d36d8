"""Writes the Triton configs that each avatar brings along: its U-Net, its two ensembles, its audio encoder.

They are built as protobuf messages and written as text, never as strings with holes, and every field is
written out: Triton completes nothing.
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

GPU_INSTANCES = 8
"""Instances of a U-Net on each GPU."""
GPU_SLOT = "gpu_slot"
"""The rate limiter's resource: the server has eight, so eight executions run at a time, whoever's they are."""
QUEUE_DELAY_US = 500
"""How long a U-Net waits for others to join a batch: a thirtieth of what a batch takes on a CPU."""
ENCODER_MAX_BATCH = 64
"""At least `contract.MAX_WINDOWS`, the windows of one request."""
ENCODER_GPU_INSTANCES = 2
CPU_INSTANCES = 1
"""The embedded server's: one session with all cores computes a batch soonest, and weights lie there once."""
EMBEDDED = "embedded"

_WARM_UP_BATCHES = (1, 25)


@dataclass(frozen=True)
class Network:
    """What a config says of an avatar's U-Net; `audio_shape` leaves out the batch dimension."""

    name: str
    network_px: int
    audio_shape: tuple[int, ...]

    @property
    def model(self) -> Model:
        """The tensors of the contract."""
        return contract.lipsync_model(self.name, self.network_px, self.audio_shape)


def write_lipsync(folder: Path, network: Network) -> None:
    """Write ``config.pbtxt`` and ``configs/embedded.pbtxt`` of a U-Net into its model's folder."""
    _write_pair(folder, network.model, contract.MAX_FRAMES, GPU_INSTANCES, "An avatar's U-Net.")


def write_audio_encoder(folder: Path, name: str) -> None:
    """Write ``config.pbtxt`` and ``configs/embedded.pbtxt`` of an audio encoder into its model's folder."""
    model = contract.audio_encoder_model(name)
    about = "An audio encoder: mel windows to embeddings, for all avatars trained with it."
    _write_pair(folder, model, ENCODER_MAX_BATCH, ENCODER_GPU_INSTANCES, about)


def write_avatar_ensemble(folder: Path, avatar_id: str, encoder: str, network: Network) -> None:
    """Write the ``config.pbtxt`` of the ensemble that takes speech."""
    encoder_model = contract.audio_encoder_model(contract.audio_encoder_name(encoder))
    steps = (
        _step(contract.AUDIO_FEATURES_MODEL),
        _step(encoder_model),
        _step(contract.AVATAR_FRAMES_MODEL, left_out=(contract.FEATURES,)),
        _step(network.model),
        _step(contract.COMPOSITOR_MODEL),
    )
    config = _ensemble(contract.avatar_ensemble(avatar_id), steps)
    _write(folder / "config.pbtxt", config, "Speech (16 kHz PCM) and frame numbers in, JPEG frames out.")


def write_features_ensemble(folder: Path, avatar_id: str, network: Network) -> None:
    """Write the ``config.pbtxt`` of the ensemble that takes ready audio features."""
    checked = f"CHECKED_{contract.AUDIO.name}"
    frames = _step(contract.AVATAR_FRAMES_MODEL, left_out=(contract.EMBEDDING,))
    frames.input_map[contract.FEATURES.name] = contract.AUDIO.name
    frames.output_map[contract.AUDIO.name] = checked
    unet = _step(network.model)
    unet.input_map[contract.AUDIO.name] = checked
    steps = (frames, unet, _step(contract.COMPOSITOR_MODEL))
    config = _ensemble(contract.features_ensemble(avatar_id, network.audio_shape), steps)
    _write(folder / "config.pbtxt", config, "Ready audio features and frame numbers in, JPEG frames out.")


def read_config(path: Path) -> pb.ModelConfig:
    """Parse a ``config.pbtxt``."""
    return text_format.Parse(path.read_text(encoding="utf-8"), pb.ModelConfig())


def _write_pair(folder: Path, model: Model, max_batch: int, instances: int, about: str) -> None:
    for_gpu = _onnx_model(model, max_batch)
    group = for_gpu.instance_group.add(count=instances, kind=pb.ModelInstanceGroup.KIND_GPU)
    group.rate_limiter.resources.add(name=GPU_SLOT, count=1)
    for_gpu.model_warmup.extend(_warm_up(model, batch) for batch in _WARM_UP_BATCHES)
    _write(folder / "config.pbtxt", for_gpu, f"{about} Production: a GPU.")

    for_cpu = _onnx_model(model, max_batch)
    for_cpu.instance_group.add(count=CPU_INSTANCES, kind=pb.ModelInstanceGroup.KIND_CPU)
    for_cpu.model_warmup.append(_warm_up(model, 1))
    _write(
        folder / "configs" / f"{EMBEDDED}.pbtxt", for_cpu, f"{about} No GPU: --model-config-name={EMBEDDED}."
    )


def _onnx_model(model: Model, max_batch: int) -> pb.ModelConfig:
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


def _write(path: Path, config: pb.ModelConfig, about: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    comment = textwrap.indent(
        textwrap.fill(f"{about} Written by `python -m export`; edits are lost.", 108), "# "
    )
    path.write_text(f"{comment}\n{text_format.MessageToString(config)}", encoding="utf-8")
