"""Whether the processes of a Triton are there, and go on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from server.launcher import TRITON
from server.processes import DEAD, STOPPED, Process, read_process, wants_to_run
from server.watchdog.silence import Vitals

STOPPED_S = 1.0
"""How long a process may be stopped (SIGSTOP).

After a second Triton gives up the requests that a process of a model has in hand. If that one goes on then, it answers
into memory that is no longer its own: Triton 2.51 crashed or lost a process in two tries of two. So it is not told to.
"""


@dataclass
class _Member:
    name: str
    started: int | None
    """As in `Process`; None of one that was gone when the watch began."""
    stopped_since_s: float | None = None

    @property
    def subject(self) -> str:
        return self.name if self.name == TRITON else f"a process of {self.name}"


class ProcessWatch:
    """Looks after the processes of one Triton.

    With static models these stay the same from the start to the end: one that is missing has died.
    """

    def __init__(
        self,
        names: Mapping[int, str],
        *,
        clock: Callable[[], float],
        read: Callable[[int], Process | None] = read_process,
    ) -> None:
        """`names` says of each process id what runs there."""
        self._clock = clock
        self._read = read
        self._members = {pid: _Member(name, self._started(pid)) for pid, name in names.items()}

    def problem(self) -> str:
        """Which process has died, or was stopped; empty if none."""
        for pid, member in self._members.items():
            process = self._read(pid)
            if process is None or process.state == DEAD or process.started != member.started:
                return f"{member.subject} has died"
            if self._stopped_s(member, process) >= STOPPED_S:
                return f"{member.subject} was stopped"
        return ""

    def vitals(self, name: str) -> Vitals:
        """What the processes of that name do."""
        pids = [pid for pid, member in self._members.items() if member.name == name]
        processes = [process for pid in pids if (process := self._read(pid)) is not None]
        return Vitals(sum(process.cpu_s for process in processes), any(wants_to_run(pid) for pid in pids))

    def _started(self, pid: int) -> int | None:
        process = self._read(pid)
        return None if process is None else process.started

    def _stopped_s(self, member: _Member, process: Process) -> float:
        if process.state != STOPPED:
            member.stopped_since_s = None
            return 0.0
        if member.stopped_since_s is None:
            member.stopped_since_s = self._clock()
        return self._clock() - member.stopped_since_s
