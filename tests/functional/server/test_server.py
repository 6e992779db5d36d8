"""`python -m server` and `TritonServer` with a real Triton."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from server.errors import StartError
from server.settings import ROOT
from tests.support.leftovers import Leftovers
from tests.support.onnx_models import DOUBLING_CONFIG, doubling_graph, lookup_graph, write_model
from tests.support.triton import running_triton

pytestmark = pytest.mark.functional

PASS_ON = """
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        print("shared model starts", flush=True)

    def execute(self, requests):
        return [
            pb_utils.InferenceResponse(
                [pb_utils.Tensor("Y", pb_utils.get_input_tensor_by_name(request, "X").as_numpy())]
            )
            for request in requests
        ]
"""
PASS_ON_CONFIG = """
name: "shared"
backend: "python"
max_batch_size: 0
input [ { name: "X" data_type: TYPE_FP32 dims: [ -1 ] } ]
output [ { name: "Y" data_type: TYPE_FP32 dims: [ -1 ] } ]
instance_group [ { count: 1 kind: KIND_CPU } ]
"""
ENSEMBLE_CONFIG = """
platform: "ensemble"
max_batch_size: 0
input [ { name: "X" data_type: TYPE_FP32 dims: [ -1 ] } ]
output [ { name: "Y" data_type: TYPE_FP32 dims: [ -1 ] } ]
ensemble_scheduling {
  step [
    {
      model_name: "shared"
      model_version: -1
      input_map { key: "X" value: "X" }
      output_map { key: "Y" value: "Y" }
    }
  ]
}
"""
LOOKUP_CONFIG = """
backend: "onnxruntime"
max_batch_size: 16
input [ { name: "I" data_type: TYPE_INT64 dims: [ 1 ] } ]
output [ { name: "Y" data_type: TYPE_FP32 dims: [ 1 ] } ]
instance_group [ { count: 1 kind: KIND_CPU } ]
dynamic_batching { max_queue_delay_microseconds: 200000 preferred_batch_size: [ 16 ] }
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A model repository with the ONNX model ``tiny``: Y = 2 X."""
    folder = tmp_path / "models"
    write_model(folder, "tiny", doubling_graph(), DOUBLING_CONFIG)
    return folder


@pytest.fixture
def client() -> Iterator[Any]:
    """Opens gRPC clients, and closes them after the test."""
    opened: list[Any] = []

    def connect(url: str) -> Any:
        opened.append(grpcclient.InferenceServerClient(url))
        return opened[-1]

    yield connect
    for connection in opened:
        connection.close()


def tensor(name: str, values: Any, dtype: str) -> Any:
    made = grpcclient.InferInput(name, list(values.shape), dtype)
    made.set_data_from_numpy(values)
    return made


def infer_all(connection: Any, model: str, inputs: list[Any]) -> list[Any]:
    """Results or errors of requests sent at once, in their order."""
    answers: dict[int, Any] = {}
    done = threading.Semaphore(0)

    def take(index: int, result: Any, error: Any) -> None:
        answers[index] = error or result
        done.release()

    for index, made in enumerate(inputs):
        connection.async_infer(
            model, [made], lambda result, error, index=index: take(index, result, error), client_timeout=20
        )
    for _ in inputs:
        assert done.acquire(timeout=25)
    return [answers[index] for index in range(len(inputs))]


def start(repository: Path, avatars: Path, *arguments: str) -> subprocess.Popen[str]:
    """The launcher as its own process."""
    line = [sys.executable, "-m", "server", "--model-repository", str(repository), "--avatars", str(avatars)]
    ports = ["--grpc-port", "0", "--http-port", "0", "--metrics-port", "0", "--health-port", "0"]
    return subprocess.Popen(
        [*line, *ports, *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def addresses(launcher: subprocess.Popen[str]) -> dict[str, str]:
    """The addresses that the launcher prints once Triton is ready."""
    assert launcher.stdout
    return dict(launcher.stdout.readline().split() for _ in range(4))  # type: ignore[misc]


def test_requests_are_joined_and_each_gets_its_own_answer(
    repository: Path, leftovers: Leftovers, client: Any
) -> None:
    rng = np.random.default_rng(0)
    sent = [rng.random((rows, 4), np.float32) for rows in (1, 3, 2, 4, 1, 2)]
    with running_triton([repository]) as server:
        connection = client(server.grpc_url)
        results = infer_all(connection, "tiny", [tensor("X", x, "FP32") for x in sent])
        for x, result in zip(sent, results, strict=True):
            np.testing.assert_array_equal(result.as_numpy("Y"), 2 * x)
        statistics = connection.get_inference_statistics("tiny").model_stats[0]
        assert statistics.inference_count == sum(len(x) for x in sent)
        assert statistics.execution_count < len(sent)
        with urllib.request.urlopen(server.metrics_url) as metrics:
            assert b"nv_inference_exec_count" in metrics.read()
    leftovers.assert_none_within(0)


def test_a_bad_request_fails_alone_within_its_batch(
    tmp_path: Path, leftovers: Leftovers, client: Any
) -> None:
    write_model(tmp_path / "models", "lookup", lookup_graph(), LOOKUP_CONFIG)
    indices = [np.array([[0]]), np.array([[99]]), np.array([[2], [1]])]
    with running_triton([tmp_path / "models"], log=tmp_path / "triton.log") as server:
        answers = infer_all(
            client(server.grpc_url), "lookup", [tensor("I", index, "INT64") for index in indices]
        )
    assert answers[0].as_numpy("Y").tolist() == [[10.0]]
    assert answers[2].as_numpy("Y").tolist() == [[30.0], [20.0]]
    assert isinstance(answers[1], InferenceServerException)
    message = answers[1].message()
    assert message.startswith("lookup failed; see ")
    log = (tmp_path / "triton.log").read_text()
    assert message.split("see ")[1].split()[0] in log
    assert "idx=99" in log


def test_a_config_that_contradicts_its_graph_stops_the_start_with_the_reason(
    repository: Path, leftovers: Leftovers
) -> None:
    write_model(repository, "wrong", doubling_graph(), DOUBLING_CONFIG.replace("[ 4 ]", "[ 5 ]"))
    with pytest.raises(StartError, match=r"wrong: input X is \[-1, 5\] in the config") as caught:
        running_triton([repository]).__enter__()
    (log,) = leftovers.folder.glob("*.log")
    assert str(log) in str(caught.value)
    log.unlink()
    leftovers.assert_none_within(0)


def test_a_wrong_model_refused_at_run_time_leaves_the_others_serving(
    repository: Path, leftovers: Leftovers, client: Any
) -> None:
    write_model(repository, "wrong", doubling_graph(), DOUBLING_CONFIG.replace("TYPE_FP32", "TYPE_UINT8"))
    with running_triton([repository], models=("tiny",)) as server:
        connection = client(server.grpc_url)
        with pytest.raises(InferenceServerException, match=r"wrong: input X is TYPE_UINT8 in the config"):
            connection.load_model("wrong")
        assert connection.is_model_ready("tiny")


def test_loading_a_second_ensemble_does_not_load_the_shared_model_again(
    tmp_path: Path, leftovers: Leftovers, client: Any
) -> None:
    shared = tmp_path / "models" / "shared"
    (shared / "1").mkdir(parents=True)
    (shared / "1" / "model.py").write_text(PASS_ON)
    (shared / "config.pbtxt").write_text(PASS_ON_CONFIG)
    avatars = tmp_path / "avatars"
    for name in ("avatar_ann", "avatar_bob"):
        (avatars / name / "1").mkdir(parents=True)
        (avatars / name / "config.pbtxt").write_text(f'name: "{name}"\n{ENSEMBLE_CONFIG}')
    log = tmp_path / "triton.log"
    with running_triton([tmp_path / "models"], avatars, ["ann"], log=log) as server:
        connection = client(server.grpc_url)
        connection.load_model("avatar_bob")
        for name in ("avatar_ann", "avatar_bob"):
            (result,) = infer_all(connection, name, [tensor("X", np.arange(3, dtype=np.float32), "FP32")])
            assert result.as_numpy("Y").tolist() == [0, 1, 2]
    assert log.read_text().count("shared model starts") == 1


def test_a_taken_port_is_said_in_one_line(repository: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        launcher = start(repository, tmp_path, "--http-port", str(port))
        _, printed = launcher.communicate(timeout=20)
    assert launcher.returncode == 1
    assert printed == (
        f"server: port {port} of 127.0.0.1 cannot be used: Address already in use; "
        "choose another with --http-port (0 takes any free one)\n"
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_without_a_trace(
    repository: Path, tmp_path: Path, leftovers: Leftovers, number: signal.Signals
) -> None:
    launcher = start(repository, tmp_path)
    assert set(addresses(launcher)) == {"gRPC", "HTTP", "health", "metrics"}
    assert leftovers.processes()
    assert leftovers.shared_memory(launcher.pid)
    launcher.send_signal(number)
    _, errors = launcher.communicate(timeout=25)
    assert (launcher.returncode, errors) == (0, "")
    leftovers.assert_none_within(0, launcher.pid)


def test_a_launcher_that_is_killed_takes_triton_along(
    repository: Path, tmp_path: Path, leftovers: Leftovers
) -> None:
    launcher = start(repository, tmp_path, "--log", str(tmp_path / "triton.log"))
    addresses(launcher)
    launcher.kill()
    launcher.communicate(timeout=10)
    leftovers.assert_none_within(20, launcher.pid)


def test_without_restarts_triton_that_dies_is_reported_and_cleaned_up_after(
    repository: Path, tmp_path: Path, leftovers: Leftovers
) -> None:
    launcher = start(repository, tmp_path, "--no-restart", "--log", str(tmp_path / "triton.log"))
    assert launcher.stdout
    for _ in range(3):
        launcher.stdout.readline()
    os.kill(_pid_of_tritonserver(leftovers), signal.SIGKILL)
    _, errors = launcher.communicate(timeout=20)
    assert launcher.returncode == 1
    assert errors.startswith("server: Triton ended by itself with status 137: ")
    leftovers.assert_none_within(0, launcher.pid)


def test_a_command_runs_with_the_addresses_and_its_status_is_the_launchers(
    repository: Path, tmp_path: Path, leftovers: Leftovers
) -> None:
    script = (
        "import json, os, sys; print(json.dumps({k: v for k, v in os.environ.items() if 'LIPSTREAM' in k})); "
        "sys.exit(5)"
    )
    launcher = start(repository, tmp_path, "--hints", "--", sys.executable, "-c", script)
    printed = addresses(launcher)
    assert launcher.stdout
    # Not communicate(): it would miss what readline() has read ahead.
    rest = launcher.stdout.read()
    launcher.communicate(timeout=25)
    assert launcher.returncode == 5
    *hints, environment = rest.splitlines()
    assert sum(printed["gRPC"] in line or printed["HTTP"] in line for line in hints) == 3
    found = json.loads(environment)
    assert found["LIPSTREAM_URL"] == printed["gRPC"]
    assert found["LIPSTREAM_HTTP_URL"] == printed["HTTP"]
    assert found["LIPSTREAM_METRICS_URL"] == printed["metrics"]
    leftovers.assert_none_within(0, launcher.pid)


def test_two_servers_at_once(repository: Path, leftovers: Leftovers, client: Any) -> None:
    with running_triton([repository]) as first, running_triton([repository]) as second:
        for server in (first, second):
            (result,) = infer_all(
                client(server.grpc_url), "tiny", [tensor("X", np.ones((1, 4), np.float32), "FP32")]
            )
            assert result.as_numpy("Y").tolist() == [[2, 2, 2, 2]]
    leftovers.assert_none_within(0)


def _pid_of_tritonserver(leftovers: Leftovers) -> int:
    """The process that runs the binary: the supervisor and the stubs name the same folder."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            line = (path / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if line[0].endswith("/tritonserver") and any(str(leftovers.folder) in part for part in line):
            return int(path.name)
    raise AssertionError("no tritonserver runs")
