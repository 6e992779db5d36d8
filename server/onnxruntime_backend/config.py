"""A model's config, read from the JSON in which Triton hands it to a backend."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from server.errors import ModelLoadError

DEFAULT_FILENAME = "model.onnx"


@dataclass(frozen=True)
class TensorConfig:
    """An input or output: `data_type` is ``TYPE_FP32`` and so on; `dims` leaves the batch dimension out."""

    name: str
    data_type: str
    dims: tuple[int, ...]
    optional: bool = False


@dataclass(frozen=True)
class Accelerator:
    """One ``gpu_execution_accelerator`` or ``cpu_execution_accelerator`` entry."""

    name: str
    parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelConfig:
    """The parts of a config that concern this backend; Triton itself sees to batching, queues and warm-up.

    `cpu_instances` is how many instances share the machine's cores. `parameters` are their string values.
    """

    name: str
    max_batch_size: int
    inputs: tuple[TensorConfig, ...]
    outputs: tuple[TensorConfig, ...]
    filename: str = DEFAULT_FILENAME
    gpu_accelerators: tuple[Accelerator, ...] = ()
    cpu_accelerators: tuple[Accelerator, ...] = ()
    parameters: Mapping[str, str] = field(default_factory=dict)
    graph_level: int = 0
    cpu_instances: int = 1

    @property
    def batched(self) -> bool:
        """Whether requests have a batch dimension, along which they may be joined."""
        return self.max_batch_size > 0


def parse_model_config(text: str) -> ModelConfig:
    """The config in `text`, the JSON of ``args["model_config"]``.

    Raises `ModelLoadError` for what only the C++ backend does (sequences, ragged batches, reshape,
    batch inputs, custom operators): better refused than served wrongly.
    """
    raw = json.loads(text)
    name = raw["name"]
    _refuse_unsupported(name, raw)
    optimization = raw.get("optimization", {})
    accelerators = optimization.get("execution_accelerators", {})
    return ModelConfig(
        name=name,
        max_batch_size=int(raw.get("max_batch_size", 0)),
        inputs=tuple(_tensor(entry) for entry in raw["input"]),
        outputs=tuple(_tensor(entry) for entry in raw["output"]),
        filename=raw.get("default_model_filename") or DEFAULT_FILENAME,
        gpu_accelerators=_accelerators(accelerators.get("gpu_execution_accelerator", [])),
        cpu_accelerators=_accelerators(accelerators.get("cpu_execution_accelerator", [])),
        parameters={key: value["string_value"] for key, value in raw.get("parameters", {}).items()},
        graph_level=int(optimization.get("graph", {}).get("level", 0)),
        cpu_instances=_cpu_instances(raw.get("instance_group", [])),
    )


def _refuse_unsupported(name: str, raw: Mapping[str, Any]) -> None:
    for key in ("sequence_batching", "batch_input", "batch_output", "model_operations"):
        if raw.get(key):
            raise ModelLoadError(f"{name}: {key} is in the config; only Triton's C++ backend can do that")
    for entry in (*raw.get("input", []), *raw.get("output", [])):
        for key in ("reshape", "allow_ragged_batch"):
            if entry.get(key):
                raise ModelLoadError(
                    f"{name}: {key} is set for {entry['name']}; only Triton's C++ backend can do that"
                )


def _tensor(entry: Mapping[str, Any]) -> TensorConfig:
    dims = tuple(int(dim) for dim in entry["dims"])
    return TensorConfig(entry["name"], entry["data_type"], dims, bool(entry.get("optional", False)))


def _accelerators(entries: Sequence[Mapping[str, Any]]) -> tuple[Accelerator, ...]:
    return tuple(Accelerator(entry["name"], dict(entry.get("parameters", {}))) for entry in entries)


def _cpu_instances(groups: Sequence[Mapping[str, Any]]) -> int:
    counts = [int(group.get("count", 1)) for group in groups if group.get("kind") == "KIND_CPU"]
    return max(1, sum(counts))
