from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from compositor_backend.errors import SettingsError
from server.settings import ServerSettings


@pytest.mark.parametrize(
    ("settings", "token"),
    [
        ({"grpc_port": -1}, "grpc_port"),
        ({"http_port": 65536}, "65536"),
        ({"grpc_port": 9000, "metrics_port": 9000}, "9000, 8000, 9000"),
        ({"networks_mib": 0}, "networks_mib"),
        ({"scratch_mib": -3}, "scratch_mib.*-3"),
        ({"start_timeout_s": 0}, "start_timeout_s"),
        ({"model_repository": Path("nowhere")}, "nowhere"),
    ],
)
def test_what_cannot_work_is_refused(settings: dict[str, Any], token: str) -> None:
    with pytest.raises(SettingsError, match=token):
        ServerSettings(**settings)


def test_an_avatars_folder_may_come_later(tmp_path: Path) -> None:
    assert ServerSettings(avatars=tmp_path / "later").avatars == tmp_path / "later"


PORTS = ("grpc_port", "http_port", "metrics_port")


def ports(**chosen: int) -> tuple[int, ...]:
    settings = ServerSettings(**chosen)
    return tuple(getattr(settings, name) for name in PORTS)


def test_several_ports_may_be_left_to_chance() -> None:
    """They are equal in the settings only; two that are asked for must differ all the same."""
    assert ports(grpc_port=0, http_port=0, metrics_port=0) == (0, 0, 0)
    assert ports(grpc_port=0, http_port=65535, metrics_port=0) == (0, 65535, 0)
    for free, *asked in (PORTS, PORTS[1:] + PORTS[:1], PORTS[2:] + PORTS[:2]):
        with pytest.raises(SettingsError, match=r"\[9000, 9000\]"):
            ServerSettings(**{free: 0, **dict.fromkeys(asked, 9000)})


def test_ports_that_nobody_asked_for_are_neither_equal_nor_left_to_chance() -> None:
    """Clients and scrapers find a server that was started without options."""
    assert len(set(ports())) == 3
    assert 0 not in ports()
