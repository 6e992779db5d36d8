from __future__ import annotations

from typing import Any

import pytest

from compositor_backend.errors import SettingsError
from server.settings import ServerSettings


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


def test_several_ports_may_be_left_to_chance() -> None:
    ServerSettings(grpc_port=0, http_port=0, metrics_port=0)
