"""How a Triton is started."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from compositor_backend.errors import SettingsError

ROOT = Path(__file__).resolve().parents[1]
"""The folder that holds the rooms."""

DEFAULT_GRPC_PORT = 8001
DEFAULT_HTTP_PORT = 8000
DEFAULT_METRICS_PORT = 8002
DEFAULT_HEALTH_PORT = 8003

CLOSED = "model-repository,shared-memory,trace,logging"
"""Triton's protocols that are closed: with shared memory a client can make Triton read and write others' memory, with
trace and log settings write files. Inference, health, metadata, configs and statistics stay open."""


@dataclass(frozen=True)
class ServerSettings:
    """What to serve, where, and how.

    `model_repository` holds the models that serve all avatars, and is only read. `avatars` is the folder of the
    avatars, which need not exist yet; None is that of LIPSTREAM_AVATARS, or ``avatars`` beside the models. Port 0 is
    any free one. `gpu` keeps the production configs, else a model's ``configs/embedded.pbtxt`` goes first.
    `networks_mib` and `scratch_mib` bound a process's networks and the activations of one run, None leaves both to the
    models' own parameters; `cache` is where optimised graphs are kept, None for the user's cache folder.
    Without `log` Triton's log is kept only if something fails. `triton_options` go to tritonserver as they are.
    """

    model_repository: Path = ROOT / "model_repository"
    avatars: Path | None = None
    host: str = "127.0.0.1"
    grpc_port: int = DEFAULT_GRPC_PORT
    http_port: int = DEFAULT_HTTP_PORT
    metrics_port: int = DEFAULT_METRICS_PORT
    gpu: bool = False
    networks_mib: int | None = None
    scratch_mib: int | None = None
    cache: Path | None = None
    log: Path | None = None
    verbose: int = 0
    start_timeout_s: float = 120.0
    stop_timeout_s: float = 15.0
    triton_options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what cannot work, before anything is started."""
        check_ports(self.ports)
        for name in ("networks_mib", "scratch_mib"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SettingsError(f"{name}: expected 1 or more, got {value}")
        if self.start_timeout_s <= 0 or self.stop_timeout_s <= 0:
            raise SettingsError("start_timeout_s and stop_timeout_s: expected more than 0")
        if not self.model_repository.is_dir():
            raise SettingsError(f"there is no model repository {self.model_repository}")

    @property
    def ports(self) -> dict[str, int]:
        """Triton's, by name."""
        return {"grpc_port": self.grpc_port, "http_port": self.http_port, "metrics_port": self.metrics_port}


def check_ports(ports: Mapping[str, int]) -> None:
    """`SettingsError` if one of them is no port, or two are the same; 0 is any free one."""
    for name, port in ports.items():
        if not 0 <= port <= 65535:
            raise SettingsError(f"{name}: expected 0 to 65535 (0 is any free one), got {port}")
    asked = [port for port in ports.values() if port]
    if len(set(asked)) != len(asked):
        *names, last = ports
        raise SettingsError(f"{', '.join(names)} and {last} are {asked}; they must differ")
