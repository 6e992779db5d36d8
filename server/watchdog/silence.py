"""When something that does not answer is hung, and when it is only busy, or its machine is."""

from __future__ import annotations

from dataclasses import dataclass

HUNG_S = 8.0
"""After so long without an answer, and without a sign of work, something is hung."""
IDLE_CPU_S = 0.1
"""CPU time that a process takes in `HUNG_S` for its timers alone, at most."""
MIN_SAMPLES = 16
"""Looks that must have found no sign of work: a watch that was itself kept from running has too few."""
LONGEST_S = 60.0
LONGEST_CPU_S = 60.0
"""After so much of both without an answer something runs in circles: no request takes as much."""


@dataclass(frozen=True)
class Vitals:
    """What the processes of something do: CPU time so far, and whether a thread wants a CPU or a disk right now."""

    cpu_s: float
    wants_to_run: bool


class Silence:
    """Something that does not answer, from the first answer that was missed on.

    Time alone proves nothing: on a busy machine answers come late. But a process that has work to do there either gets
    CPU time or is seen waiting for it (or for a disk), and a hung one does neither.
    """

    def __init__(self, now_s: float, vitals: Vitals) -> None:
        self._began_s = self._now_s = now_s
        self._first_cpu_s = self._cpu_s = vitals.cpu_s
        self._rest(now_s, vitals.cpu_s)

    def sample(self, now_s: float, vitals: Vitals) -> None:
        """Look at it; CPU time that it took since it was last found at work is a sign of work."""
        self._now_s, self._cpu_s = now_s, vitals.cpu_s
        if vitals.cpu_s - self._idle_cpu_s > IDLE_CPU_S:
            self._rest(now_s, vitals.cpu_s)
        self._samples += 1
        self._wanting += vitals.wants_to_run

    @property
    def hung(self) -> bool:
        """Whether it is taken for hung."""
        return self._idle or self._runs_in_circles

    @property
    def _idle(self) -> bool:
        long_enough = self._now_s - self._idle_since_s >= HUNG_S and self._samples >= MIN_SAMPLES
        return long_enough and 2 * self._wanting < self._samples

    @property
    def _runs_in_circles(self) -> bool:
        return self._now_s - self._began_s >= LONGEST_S and self._cpu_s - self._first_cpu_s >= LONGEST_CPU_S

    def _rest(self, now_s: float, cpu_s: float) -> None:
        self._idle_since_s, self._idle_cpu_s = now_s, cpu_s
        self._samples = self._wanting = 0
