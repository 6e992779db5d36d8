"""The processes of a running Triton, as Linux lists them in ``/proc``."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_STUB = "triton_python_b"
"""What the kernel keeps of the name ``triton_python_backend_stub``."""
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
# Which of the fields after the name (proc(5)) are CPU time in user mode and in the kernel, and the time of the start.
_UTIME, _STIME, _STARTTIME = 11, 12, 19
DEAD = "Z"
STOPPED = "T"
_WANTS_TO_RUN = frozenset("RD")
"""On a CPU or waiting for one; waiting for a disk."""
_GONE = (FileNotFoundError, ProcessLookupError, PermissionError)
"""What reading of a process that is not there, or not for us, fails with.

Another failure, such as of too many open files, says nothing about the process, and is the caller's.
"""


@dataclass(frozen=True)
class Process:
    """A process: its parent, the kernel's letter for its state (proc(5)), and its name cut to 15 characters.

    `cpu_s` is the CPU time that it has had. `started` (ticks since the machine's start) and `pid` together are never
    another process's.
    """

    pid: int
    parent: int
    state: str
    name: str
    cpu_s: float = 0.0
    started: int = 0


@dataclass(frozen=True)
class Stub:
    """A process that runs a Python model; `version_folder` is None of one that has died."""

    pid: int
    state: str
    version_folder: Path | None

    @property
    def model(self) -> str | None:
        """The model's name."""
        return None if self.version_folder is None else self.version_folder.parent.name


def tritonserver(supervisor: int) -> int | None:
    """The process id of the tritonserver that a supervisor runs, None if it has none."""
    return next((process.pid for process in _processes() if process.parent == supervisor), None)


def stubs(supervisor: int) -> list[Stub]:
    """Stubs of the tritonserver that a supervisor runs, zombies among them."""
    processes = _processes()
    servers = {process.pid for process in processes if process.parent == supervisor}
    return [
        Stub(process.pid, process.state, _version_folder(process.pid))
        for process in processes
        if process.parent in servers and process.name == _STUB
    ]


def read_process(pid: int) -> Process | None:
    """How a process is now, None if there is none."""
    fields = _read(_PROC / str(pid))
    return None if fields is None else _parse(pid, fields)


def wants_to_run(pid: int) -> bool:
    """Whether a thread of a process runs, waits for a CPU, or waits for a disk at this moment."""
    try:
        threads = list((_PROC / str(pid) / "task").iterdir())
    except _GONE:
        return False
    texts = (_read(thread) for thread in threads)
    return any(_parse(pid, text).state in _WANTS_TO_RUN for text in texts if text is not None)


def kill_stubs(run_folder: Path) -> None:
    """Kill the stubs that were started from a run folder and have outlived their Triton."""
    for process in _processes():
        if process.name == _STUB and _runs_from(process.pid, run_folder):
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)


def _runs_from(pid: int, folder: Path) -> bool:
    try:
        program = (_PROC / str(pid) / "cmdline").read_bytes().split(b"\0")[0]
    except _GONE:
        return False
    return Path(program.decode(errors="surrogateescape")).is_relative_to(folder)


def _processes() -> list[Process]:
    numbers = (int(path.name) for path in _PROC.iterdir() if path.name.isdigit())
    return [process for pid in numbers if (process := read_process(pid)) is not None]


def _read(folder: Path) -> str | None:
    """``stat`` of a process or a thread, None if it has gone meanwhile."""
    try:
        # The kernel cuts names at 15 bytes, in the middle of a character too.
        return (folder / "stat").read_text("utf-8", errors="surrogateescape")
    except _GONE:
        return None


def _parse(pid: int, text: str) -> Process:
    # The name stands in brackets and may itself hold any character.
    name, _, rest = text.partition("(")[2].rpartition(")")
    fields = rest.split()
    ticks = int(fields[_UTIME]) + int(fields[_STIME])
    return Process(pid, int(fields[1]), fields[0], name, ticks / _TICKS_PER_S, int(fields[_STARTTIME]))


def _version_folder(pid: int) -> Path | None:
    """The folder of the file that the stub was started with, such as ``…/compositor/1``."""
    try:
        arguments = (_PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
    except _GONE:
        return None
    return Path(arguments[1].decode(errors="surrogateescape")).parent if len(arguments) > 1 else None
