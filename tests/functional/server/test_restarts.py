"""What the watch makes of a real Triton that dies, is stopped, or hangs."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from server.errors import StartError
from server.launcher import TritonServer
from server.watchdog.watch import Watch
from tests.functional.server.conftest import HANG, doubled, triton
from tests.support.leftovers import Leftovers

pytestmark = pytest.mark.functional

WITHIN_S = 60.0
X = np.array([1, 2, 3], np.float32)


@contextmanager
def watched(server: TritonServer) -> Iterator[Watch]:
    """A watch of the server, in a thread as the launcher's."""
    watch, stop = Watch(server), threading.Event()
    thread = threading.Thread(target=watch.run, args=[stop])
    thread.start()
    try:
        yield watch
    finally:
        stop.set()
        thread.join()


def wait_until(condition: Callable[[], Any]) -> None:
    end_s = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("name", ["catalog", "Triton"])
def test_a_process_that_dies_or_is_stopped_means_a_new_triton_at_the_same_address(
    repository: Path, tmp_path: Path, leftovers: Leftovers, name: str, number: signal.Signals
) -> None:
    log = tmp_path / "triton.log"
    with triton(repository, log=log) as server, watched(server) as watch:
        url, first_log = server.grpc_url, log.read_text()
        (pid,) = (pid for pid, runs in server.processes().items() if runs == name)
        os.kill(pid, number)
        wait_until(lambda: watch.health.restarts)
        assert name in watch.health.trouble
        assert watch.health.ready
        assert server.grpc_url == url
        assert doubled(url, X).tolist() == [2, 4, 6]
        assert pid not in server.processes()
        assert log.read_text().startswith(first_log)
    leftovers.assert_none_within(0)


@pytest.mark.slow
def test_a_model_that_hangs_means_a_new_triton(repository: Path, leftovers: Leftovers) -> None:
    with triton(repository) as server, watched(server) as watch:
        with pytest.raises(InferenceServerException):
            doubled(server.grpc_url, HANG, timeout_s=1)
        wait_until(lambda: watch.health.restarts)
        assert "catalog" in watch.health.trouble
        assert doubled(server.grpc_url, X).tolist() == [2, 4, 6]
    # What had to be started again keeps its log.
    (log,) = leftovers.folder.glob("*.log")
    log.unlink()
    leftovers.assert_none_within(0)


def test_a_triton_that_does_not_come_up_again_is_tried_again_until_it_does(
    repository: Path, tmp_path: Path, leftovers: Leftovers
) -> None:
    model = repository / "catalog" / "1" / "model.py"
    good = model.read_text()
    with triton(repository, log=tmp_path / "triton.log") as server, watched(server) as watch:
        model.write_text("import no_such_package")
        (pid,) = (pid for pid, runs in server.processes().items() if runs == "catalog")
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: "no_such_package" in watch.health.trouble)
        assert (watch.health.live, watch.health.ready) == (True, False)
        model.write_text(good)
        wait_until(lambda: watch.health.ready)
        assert doubled(server.grpc_url, X).tolist() == [2, 4, 6]
    leftovers.assert_none_within(0)


def test_a_restart_can_be_given_up(repository: Path, tmp_path: Path, leftovers: Leftovers) -> None:
    cancelled = threading.Event()
    cancelled.set()
    with (
        triton(repository, log=tmp_path / "triton.log") as server,
        pytest.raises(StartError),
    ):
        server.restart(cancelled, lambda: None)
    leftovers.assert_none_within(0)
