"""What processes cost: CPU time and memory of a process and all that it started, from the kernel's own accounts."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from compositor_backend.errors import LipstreamError

SERVER = "tritonserver"
"""The role of Triton's own process; those of its Python processes are their models' names."""
_STUB = "triton_python_backend_stub"


class EndedError(LipstreamError):
    """A process that was to be measured is gone; the message is one sentence for the user."""


def cpu_s(pids: Iterable[int]) -> float:
    """CPU time, user and system, of those processes and all their descendants that live, in seconds.

    Of a process that ended since, nothing is counted: measure over a span in which none ends.
    """
    return sum(_cpu_s(process) for process in _trees(pids))


def pss_bytes(pids: Iterable[int]) -> int:
    """Proportional set size of those processes and their descendants: a page that n share counts as 1/n for each."""
    return sum(memory.pss for memory in memory_of(pids))


@dataclass(frozen=True)
class Memory:
    """A process and its memory in bytes: `pss` shares common pages fairly, `uss` is its own alone."""

    pid: int
    name: str
    pss: int
    uss: int


def memory_of(pids: Iterable[int]) -> list[Memory]:
    """The memory of each of those processes and their descendants, by process id."""
    found = []
    for process in _trees(pids):
        with suppress(psutil.NoSuchProcess):
            full = process.memory_full_info()
            found.append(Memory(process.pid, " ".join(process.cmdline()), full.pss, full.uss))
    return sorted(found, key=lambda memory: memory.pid)


def processes_by_role(pid: int) -> dict[str, list[psutil.Process]]:
    """The processes of a Triton: its own, and the Python ones by the model that they run.

    `EndedError` if one of them has ended.
    """
    roles: dict[str, list[psutil.Process]] = {}
    try:
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            roles.setdefault(_role(process.cmdline()), []).append(process)
    except psutil.NoSuchProcess as error:
        raise EndedError(
            f"process {error.pid} of Triton ended while it was measured; its log says why"
        ) from error
    return roles


def _role(command: list[str]) -> str:
    """A stub's first argument is <repository>/<model>/<version>/<file>."""
    is_stub = bool(command) and Path(command[0]).name == _STUB
    return Path(command[1]).parts[-3] if is_stub else SERVER


def _cpu_s(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


def _trees(pids: Iterable[int]) -> list[psutil.Process]:
    """Each process once, however many of the given ones it descends from."""
    found: dict[int, psutil.Process] = {}
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            root = psutil.Process(pid)
            for process in (root, *root.children(recursive=True)):
                found[process.pid] = process
    return list(found.values())
