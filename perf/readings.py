"""What the server's processes hold in memory, by what it is for."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from compositor_backend.memory import REST_S
from perf.mappings import mapped_pss
from perf.processes import processes_by_role
from server.launcher import TritonServer

PACK, SHARED, TRITON = "avatars' packs", "shared memory", "tritonserver"
SETTLED_WITHIN_S = 1.0


@dataclass(frozen=True)
class Reading:
    """Proportional set size in bytes of all processes, by what holds it: packs, shared memory, or a process's role."""

    parts: Mapping[str, int]

    @property
    def total(self) -> int:
        """Of all processes."""
        return sum(self.parts.values())

    def without(self, *parts: str) -> int:
        """Of all processes, but for some parts."""
        return sum(size for part, size in self.parts.items() if part not in parts)


def read(server: TritonServer, avatars: Path) -> Reading:
    """What the server's processes hold now; `avatars` is the folder that packs are mapped from."""
    folder = f"{avatars.resolve()}/"
    parts: dict[str, int] = {}
    for role, processes in processes_by_role(server.pid).items():
        for process in processes:
            for name, pss in mapped_pss(process.pid).items():
                part = _part(role, name, folder)
                parts[part] = parts.get(part, 0) + pss
    return Reading(parts)


def read_at_rest(server: TritonServer, avatars: Path) -> Reading:
    """The same once the processes have had the time to give freed memory back."""
    time.sleep(REST_S + SETTLED_WITHIN_S)
    return read(server, avatars)


def _part(role: str, mapping: str, avatars: str) -> str:
    if mapping.startswith(avatars) and mapping.endswith(".npy"):
        return PACK
    return SHARED if mapping.startswith("/dev/shm/") else role
