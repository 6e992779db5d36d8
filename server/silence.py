"""When something that does not answer is hung, and when it is only busy, or its machine is."""

from __future__ import annotations

from dataclasses import dataclass

HUNG_S = 8.0
"""After so long without an answer, and without CPU time: a process that wants to work gets some on any machine."""
IDLE_CPU_S = 0.1
"""CPU time that a process which does nothing takes in `HUNG_S`, for its timers, at most."""
LONGEST_S = 60.0
"""After so long without an answer something is hung even if its processes are at work: they turn in circles."""


@dataclass
class Silence:
    """How long something has not answered, and what CPU time its processes had when that began."""

    since_s: float | None = None
    cpu_s: float = 0.0
    proven: bool = False

    @property
    def begun(self) -> bool:
        """Whether the last answer is missing."""
        return self.since_s is not None

    def end(self) -> None:
        """It has answered."""
        self.since_s = None

    def go_on(self, now_s: float, cpu_s: float) -> None:
        """It has not answered, though it has had `cpu_s` of CPU time in its life.

        CPU time that it goes on to take is a sign of life, and begins the wait for the next one.
        """
        if self.since_s is None:
            self.since_s, self._first_s, self.cpu_s = now_s, now_s, cpu_s
        elif cpu_s - self.cpu_s > IDLE_CPU_S:
            self.since_s, self.cpu_s = now_s, cpu_s

    def prove(self) -> None:
        """It is known not to answer any more."""
        self.proven = True

    def hung(self, now_s: float, cpu_s: float) -> bool:
        """Whether it is taken for hung now."""
        if self.proven:
            return True
        if self.since_s is None:
            return False
        idle = now_s - self.since_s >= HUNG_S and cpu_s - self.cpu_s <= IDLE_CPU_S
        return idle or now_s - self._first_s >= LONGEST_S

    _first_s: float = 0.0
