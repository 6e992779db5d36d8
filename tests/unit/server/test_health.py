from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from server.errors import StartError
from server.health import HealthEndpoint
from server.watch import Health

HEALTH = Health(residents=("may",), frames_per_s=25.0, repairs=1, trouble="a process of compositor died")


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
            "residents": ["may"],
            "frames_per_s": 25.0,
            "repairs": 1,
            "restarts": 0,
            "trouble": "a process of compositor died",
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


def test_another_path_is_not_found(url: str) -> None:
    assert ask(f"{url}/metrics") == (404, {"error": "there are /, /live and /ready"})


def test_a_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartError, match=rf"port {port} of 127\.0\.0\.1 .*--health-port"):
            HealthEndpoint("127.0.0.1", port, Health)
