"""How a Triton is started."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from compositor_backend.errors import SettingsError

ROOT = Path(__file__).resolve().parents[1]
"""The folder that holds the rooms; Triton's Python models import them from here."""

DEFAULT_GRPC_PORT = 8001
DEFAULT_HTTP_PORT = 8000
DEFAULT_METRICS_PORT = 8002
DEFAULT_HEALTH_PORT = 8003


@dataclass(frozen=True)
class ServerSettings:
    """What to serve, where, and how.

    `model_repositories` hold what all avatars share; `models` names those of their models to load at
    the start, None for all of them. `avatars` is the repository of the avatars, None for none; `load`
    names the avatars to load at the start, `load_all` takes every one. Port 0 is any free port. `gpu`
    keeps the production configs, else a model's ``configs/embedded.pbtxt`` goes first. `gpu_slots`
    executions at a time are allowed where configs ask for the resource ``gpu_slot``. Without `log`
    Triton's log is kept only if something fails. `triton_options` go to tritonserver as they are.
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

    def __post_init__(self) -> None:
        """Refuse what cannot work, before anything is started."""
        for name in ("grpc_port", "http_port", "metrics_port"):
            if not 0 <= getattr(self, name) <= 65535:
                raise SettingsError(
                    f"{name} is {getattr(self, name)}; 0 to 65535 is wanted, 0 for any free one"
                )
        ports = [port for port in (self.grpc_port, self.http_port, self.metrics_port) if port]
        if len(set(ports)) != len(ports):
            raise SettingsError(f"grpc_port, http_port and metrics_port are {ports}; they must differ")
        if self.gpu_slots < 1:
            raise SettingsError(f"gpu_slots is {self.gpu_slots}; at least 1 is wanted")
        if self.start_timeout_s <= 0 or self.stop_timeout_s <= 0:
            raise SettingsError("start_timeout_s and stop_timeout_s must be above 0")
