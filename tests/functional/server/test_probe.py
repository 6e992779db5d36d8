"""The health check of a container, on a real Triton whose stubs are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.parse

import pytest

from server.launcher import TritonServer
from server.settings import ROOT
from tests.support.triton import running_triton

pytestmark = pytest.mark.functional


def probe(server: TritonServer, *arguments: str) -> subprocess.CompletedProcess[str]:
    ports = [urllib.parse.urlparse(url).port for url in (server.http_url, server.metrics_url)]
    line = ["--http-port", str(ports[0]), "--metrics-port", str(ports[1]), *arguments]
    return subprocess.run(
        [sys.executable, "-m", "server.probe", *line], cwd=ROOT, capture_output=True, text=True, timeout=60
    )


def test_a_dead_stub_is_told_and_the_container_ended() -> None:
    restricted = "--http-restricted-api=model-repository,model-config:admin-key=secret"
    # A Triton with a dead stub does not end in good order; it is not to be waited for.
    with running_triton(triton_options=(restricted,), stop_timeout_s=6) as server:
        well = probe(server)
        assert (well.returncode, well.stderr) == (0, "")
        (stub,) = [stub for stub in server.stubs() if stub.model == "idle_frames"]
        os.kill(stub.pid, signal.SIGKILL)
        sleeper = subprocess.Popen(["sleep", "600"])
        ill = probe(server, "--end", str(sleeper.pid))
        assert (ill.returncode, ill.stderr) == (1, "probe: a process of idle_frames is dead\n")
        assert sleeper.wait(timeout=20) == -signal.SIGINT


def test_a_triton_that_is_not_there_is_told() -> None:
    with running_triton() as server:
        pass
    gone = probe(server)
    assert gone.returncode == 1
    assert "is not answered" in gone.stderr
