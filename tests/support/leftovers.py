"""Finds what a server left behind: processes, shared memory, run folders."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from server.supervisor import SHARED_MEMORY


@dataclass(frozen=True)
class Leftovers:
    """What there is of servers whose temporary folder is `folder`."""

    folder: Path

    def processes(self) -> list[str]:
        """Command lines of the supervisor, of Triton and of its stubs, by the run folder that they name."""
        lines = (_command_line(path) for path in Path("/proc").glob("[0-9]*"))
        return [line for line in lines if str(self.folder) in line]

    def files(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())

    def shared_memory(self, pid: int | None = None) -> list[str]:
        """Segments of servers that process `pid` started, this one by default."""
        return [path.name for path in SHARED_MEMORY.glob(f"lipstream_{pid or os.getpid()}_*")]

    def assert_none_within(self, timeout_s: float, pid: int | None = None) -> None:
        """Nothing is there, or is gone before `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while found := [*self.processes(), *self.files(), *self.shared_memory(pid)]:
            assert time.monotonic() < deadline, found
            time.sleep(0.05)


def _command_line(process: Path) -> str:
    try:
        return (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
