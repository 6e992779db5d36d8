"""How a Triton is started."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from compositor_backend.errors import SettingsError

ROOT = Path(__file__).resolve().parents[1]
"""The folder that holds the rooms; Triton's Python models import them from here."""

DEFAULT_GRPC_PORT = 8001
DEFAULT_HTTP_PORT = 8000
DEFAULT_METRICS_PORT = 8002
DEFAULT_HEALTH_PORT = 8003

ADMIN_HEADER = "admin-key"
"""Over HTTP; over gRPC Triton puts ``triton-grpc-protocol-`` before it."""
RESTRICTED = "model-repository,model-config,shared-memory,statistics,trace,logging"
"""What wants the admin key: a load with a file override can run code. Inference, health and metadata stay open."""
_HTTP_RESTRICTED = re.compile(r"--http-restricted-api=[^:]*:(?P<header>[^=]+)=(?P<value>.*)")


@dataclass(frozen=True)
class ServerSettings:
    """What to serve, where, and how.

    `model_repositories` hold what all avatars share; `models` names those of their models to load at
    the start, None for all of them. `avatars` is the repository of the avatars, None for none; `load`
    names the avatars to load at the start, `load_all` takes every one. Port 0 is any free port. `gpu`
    keeps the production configs, else a model's ``configs/embedded.pbtxt`` goes first. `gpu_slots`
    executions at a time are allowed where configs ask for the resource ``gpu_slot``. Without `log`
    Triton's log is kept only if something fails. `triton_options` go to tritonserver as they are. With an
    `admin_key` whatever changes the server or tells of it wants that key, over gRPC and HTTP.
    """

    model_repositories: tuple[Path, ...] = (ROOT / "model_repository",)
    models: tuple[str, ...] | None = None
    avatars: Path | None = None
    load: tuple[str, ...] = ()
    load_all: bool = False
    host: str = "127.0.0.1"
    grpc_port: int = DEFAULT_GRPC_PORT
    http_port: int = DEFAULT_HTTP_PORT
    metrics_port: int = DEFAULT_METRICS_PORT
    gpu: bool = False
    gpu_slots: int = 8
    log: Path | None = None
    verbose: int = 0
    start_timeout_s: float = 120.0
    stop_timeout_s: float = 15.0
    triton_options: tuple[str, ...] = ()
    admin_key: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        """Refuse what cannot work, before anything is started."""
        check_ports(self.ports)
        if re.fullmatch("[!-~]*", self.admin_key) is None:
            raise SettingsError("the admin key has a character that a header cannot carry; ASCII is wanted")
        if self.gpu_slots < 1:
            raise SettingsError(f"gpu_slots is {self.gpu_slots}; at least 1 is wanted")
        if self.start_timeout_s <= 0 or self.stop_timeout_s <= 0:
            raise SettingsError("start_timeout_s and stop_timeout_s must be above 0")

    @property
    def ports(self) -> dict[str, int]:
        """Triton's, by name."""
        return {"grpc_port": self.grpc_port, "http_port": self.http_port, "metrics_port": self.metrics_port}

    @property
    def all_triton_options(self) -> tuple[str, ...]:
        """`triton_options`, and those that the admin key stands for."""
        if not self.admin_key:
            return self.triton_options
        restricted = f"{RESTRICTED}:{ADMIN_HEADER}={self.admin_key}"
        return (
            f"--grpc-restricted-protocol={restricted}",
            f"--http-restricted-api={restricted}",
            *self.triton_options,
        )

    @property
    def http_headers(self) -> dict[str, str]:
        """What a request over HTTP needs to be let in everywhere."""
        matches = (_HTTP_RESTRICTED.fullmatch(option) for option in self.all_triton_options)
        return {match["header"]: match["value"] for match in matches if match is not None}


def check_ports(ports: Mapping[str, int]) -> None:
    """`SettingsError` if one of them is no port, or two are the same; 0 is any free one."""
    for name, port in ports.items():
        if not 0 <= port <= 65535:
            raise SettingsError(f"{name} is {port}; 0 to 65535 is wanted, 0 for any free one")
    asked = [port for port in ports.values() if port]
    if len(set(asked)) != len(asked):
        *names, last = ports
        raise SettingsError(f"{', '.join(names)} and {last} are {asked}; they must differ")
