"""How a server is."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

RATE_OVER_S = 10.0


@dataclass(frozen=True)
class Health:
    """How a server is: `live` while it is watched, `ready` while Triton and all its models serve.

    `frames_per_s` is what the networks drew in the last ten seconds, `restarts` how often Triton had to be started
    again, and `trouble` the last thing that was wrong, empty if nothing was.
    """

    live: bool = True
    ready: bool = True
    frames_per_s: float = 0.0
    restarts: int = 0
    trouble: str = ""


class FrameRate:
    """Frames per second over the last ten, from a count that is read now and then."""

    def __init__(self) -> None:
        self._counts: deque[tuple[float, int]] = deque()

    def add(self, now_s: float, frames: int) -> float:
        """The rate, after `frames` in all since Triton started."""
        counts = self._counts
        counts.append((now_s, frames))
        while len(counts) > 2 and now_s - counts[1][0] >= RATE_OVER_S:
            counts.popleft()
        first_s, first = counts[0]
        return round((frames - first) / (now_s - first_s), 1) if now_s > first_s else 0.0
