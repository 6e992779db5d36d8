"""What a server takes of the machine: memory, handles, shared memory and processes of Triton and its stubs."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from server import processes
from tests.support.served import Served

SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class Footprint:
    """Of tritonserver and its stubs together; `memory` is their proportional share (PSS) in bytes."""

    memory: int
    handles: int
    segments: int
    stubs: int


def footprint(served: Served) -> Footprint:
    """As it is now; processes that end meanwhile count as nothing."""
    stubs = [stub.pid for stub in processes.stubs(served.supervisor) if stub.state != processes.DEAD]
    every = [served.triton, *stubs]
    prefix = f"lipstream_{served.launcher.pid}_"
    return Footprint(
        memory=sum(map(_pss, every)),
        handles=sum(map(_handles, every)),
        segments=len(list(SHARED_MEMORY.glob(f"{prefix}*"))),
        stubs=len(stubs),
    )


async def settled(served: Served, stubs: int, within_s: float = 120, rest_s: float = 3.0) -> Footprint:
    """The footprint once there are no more than so many stubs, and they have given back what they had freed."""
    async with asyncio.timeout(within_s):
        while footprint(served).stubs > stubs:
            await asyncio.sleep(0.2)
        await asyncio.sleep(rest_s)
    return footprint(served)


def _pss(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return sum(int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith("Pss:"))


def _handles(pid: int) -> int:
    try:
        return len(list(Path(f"/proc/{pid}/fd").iterdir()))
    except OSError:
        return 0
