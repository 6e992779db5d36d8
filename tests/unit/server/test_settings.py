from __future__ import annotations

from typing import Any

import pytest

from compositor_backend.errors import SettingsError
from server.settings import RESTRICTED, ServerSettings


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"grpc_port": -1}, "grpc_port is -1; 0 to 65535"),
        ({"http_port": 65536}, "http_port is 65536"),
        ({"grpc_port": 9000, "metrics_port": 9000}, "must differ"),
        ({"gpu_slots": 0}, "gpu_slots is 0"),
        ({"start_timeout_s": 0}, "above 0"),
    ],
)
def test_what_cannot_work_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        ServerSettings(**settings)


PORTS = ("grpc_port", "http_port", "metrics_port")


def ports(**chosen: int) -> tuple[int, ...]:
    settings = ServerSettings(**chosen)
    return tuple(getattr(settings, name) for name in PORTS)


def test_several_ports_may_be_left_to_chance() -> None:
    """They are equal in the settings only; two that are asked for must differ all the same."""
    assert ports(grpc_port=0, http_port=0, metrics_port=0) == (0, 0, 0)
    assert ports(grpc_port=0, http_port=65535, metrics_port=0) == (0, 65535, 0)
    for free, *asked in (PORTS, PORTS[1:] + PORTS[:1], PORTS[2:] + PORTS[:2]):
        with pytest.raises(SettingsError, match=r"are \[9000, 9000\]; they must differ"):
            ServerSettings(**{free: 0, **dict.fromkeys(asked, 9000)})


def test_ports_that_nobody_asked_for_are_neither_equal_nor_left_to_chance() -> None:
    """Clients and scrapers find a server that was started without options."""
    assert len(set(ports())) == 3
    assert 0 not in ports()


def test_an_admin_key_restricts_both_protocols_and_is_sent_over_http() -> None:
    settings = ServerSettings(admin_key="s3:cr=et", triton_options=("--id=x",))
    grpc, http, last = settings.all_triton_options
    assert grpc == f"--grpc-restricted-protocol={RESTRICTED}:admin-key=s3:cr=et"
    assert http == f"--http-restricted-api={RESTRICTED}:admin-key=s3:cr=et"
    assert last == "--id=x"
    assert settings.http_headers == {"admin-key": "s3:cr=et"}
    assert "s3" not in repr(settings)


def test_keys_of_tritons_own_options_are_sent_too() -> None:
    settings = ServerSettings(
        triton_options=(
            "--http-restricted-api=model-repository,model-config:admin=one",
            "--http-restricted-api=statistics:reader=two=2",
            "--grpc-restricted-protocol=health:other=three",
        )
    )
    assert settings.http_headers == {"admin": "one", "reader": "two=2"}
    assert ServerSettings().http_headers == {}


@pytest.mark.parametrize("key", ["two words", "kéy", "line\n"])
def test_a_key_that_no_header_carries_is_refused_and_not_told(key: str) -> None:
    with pytest.raises(SettingsError, match="the admin key has a character") as caught:
        ServerSettings(admin_key=key)
    assert key not in str(caught.value)
