"""Compare a model's `config.pbtxt` with the wire contract.

The protobuf definition comes with tritonclient, pinned to the oldest Triton that has to read the files:
a field that Triton lacks is an error here too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig

from compositor_backend.contract import Model, Tensor

Description = tuple[str, str, tuple[int, ...], bool]
"""Name, type as a config writes it, dims, optional."""


def read_config(path: Path) -> Any:
    """The `ModelConfig` in a text file, as strictly as Triton reads it."""
    return text_format.Parse(path.read_text(encoding="utf-8"), ModelConfig())


def assert_config_matches(config: Any, model: Model) -> None:
    """Name, inputs and outputs of the config are the contract's: none more, none less, in the same order."""
    batched = config.max_batch_size > 0
    assert config.name == model.name
    assert [_describe(tensor) for tensor in config.input] == [
        _wanted(tensor, batched, tensor.name in model.optional) for tensor in model.inputs
    ]
    assert [_describe(tensor) for tensor in config.output] == [
        _wanted(tensor, batched, False) for tensor in model.outputs
    ]


def _describe(tensor: Any) -> Description:
    optional = getattr(tensor, "optional", False)  # outputs have no such field
    return tensor.name, DataType.Name(tensor.data_type), tuple(tensor.dims), optional


def _wanted(tensor: Tensor, batched: bool, optional: bool) -> Description:
    """With `max_batch_size` above 0 Triton adds the first dimension itself."""
    if batched:
        assert tensor.shape[0] == -1, f"{tensor.name} has no batch dimension"
    return tensor.name, tensor.config_dtype, tensor.shape[1:] if batched else tensor.shape, optional
