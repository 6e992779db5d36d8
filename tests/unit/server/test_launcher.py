from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.errors import StartError, TritonSilentError
from server.launcher import TritonServer, choose_ports
from server.settings import ServerSettings


def test_free_ports_differ_and_asked_ones_are_kept() -> None:
    chosen = choose_ports(ServerSettings(grpc_port=0, http_port=0, metrics_port=0))
    assert len({chosen.grpc, chosen.http, chosen.metrics}) == 3
    again = choose_ports(
        ServerSettings(grpc_port=chosen.grpc, http_port=chosen.http, metrics_port=chosen.metrics)
    )
    assert again == chosen


@pytest.mark.parametrize("name", ["grpc", "http", "metrics"])
def test_a_taken_port_is_named_with_its_option(name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ports = {"grpc_port": 0, "http_port": 0, "metrics_port": 0, f"{name}_port": port}
        with pytest.raises(StartError, match=rf"port {port} .*--{name}-port"):
            choose_ports(ServerSettings(**ports))


def test_an_address_that_is_not_ours_is_named() -> None:
    with pytest.raises(StartError, match=r"192\.0\.2\.1"):
        choose_ports(ServerSettings(host="192.0.2.1"))


def test_a_log_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    settings = ServerSettings(
        model_repository=tmp_path,
        log=tmp_path / "file" / "triton.log",
        grpc_port=0,
        http_port=0,
        metrics_port=0,
    )
    with pytest.raises(StartError, match=r"triton\.log"):
        TritonServer(settings).start()


def test_a_temporary_folder_that_runs_no_programs_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    # What access(2) says of a program on a file system that is mounted noexec.
    monkeypatch.setattr("os.access", lambda _path, mode: mode != os.X_OK)
    settings = ServerSettings(grpc_port=0, http_port=0, metrics_port=0)
    with pytest.raises(StartError, match="noexec"):
        TritonServer(settings).start()
    assert list(tmp_path.iterdir()) == []


def test_stopping_what_never_started_is_no_error() -> None:
    TritonServer(ServerSettings()).stop()


class FakeHttp:
    """A Triton that gives these answers, one after another, to the question whether it is ready."""

    def __init__(self, *answers: bool | None) -> None:
        self.answers = list(answers)

    def ready(self) -> bool:
        answer = self.answers.pop(0)
        if answer is None:
            raise TritonSilentError("nothing")
        return answer


@pytest.fixture
def supervisor() -> Iterator[TritonServer]:
    """A server whose supervisor runs, and whose Triton is the test's."""
    server = TritonServer(ServerSettings())
    with subprocess.Popen(["sleep", "600"]) as process:
        server._supervisor = process
        yield server
        process.kill()


def test_triton_is_waited_for_until_it_is_ready_with_all_its_models(
    supervisor: TritonServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[None] = []
    monkeypatch.setattr(TritonServer, "http", FakeHttp(None, None, False, True))
    supervisor._wait_until_ready(None, lambda: called.append(None))
    assert len(called) == 4


def test_a_start_can_be_given_up(supervisor: TritonServer, monkeypatch: pytest.MonkeyPatch) -> None:
    cancelled = threading.Event()
    cancelled.set()
    monkeypatch.setattr(TritonServer, "http", FakeHttp(False))
    with pytest.raises(StartError):
        supervisor._wait_until_ready(cancelled, lambda: None)


def test_a_server_that_was_not_started_has_no_processes() -> None:
    server = TritonServer(ServerSettings())
    assert (server.ended, server.processes(), server.stubs()) == (True, {}, [])
