"""Shared memory and disks that are full while eight viewers watch.

The server runs in a mount namespace of its own, where both are small; this needs root.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from client import AvatarPool, PoolSettings
from tests.functional.faults.conftest import BACK_WITHIN_S, FAILS_WITHIN_S, Catalogue
from tests.support.served import Served, serving
from tests.support.streams import Viewers, viewers

pytestmark = [pytest.mark.functional, pytest.mark.faults]
_log = logging.getLogger(__name__)

VIEWERS = 8
WARM_S = 120
FULL_S = 3.0
MOST = (2, 4)
"""Avatars that are loaded at a time, of four that are watched: with 2 of them, they come and go all the while."""
_OWN_MOUNTS = ("unshare", "--mount", "--propagation", "private")
_MOUNT = 'mount -t tmpfs -o size=192m tmpfs /dev/shm && mount -t tmpfs -o size=48m tmpfs "$0" && exec "$@"'


@dataclass(frozen=True)
class Confined:
    """A server, and its shared memory and its disk as they are seen from here."""

    served: Served
    shared_memory: Path
    disk: Path


@pytest.fixture(scope="module")
def confined(catalogue: Catalogue, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Confined]:
    if (
        shutil.which("unshare") is None
        or subprocess.run([*_OWN_MOUNTS, "true"], capture_output=True).returncode
    ):
        pytest.skip("mounts of one's own are not allowed here")
    disk = tmp_path_factory.mktemp("disk")
    before = (*_OWN_MOUNTS, "sh", "-c", _MOUNT, str(disk))
    with serving(catalogue.avatars, log=disk / "triton.log", before=before, TMPDIR=str(disk)) as served:
        root = Path(f"/proc/{served.launcher.pid}/root")
        yield Confined(served, root / "dev/shm", root / str(disk)[1:])


@contextmanager
def full(folder: Path) -> Iterator[None]:
    """Within the block not a byte more fits into the folder's file system."""
    filler = folder / "filler"
    try:
        with filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 16))
    except OSError:
        pass
    try:
        yield
    finally:
        filler.unlink()


@pytest.mark.parametrize("most", MOST)
async def test_shared_memory_that_is_full_for_a_while(
    confined: Confined, catalogue: Catalogue, most: int
) -> None:
    async with (
        AvatarPool([confined.served.url], PoolSettings(most=most, failed_s=1)) as pool,
        viewers(pool, catalogue.ids, VIEWERS, catalogue.source) as streams,
    ):
        await streams.each_served_since(0, WARM_S)
        struck_s = time.monotonic()
        with full(confined.shared_memory):
            await asyncio.sleep(FULL_S)
            await three_asked_for_since(streams, struck_s)
        await back(streams, "shared memory full")
    check_errors(streams, struck_s)


@pytest.mark.parametrize("most", MOST)
async def test_triton_that_dies_while_shared_memory_is_full(
    confined: Confined, catalogue: Catalogue, most: int
) -> None:
    async with (
        AvatarPool([confined.served.url], PoolSettings(most=most, failed_s=1)) as pool,
        viewers(pool, catalogue.ids, VIEWERS, catalogue.source) as streams,
    ):
        await streams.each_served_since(0, WARM_S)
        struck_s = time.monotonic()
        with full(confined.shared_memory):
            os.kill(confined.served.triton, signal.SIGKILL)
            await asyncio.sleep(FULL_S)
        await back(streams, "Triton killed with shared memory full")
    check_errors(streams, struck_s)


@pytest.mark.parametrize("most", MOST)
async def test_a_disk_that_is_full_while_triton_dies(
    confined: Confined, catalogue: Catalogue, most: int
) -> None:
    async with (
        AvatarPool([confined.served.url], PoolSettings(most=most, failed_s=1)) as pool,
        viewers(pool, catalogue.ids, VIEWERS, catalogue.source) as streams,
    ):
        await streams.each_served_since(0, WARM_S)
        struck_s = time.monotonic()
        with full(confined.disk):
            # Serving needs no disk but for the log, and loses at most that.
            await streams.each_served_since(time.monotonic(), WARM_S)
            await three_asked_for_since(streams, struck_s)
            assert not any(utterance.error for utterance in streams.all())
            struck_s = time.monotonic()
            os.kill(confined.served.triton, signal.SIGKILL)
            await asyncio.sleep(FULL_S)
        await back(streams, "Triton killed with the disk full")
    check_errors(streams, struck_s)


async def three_asked_for_since(streams: Viewers, moment_s: float) -> None:
    """Return when so many avatars were, well or not: where 2 are loaded at a time, others were loaded for it."""
    await streams.until(
        lambda: len({u.avatar for u in streams.all() if u.began_s >= moment_s}) > MOST[0], WARM_S
    )


async def back(streams: Viewers, fault: str) -> None:
    """Return when every viewer is served again, in time after the fault has been lifted."""
    lifted_s = time.monotonic()
    await streams.each_served_since(lifted_s, BACK_WITHIN_S)
    _log.info("%s: back after %.2f s", fault, time.monotonic() - lifted_s)


def check_errors(streams: Viewers, struck_s: float) -> None:
    """Who got an error did not wait for it long; nobody had one before."""
    for utterance in streams.all():
        if utterance.error:
            _log.info("%.2f s: %s", utterance.ended_s - struck_s, utterance.error)
            assert utterance.ended_s >= struck_s, utterance
            assert utterance.ended_s - max(struck_s, utterance.began_s) <= FAILS_WITHIN_S, utterance
