from __future__ import annotations

import socket
import subprocess
import time
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
        with pytest.raises(StartError, match=rf"port {port} of 127\.0\.0\.1 .*in use.*--{name}-port"):
            choose_ports(ServerSettings(**ports))


def test_an_address_that_is_not_ours_is_named() -> None:
    with pytest.raises(StartError, match=r"192\.0\.2\.1 cannot be used"):
        choose_ports(ServerSettings(host="192.0.2.1"))


def test_a_log_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    settings = ServerSettings(
        model_repositories=(tmp_path,),
        log=tmp_path / "file" / "triton.log",
        grpc_port=0,
        http_port=0,
        metrics_port=0,
    )
    with pytest.raises(StartError, match=r"triton\.log cannot be written"):
        TritonServer(settings).start()


def test_stopping_what_never_started_is_no_error() -> None:
    TritonServer(ServerSettings()).stop()


class FakeHttp:
    """A Triton that has come up with the models `has`; the first questions are left unanswered."""

    def __init__(self, *has: str, silent: int = 0) -> None:
        self.has, self.silent = has, silent

    def ready(self, model: str | None = None) -> bool:
        self.silent -= 1
        if self.silent >= 0:
            raise TritonSilentError("nothing")
        return model is None or model in self.has


@pytest.fixture
def supervisor(monkeypatch: pytest.MonkeyPatch) -> Iterator[TritonServer]:
    """A server whose supervisor runs, and whose Triton is the test's."""
    server = TritonServer(ServerSettings())
    with subprocess.Popen(["sleep", "600"]) as process:
        server._supervisor = process
        yield server
        process.kill()


def waits(server: TritonServer, http: FakeHttp, monkeypatch: pytest.MonkeyPatch) -> int:
    """How often it is called back until the models `a` and `b` are ready."""
    called: list[None] = []
    monkeypatch.setattr(TritonServer, "http", http)
    server._wait_until_ready(["a", "b"], None, lambda: called.append(None))
    return len(called)


def test_while_triton_says_nothing_it_is_waited_for(
    supervisor: TritonServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert waits(supervisor, FakeHttp("a", "b", silent=4), monkeypatch) == 4 + 3


def test_a_triton_that_came_up_without_a_model_is_not_waited_for(
    supervisor: TritonServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    began_s = time.monotonic()
    with pytest.raises(StartError, match="Triton came up without b: "):
        waits(supervisor, FakeHttp("a"), monkeypatch)
    assert time.monotonic() - began_s < supervisor.settings.start_timeout_s / 10
