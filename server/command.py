"""The backend folder, command line and environment of tritonserver."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from compositor_backend.settings import (
    AVATARS_VARIABLE,
    CACHE_VARIABLE,
    DEFAULT_AVATARS_NAME,
    NETWORK_CACHE_VARIABLE,
    SCRATCH_VARIABLE,
)
from server.installation import STUB, Installation
from server.settings import CLOSED, ROOT, ServerSettings

BACKENDS = "backends"
MODELS = "model_repository"
KEY_HEADER = "lipstream-key"

STUB_TIMEOUT_S = 120
"""A stub imports onnxruntime while others do: longer than Triton's 30 s where the machine is small."""


@dataclass(frozen=True)
class Ports:
    """The three ports, none of them 0."""

    grpc: int
    http: int
    metrics: int


def lay_out_backends(installation: Installation, folder: Path) -> None:
    """Fill `folder` with Triton's Python backend and the stub of this interpreter."""
    python = folder / "python"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(installation.python_backend, python, ignore=ignored)
    stub = python / STUB
    shutil.copyfile(installation.stub, stub)
    stub.chmod(0o755)


def lay_out_models(model_repository: Path, folder: Path) -> None:
    """Fill `folder` with links to the files of a model repository.

    A stub writes what it compiles beside the model.py that it is given, and nothing is written into the repository.
    (Stubs of Python 3.11 and later take no notice of PYTHONDONTWRITEBYTECODE or PYTHONPYCACHEPREFIX.)
    """

    def link(source: str, target: str) -> None:
        Path(target).symlink_to(Path(source).resolve())

    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(model_repository, folder, ignore=ignored, copy_function=link)


def triton_command(
    settings: ServerSettings,
    installation: Installation,
    run_folder: Path,
    ports: Ports,
    shm_prefix: str,
    key: str,
) -> list[str]:
    """The command line of tritonserver, whose `BACKENDS` and `MODELS` lie in `run_folder`.

    `shm_prefix` begins the names of its segments in ``/dev/shm``; `key` opens the protocols that are closed.
    """
    closed = f"{CLOSED}:{KEY_HEADER}={key}"
    return [
        str(installation.binary),
        f"--model-repository={run_folder / MODELS}",
        f"--backend-directory={run_folder / BACKENDS}",
        # Avatars are data: no model is ever loaded or unloaded while Triton runs.
        "--model-control-mode=none",
        # Every config is written out in full; completing one costs a Python process and 1.2 s for each load.
        "--disable-auto-complete-config",
        *([] if settings.gpu else ["--model-config-name=embedded", "--pinned-memory-pool-byte-size=0"]),
        f"--allow-gpu-metrics={'true' if settings.gpu else 'false'}",
        *_address_options(settings.host, ports),
        *_keepalive_options(),
        f"--grpc-restricted-protocol={closed}",
        f"--http-restricted-api={closed}",
        f"--backend-config=python,shm-region-prefix-name={shm_prefix}",
        f"--backend-config=python,stub-timeout-seconds={STUB_TIMEOUT_S}",
        f"--exit-timeout-secs={max(1, int(settings.stop_timeout_s) - 5)}",
        f"--log-verbose={settings.verbose}",
        *settings.triton_options,
    ]


ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": 32 << 20,
    "MALLOC_TRIM_THRESHOLD_": 128 << 20,
    "MALLOC_TOP_PAD_": 16 << 20,
    "MALLOC_ARENA_MAX": 2,
}
"""glibc's malloc: up to which size a block comes from the heap, how much freed heap a process keeps, in bytes, and how
many heaps there are. By default each of Triton's threads has its own, with holes of its own: some 25 MB more, and it
takes thousands of requests until they stop growing. What a frame costs is the same with two (perf's `serving_cost`)."""


def triton_environment(
    settings: ServerSettings, installation: Installation, environment: Mapping[str, str]
) -> dict[str, str]:
    """`environment` with what tritonserver and its Python stubs need on top."""
    result = dict(environment)
    _prepend(result, "LD_LIBRARY_PATH", *installation.library_folders)
    # The stubs take their packages, ours among them, from the first python3 in PATH. PYTHONPATH is for Python 3.10:
    # stubs of later versions take no notice of it.
    _prepend(result, "PATH", Path(sys.executable).parent)
    _prepend(result, "PYTHONPATH", ROOT)
    chosen = {
        AVATARS_VARIABLE: _avatars_folder(settings, environment),
        NETWORK_CACHE_VARIABLE: settings.networks_mib,
        SCRATCH_VARIABLE: settings.scratch_mib,
        CACHE_VARIABLE: settings.cache and settings.cache.resolve(),
    }
    result.update({name: str(value) for name, value in chosen.items() if value is not None})
    # Frames come and go by the megabyte; an allocator that hands such blocks back to the kernel, and faults every
    # page in again for the next frame, takes as long over that as the compositor takes over a frame.
    for name, value in ALLOCATOR.items():
        result.setdefault(name, str(value))
    # There is a process for each instance: more threads in each only get in each other's way.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        result.setdefault(name, "1")
    # Since 1.29 onnxruntime tells its makers about every model that it loads, unless told not to.
    result["ORT_DISABLE_TELEMETRY"] = "1"
    return result


def _avatars_folder(settings: ServerSettings, environment: Mapping[str, str]) -> Path:
    """Always given: the models' own default hangs on where Triton finds them."""
    beside_models = settings.model_repository.resolve().parent / DEFAULT_AVATARS_NAME
    return (settings.avatars or Path(environment.get(AVATARS_VARIABLE) or beside_models)).resolve()


def _address_options(host: str, ports: Ports) -> list[str]:
    return [
        f"--grpc-address={host}",
        f"--grpc-port={ports.grpc}",
        f"--http-address={host}",
        f"--http-port={ports.http}",
        f"--metrics-address={host}",
        f"--metrics-port={ports.metrics}",
    ]


def _keepalive_options() -> list[str]:
    """Clients ping every 10 s, calls or none; a client that is gone is noticed within 30 s."""
    return [
        "--grpc-http2-min-recv-ping-interval-without-data=5000",
        "--grpc-http2-max-pings-without-data=0",
        "--grpc-http2-max-ping-strikes=5",
        "--grpc-keepalive-permit-without-calls=1",
        "--grpc-keepalive-time=20000",
        "--grpc-keepalive-timeout=10000",
    ]


def _prepend(environment: dict[str, str], name: str, *folders: Path) -> None:
    before = [environment[name]] if environment.get(name) else []
    environment[name] = os.pathsep.join([*map(str, folders), *before])
