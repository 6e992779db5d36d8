"""onnxruntime's TensorRT provider, as the server configures it: its engine is built beforehand where it can be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnxruntime
from google.protobuf import json_format
from tritonclient.grpc import model_config_pb2 as pb

from export.errors import ExportError
from export.picture_parity import Run
from export.served_graph import run

TENSORRT = "TensorrtExecutionProvider"


def provider_is_here() -> bool:
    """Whether this onnxruntime has the provider (onnxruntime-gpu has; it needs TensorRT's libraries, too)."""
    return TENSORRT in onnxruntime.get_available_providers()


def build_cache(config: pb.ModelConfig, version_folder: Path) -> Run:
    """Load a model just as the server does, which builds its engine into the cache, and give what runs it."""
    from server.errors import ModelLoadError
    from server.onnxruntime_backend.config import parse_model_config
    from server.onnxruntime_backend.providers import Device
    from server.onnxruntime_backend.session import create_session

    text = json.dumps(json_format.MessageToDict(config, preserving_proto_field_name=True))
    try:
        session = create_session(parse_model_config(text), version_folder, Device("GPU"))
    except ModelLoadError as error:
        raise ExportError(str(error)) from error
    _check_providers(config, session)
    names = [tensor.name for tensor in session.get_outputs()]
    path = version_folder / config.default_model_filename
    return lambda inputs: dict(zip(names, run(path, session, names, inputs), strict=True))


def _check_providers(config: pb.ModelConfig, session: Any) -> None:
    """A provider that does not start is no error to onnxruntime: it goes on without."""
    if TENSORRT not in session.get_providers():
        raise ExportError(
            f"{config.name}: onnxruntime's TensorRT provider did not start; it has "
            f"{', '.join(session.get_providers())}"
        )
