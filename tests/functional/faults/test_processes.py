"""Processes that die or hang while eight viewers watch: what the viewers see of it, and how soon it is over."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from client import AvatarPool, PoolSettings
from tests.functional.faults.conftest import BACK_WITHIN_S, FAILS_WITHIN_S, Catalogue
from tests.support.served import Served, serving
from tests.support.streams import Viewers, viewers

pytestmark = pytest.mark.functional
_log = logging.getLogger(__name__)

VIEWERS = 8
WARM_S = 120
STOPPED_S = 10


@pytest.fixture
def served(catalogue: Catalogue, tmp_path: Path) -> Iterator[Served]:
    """One for each fault: of a Triton that dies again and again the restarts are put off for longer each time."""
    with serving(catalogue.avatars, log=tmp_path / "triton.log") as server:
        yield server


def kill_compositor(served: Served, _: Catalogue) -> None:
    os.kill(served.stubs("compositor")[0], signal.SIGKILL)


def kill_every_compositor(served: Served, _: Catalogue) -> None:
    for pid in served.stubs("compositor"):
        os.kill(pid, signal.SIGKILL)


def kill_network(served: Served, catalogue: Catalogue) -> None:
    os.kill(served.stubs(f"lipsync_{catalogue.ids[0]}")[0], signal.SIGKILL)


def kill_triton(served: Served, _: Catalogue) -> None:
    os.kill(served.triton, signal.SIGKILL)


def kill_supervisor(served: Served, _: Catalogue) -> None:
    os.kill(served.supervisor, signal.SIGKILL)


def stop_network(served: Served, catalogue: Catalogue) -> None:
    _stop(served.stubs(f"lipsync_{catalogue.ids[0]}")[0])


def stop_avatar_frames(served: Served, _: Catalogue) -> None:
    _stop(served.stubs("avatar_frames")[0])


def stop_triton(served: Served, _: Catalogue) -> None:
    os.kill(served.triton, signal.SIGSTOP)


def _stop(pid: int) -> None:
    """As a debugger or an operator's SIGSTOP does, and go on after ten seconds, if it is still there."""
    os.kill(pid, signal.SIGSTOP)

    def go_on() -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    asyncio.get_running_loop().call_later(STOPPED_S, go_on)


BRIEFLY = (kill_compositor, kill_triton, stop_network)
"""In `make test`, where the others would take too long."""
FAULTS = (
    kill_compositor,
    kill_every_compositor,
    kill_network,
    kill_triton,
    kill_supervisor,
    stop_network,
    stop_avatar_frames,
    stop_triton,
)


@pytest.mark.parametrize(
    "fault",
    [fault if fault in BRIEFLY else pytest.param(fault, marks=pytest.mark.faults) for fault in FAULTS],
)
async def test_viewers_get_all_frames_or_an_error_and_service_is_back(
    served: Served, catalogue: Catalogue, fault: Callable[[Served, Catalogue], None]
) -> None:
    async with (
        AvatarPool([served.url], PoolSettings(most=len(catalogue.ids))) as pool,
        viewers(pool, catalogue.ids, VIEWERS, catalogue.source) as streams,
    ):
        await streams.each_served_since(0, WARM_S)
        struck_s = time.monotonic()
        fault(served, catalogue)
        await streams.each_served_since(struck_s, BACK_WITHIN_S)
        back_s = time.monotonic()
        _log.info("%s: back after %.2f s", fault.__name__, back_s - struck_s)
        # And it stays so, for every avatar.
        await streams.each_served_since(back_s, WARM_S)
    check_errors(streams, struck_s)
    async with asyncio.timeout(WARM_S):
        # What is loaded is looked at every other second.
        while set((health := await asyncio.to_thread(served.health))["residents"]) != set(catalogue.ids):
            await asyncio.sleep(0.1)
    assert health["live"]
    assert health["ready"]
    assert health["repairs"] + health["restarts"] > 0


def check_errors(streams: Viewers, struck_s: float) -> None:
    """Who got an error did not wait for it long; nobody had one before."""
    for utterance in streams.all():
        if utterance.error:
            assert utterance.ended_s >= struck_s, utterance
            assert utterance.ended_s - max(struck_s, utterance.began_s) <= FAILS_WITHIN_S, utterance
