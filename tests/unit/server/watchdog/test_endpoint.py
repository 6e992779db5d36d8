from __future__ import annotations

import http.client
import json
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from typing import Any

import pytest

from server.errors import StartError
from server.watchdog.endpoint import MOST_CONNECTIONS, TIMEOUT_S, HealthEndpoint
from server.watchdog.health import Health

HEALTH = Health(frames_per_s=25.0, restarts=1, trouble="a process of compositor has died")


class Patient:
    def __init__(self) -> None:
        self.health = HEALTH


@pytest.fixture
def patient() -> Patient:
    return Patient()


@pytest.fixture
def url(patient: Patient) -> Iterator[str]:
    endpoint = HealthEndpoint("127.0.0.1", 0, lambda: patient.health)
    endpoint.open()
    yield f"http://127.0.0.1:{endpoint.port}"
    endpoint.close()


def ask(url: str) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_all_of_it_is_json(url: str) -> None:
    assert ask(f"{url}/") == (
        200,
        {
            "live": True,
            "ready": True,
            "frames_per_s": 25.0,
            "restarts": 1,
            "trouble": "a process of compositor has died",
        },
    )


@pytest.mark.parametrize(
    ("health", "live", "ready"),
    [(Health(), 200, 200), (Health(ready=False), 200, 503), (Health(live=False, ready=False), 503, 503)],
)
def test_live_and_ready_are_statuses(
    patient: Patient, url: str, health: Health, live: int, ready: int
) -> None:
    patient.health = health
    assert (ask(f"{url}/live")[0], ask(f"{url}/ready")[0]) == (live, ready)


def test_live_and_ready_give_no_reasons(url: str) -> None:
    assert ask(f"{url}/live") == (200, {"live": True})
    assert ask(f"{url}/ready") == (200, {"ready": True})


@pytest.mark.parametrize(("ready", "status"), [(True, 200), (False, 503)])
def test_head_is_get_without_the_body(patient: Patient, url: str, ready: bool, status: int) -> None:
    patient.health = Health(ready=ready)
    connection = http.client.HTTPConnection(urllib.parse.urlparse(url).netloc, timeout=10)
    with closing(connection):
        connection.request("HEAD", "/ready")
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (status, b"")
        assert int(answer.headers["Content-Length"]) > 0


def test_connections_beyond_a_number_are_closed_at_once_and_the_others_answered(url: str) -> None:
    address = ("127.0.0.1", urllib.parse.urlparse(url).port)
    with ExitStack() as opened:
        held = [
            opened.enter_context(socket.create_connection(address, timeout=10))
            for _ in range(MOST_CONNECTIONS)
        ]
        with socket.create_connection(address, timeout=TIMEOUT_S / 2) as refused:
            assert refused.recv(1) == b""
        held[0].sendall(b"GET /live HTTP/1.0\r\n\r\n")
        assert held[0].recv(100).startswith(b"HTTP/1.0 200")
    within(10, lambda: ask(f"{url}/live")[0] == 200)


def within(seconds: float, condition: Callable[[], bool]) -> None:
    """Wait until it is so."""
    end_s = time.monotonic() + seconds
    while True:
        with suppress(OSError):
            if condition():
                return
        assert time.monotonic() < end_s
        time.sleep(0.01)


def test_another_path_is_not_found(url: str) -> None:
    assert ask(f"{url}/metrics") == (404, {"error": "there are /, /live and /ready"})


def test_a_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartError, match=rf"port {port} of 127\.0\.0\.1 .*--health-port"):
            HealthEndpoint("127.0.0.1", port, Health)
