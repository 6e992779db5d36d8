"""What the watch and the launcher make of a real Triton that restricts its interface, or lacks a model."""

from __future__ import annotations

import os
import signal
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from server.errors import StartError, TritonRefusedError
from server.launcher import TritonServer
from server.processes import DEAD
from server.triton_http import TritonHttp
from server.watch import Watch
from tests.support.leftovers import Leftovers
from tests.support.onnx_models import DOUBLING_CONFIG, doubling_graph, write_model
from tests.support.triton import running_triton

pytestmark = pytest.mark.functional

WITHIN_S = 30.0


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A model repository with the model ``tiny``."""
    folder = tmp_path / "models"
    write_model(folder, "tiny", doubling_graph(), DOUBLING_CONFIG)
    return folder


@contextmanager
def watched(server: TritonServer, *shared: str) -> Iterator[Watch]:
    """A watch of the server, in a thread as the launcher's."""
    watch, stop = Watch(server, shared), threading.Event()
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


def without_key(server: TritonServer) -> TritonHttp:
    url = urllib.parse.urlparse(server.http_url)
    return TritonHttp(str(url.hostname), int(url.port or 0), 0)


@pytest.mark.parametrize(
    "settings",
    [
        {"admin_key": "s3:cr=et"},
        {
            "triton_options": (
                "--http-restricted-api=model-repository,health:admin=one",
                "--http-restricted-api=statistics,metadata:reader=two",
            )
        },
    ],
    ids=["key", "options"],
)
def test_with_model_control_and_statistics_restricted_a_dead_stub_is_mended(
    repository: Path, leftovers: Leftovers, settings: dict[str, Any]
) -> None:
    # A Triton with a dead stub does not end in good order; it is not to be waited for.
    with running_triton([repository], stop_timeout_s=6, **settings) as server:
        stranger = without_key(server)
        with pytest.raises(TritonRefusedError):
            stranger.counts()
        with pytest.raises(TritonRefusedError):
            stranger.unload("tiny", 5)
        with watched(server, "tiny") as watch:
            wait_until(lambda: watch._seen.loaded)
            (stub,) = server.stubs()
            os.kill(stub.pid, signal.SIGKILL)
            wait_until(lambda: watch.health.repairs)
            assert watch.health.trouble == "a process of tiny died"
            assert [new.pid for new in server.stubs() if new.state != DEAD] != [stub.pid]
        assert watch.health.restarts == 0
    leftovers.assert_none_within(0)


def test_a_shared_model_that_somebody_unloads_is_loaded_again(repository: Path, leftovers: Leftovers) -> None:
    with running_triton([repository]) as server, watched(server, "tiny") as watch:
        wait_until(lambda: watch._seen.loaded)
        server.http.unload("tiny", 5)
        wait_until(lambda: watch.health.repairs)
        assert server.http.ready("tiny")
        assert (watch.health.restarts, watch.health.trouble) == (0, "tiny was unloaded")
    leftovers.assert_none_within(0)


def test_a_start_that_lacks_a_shared_model_fails_at_once_with_the_reason(
    repository: Path, tmp_path: Path, leftovers: Leftovers
) -> None:
    log = tmp_path / "triton.log"
    with running_triton([repository], log=log) as server:
        # Loaded beside it, and broken by now; a model that may be missing makes Triton come up without either.
        write_model(repository, "wrong", doubling_graph(), DOUBLING_CONFIG.replace("[ 4 ]", "[ 5 ]"))
        began_s = time.monotonic()
        with pytest.raises(StartError, match=r"came up without wrong: wrong: input X is \[-1, 5\]"):
            server.restart(["tiny", "wrong"], ["avatar_gone"], threading.Event(), lambda: None)
        assert time.monotonic() - began_s < WITHIN_S
    leftovers.assert_none_within(0)
