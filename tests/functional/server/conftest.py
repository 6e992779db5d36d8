"""A small model repository, and the launcher on it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpcclient

from server.launcher import TritonServer
from server.settings import ROOT, ServerSettings

# Y = 2 X; below zero, X is how the process breaks.
MODEL = """
import threading

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        x = pb_utils.get_input_tensor_by_name(request, "X").as_numpy()
        if x[0] == -1:
            threading.Event().wait()
        return pb_utils.InferenceResponse([pb_utils.Tensor("Y", 2 * x)])
"""
CONFIG = """
name: "catalog"
backend: "python"
max_batch_size: 0
input [ { name: "X" data_type: TYPE_FP32 dims: [ -1 ] } ]
output [ { name: "Y" data_type: TYPE_FP32 dims: [ -1 ] } ]
instance_group [ { count: 1 kind: KIND_CPU } ]
"""
HANG = np.array([-1], np.float32)
ANY_PORTS = {"grpc_port": 0, "http_port": 0, "metrics_port": 0}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A model repository with one model, which bears the name of one that a watch knows."""
    model = tmp_path / "models" / "catalog"
    (model / "1").mkdir(parents=True)
    (model / "1" / "model.py").write_text(MODEL)
    (model / "config.pbtxt").write_text(CONFIG)
    return tmp_path / "models"


def triton(repository: Path, **settings: Any) -> TritonServer:
    return TritonServer(ServerSettings(model_repository=repository, **{**ANY_PORTS, **settings}))


def doubled(url: str, x: Any, timeout_s: float = 20) -> Any:
    """What the model answers to `x`, asked over gRPC."""
    with grpcclient.InferenceServerClient(url) as client:
        tensor = grpcclient.InferInput("X", list(x.shape), "FP32")
        tensor.set_data_from_numpy(x)
        return client.infer("catalog", [tensor], client_timeout=timeout_s).as_numpy("Y")


def launch(repository: Path, *arguments: str) -> subprocess.Popen[str]:
    """The launcher as its own process; there is no avatars folder."""
    line = [sys.executable, "-m", "server", "--model-repository", str(repository)]
    line += ["--avatars", str(repository.parent / "avatars")]
    ports = ["--grpc-port", "0", "--http-port", "0", "--metrics-port", "0", "--health-port", "0"]
    return subprocess.Popen(
        [*line, *ports, *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def addresses(launcher: subprocess.Popen[str]) -> dict[str, str]:
    """The addresses that the launcher prints once Triton is ready."""
    assert launcher.stdout
    return dict(launcher.stdout.readline().split() for _ in range(4))  # type: ignore[misc]
