"""Thousands of avatars loaded and unloaded, one after another: what an unload gives back."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from client import LipstreamClient
from tests.functional.faults.conftest import make_catalogue
from tests.support.footprint import footprint, settled
from tests.support.served import serving
from tests.support.streams import noise

pytestmark = [pytest.mark.functional, pytest.mark.storm]
_log = logging.getLogger(__name__)

CYCLES = int(os.environ.get("LIPSTREAM_UNLOADS", "2000"))
AVATARS = 40
PARTS = 5
"""After each of them Triton's memory is read at rest: while it is at work, what is on its way out counts too."""
FRAMES = 5


async def test_triton_does_not_grow(tmp_path: Path) -> None:
    catalogue = make_catalogue(tmp_path, AVATARS)
    with serving(catalogue.avatars, log=tmp_path / "triton.log") as served:
        at_first = footprint(served)
        resident: list[int] = []
        async with LipstreamClient(served.url) as client:
            for part in range(PARTS):
                for cycle in range(CYCLES * part // PARTS, CYCLES * (part + 1) // PARTS):
                    avatar = catalogue.ids[cycle % AVATARS]
                    await client.load(avatar)
                    frames = [frame async for frame in client.speak(avatar, noise(FRAMES, cycle))]
                    assert len(frames) == FRAMES
                    await client.unload(avatar)
                at_last = await settled(served, at_first.stubs + 1)  # and the audio encoder, which stays
                resident.append(resident_bytes(served.triton))
        health = served.health()
    _log.info("%d cycles; tritonserver at rest %s MB", CYCLES, [round(size / 1e6) for size in resident])
    _log.info("at first %s, at last %s", at_first, at_last)
    assert resident[-1] <= 1.1 * resident[0]
    assert at_last.segments <= at_first.segments + 1
    assert (health["repairs"], health["restarts"]) == (0, 0)


def resident_bytes(pid: int) -> int:
    """RSS of a process."""
    pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
