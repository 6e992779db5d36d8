"""A loaded ONNX model: config, session and batcher put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from compositor_backend.memory import Rest
from server.onnxruntime_backend.batching import Answer, Batcher, Request
from server.onnxruntime_backend.config import ModelConfig, parse_model_config
from server.onnxruntime_backend.graph import check_graph, read_graph
from server.onnxruntime_backend.pieces import PieceRunner, rows_at_a_time
from server.onnxruntime_backend.providers import Device
from server.onnxruntime_backend.session import ORT_ERRORS, choose_threads, create_session, usable_cpus


class OnnxModel:
    """An ONNX model on one device, checked against its config.

    Raises `ModelLoadError` where Triton's C++ backend would refuse the model.
    """

    def __init__(self, config: ModelConfig, version_folder: Path, device: Device) -> None:
        self.config = config
        self._session = create_session(config, version_folder, device)
        check_graph(config, read_graph(self._session))
        rows = rows_at_a_time(config, device, choose_threads(config, device, usable_cpus()).intra_op)
        runner = PieceRunner(self._session, config, rows)
        self._batcher = Batcher(config.name, runner, batched=config.batched, errors=ORT_ERRORS)
        self._rest = Rest()

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
        answers = self._batcher.answer(requests)
        self._rest.worked()
        return answers
