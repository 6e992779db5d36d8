"""A loaded ONNX model: config, session and batcher put together."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from server.onnxruntime_backend.batching import Answer, Batcher, Request, Tensors
from server.onnxruntime_backend.config import ModelConfig, parse_model_config
from server.onnxruntime_backend.graph import check_graph, read_graph
from server.onnxruntime_backend.providers import Device
from server.onnxruntime_backend.session import ORT_ERRORS, create_session


class OnnxModel:
    """An ONNX model on one device, checked against its config.

    Raises `ModelLoadError` where Triton's C++ backend would refuse the model.
    """

    def __init__(self, config: ModelConfig, version_folder: Path, device: Device) -> None:
        self.config = config
        self._session = create_session(config, version_folder, device)
        check_graph(config, read_graph(self._session))
        self._batcher = Batcher(config.name, self._run, batched=config.batched, errors=ORT_ERRORS)

    @classmethod
    def from_triton(cls, args: Mapping[str, str]) -> OnnxModel:
        """The model that the `args` of ``TritonPythonModel.initialize`` describe."""
        config = parse_model_config(args["model_config"])
        folder = Path(args["model_repository"]) / args["model_version"]
        device = Device(args["model_instance_kind"], int(args["model_instance_device_id"]))
        return cls(config, folder, device)

    @property
    def providers(self) -> list[str]:
        """The execution providers that the session really uses."""
        return list(self._session.get_providers())

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        """One answer for each request, in order."""
        return self._batcher.answer(requests)

    def _run(self, wanted: Collection[str], inputs: Tensors) -> Tensors:
        names = sorted(wanted)
        return dict(zip(names, self._session.run(names, inputs), strict=True))
