"""Runtimes of the CPU with a cache folder of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from compositor_backend.onnx_runtime import Device, Runtime


def cpu_runtime(
    cache: Path,
    *,
    warn: Callable[[str], None] = print,
    scratch_bytes: int | None = None,
    share_sessions: bool = False,
) -> Runtime:
    """With one thread, optimised graphs saved in `cache`; sessions shared as on a GPU if asked for."""
    return Runtime(
        Device("CPU"),
        threads=1,
        scratch_bytes=scratch_bytes,
        cache_folder=cache,
        load_timeout_s=60.0,
        warn=warn,
        share_sessions=share_sessions,
    )
