"""`python -m server` and `TritonServer` with a real Triton."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from server.errors import StartError
from tests.functional.server.conftest import addresses, doubled, launch, triton
from tests.support.leftovers import Leftovers

pytestmark = pytest.mark.functional

X = np.array([1, 2, 3], np.float32)


def tree(folder: Path) -> dict[str, int]:
    """Every path in a folder, and when it was last written to."""
    return {str(path): path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}


def test_it_serves_and_writes_nothing_into_the_repository(repository: Path, leftovers: Leftovers) -> None:
    before = tree(repository)
    with triton(repository) as server:
        assert doubled(server.grpc_url, X).tolist() == [2, 4, 6]
        assert sorted(server.processes().values()) == ["Triton", "catalog"]
        with urllib.request.urlopen(server.metrics_url) as metrics:
            assert b"nv_inference_exec_count" in metrics.read()
    assert tree(repository) == before
    leftovers.assert_none_within(0)


CLOSED: dict[str, Callable[[Any], Any]] = {
    "load": lambda client: client.load_model("catalog"),
    "unload": lambda client: client.unload_model("catalog"),
    "index": lambda client: client.get_model_repository_index(),
    "shared memory": lambda client: client.register_system_shared_memory("mine", "/mine", 64),
    "shared memory status": lambda client: client.get_system_shared_memory_status(),
    "trace": lambda client: client.update_trace_settings(settings={"trace_level": ["TENSORS"]}),
    "log": lambda client: client.update_log_settings({"log_verbose_level": 1}),
}
CLOSED_PATHS = (
    "/v2/repository/index",
    "/v2/repository/models/catalog/load",
    "/v2/systemsharedmemory/region/mine/register",
    "/v2/cudasharedmemory/region/mine/register",
    "/v2/trace/setting",
    "/v2/logging",
)


def test_what_can_harm_others_is_closed_and_the_rest_open(repository: Path) -> None:
    with triton(repository) as server:
        with grpcclient.InferenceServerClient(server.grpc_url) as client:
            for call in CLOSED.values():
                with pytest.raises(InferenceServerException, match="restricted"):
                    call(client)
            assert client.is_model_ready("catalog")
            assert client.get_model_metadata("catalog").name == "catalog"
            # perf_analyzer wants these.
            assert client.get_model_config("catalog").config.name == "catalog"
            assert client.get_inference_statistics("catalog").model_stats[0].name == "catalog"
        for path in CLOSED_PATHS:
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(f"{server.http_url}{path}", data=b"{}")
            assert caught.value.code == 403, path
            caught.value.close()
        assert doubled(server.grpc_url, X).tolist() == [2, 4, 6]


def test_a_model_that_cannot_start_stops_the_start_with_the_reason(
    repository: Path, leftovers: Leftovers
) -> None:
    (repository / "catalog" / "1" / "model.py").write_text("import no_such_package")
    with pytest.raises(StartError, match=r"catalog.*no_such_package") as caught:
        triton(repository).start()
    (log,) = leftovers.folder.glob("*.log")
    assert str(log) in str(caught.value)
    log.unlink()
    leftovers.assert_none_within(0)


def test_a_taken_port_is_said_in_one_line(repository: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        launcher = launch(repository, "--http-port", str(port))
        _, printed = launcher.communicate(timeout=20)
    assert launcher.returncode == 1
    assert f"port {port}" in printed
    assert "--http-port" in printed
    assert printed.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_without_a_trace(
    repository: Path, leftovers: Leftovers, number: signal.Signals
) -> None:
    launcher = launch(repository)
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
    launcher = launch(repository, "--log", str(tmp_path / "triton.log"))
    addresses(launcher)
    launcher.kill()
    launcher.communicate(timeout=10)
    leftovers.assert_none_within(20, launcher.pid)


def test_without_restarts_triton_that_dies_is_reported_and_cleaned_up_after(
    repository: Path, tmp_path: Path, leftovers: Leftovers
) -> None:
    launcher = launch(repository, "--no-restart", "--log", str(tmp_path / "triton.log"))
    assert launcher.stdout
    for _ in range(3):
        launcher.stdout.readline()
    os.kill(_pid_of_tritonserver(leftovers), signal.SIGKILL)
    _, errors = launcher.communicate(timeout=20)
    assert launcher.returncode == 1
    assert "status 137" in errors
    leftovers.assert_none_within(0, launcher.pid)


def test_a_command_runs_with_the_addresses_and_its_status_is_the_launchers(
    repository: Path, leftovers: Leftovers
) -> None:
    script = (
        "import json, os, sys; print(json.dumps({k: v for k, v in os.environ.items() if 'LIPSTREAM' in k})); "
        "sys.exit(5)"
    )
    launcher = launch(repository, "--hints", "--", sys.executable, "-c", script)
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


def test_two_servers_at_once(repository: Path, leftovers: Leftovers) -> None:
    with triton(repository) as first, triton(repository) as second:
        for server in (first, second):
            assert doubled(server.grpc_url, X).tolist() == [2, 4, 6]
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
