from __future__ import annotations

import socket
from pathlib import Path

import pytest

from server.errors import StartError
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
