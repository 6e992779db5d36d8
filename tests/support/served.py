"""`python -m server` as its users run it: a process of its own, watched, that brings back what dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server import processes
from server.settings import ROOT, ServerSettings

LONGEST_STOP_S = 9 + ServerSettings().stop_timeout_s + 10 + 10
"""Three answers of Triton that the watch waits for in vain, Triton's own end (`TritonServer.stop`), and a command's."""
STOP_S = 60


@dataclass(frozen=True)
class Served:
    """A running launcher, and where it can be asked."""

    launcher: subprocess.Popen[str]
    url: str
    http_url: str
    health_url: str
    metrics_url: str

    @property
    def supervisor(self) -> int:
        """Parent of tritonserver; another one after a restart."""
        found = processes.tritonserver(self.launcher.pid)  # that is, the first child
        assert found is not None, "the launcher has no supervisor"
        return found

    @property
    def triton(self) -> int:
        """The process id of tritonserver."""
        found = processes.tritonserver(self.supervisor)
        assert found is not None, "the supervisor has no tritonserver"
        return found

    def stubs(self, model: str) -> list[int]:
        """Process ids of a model's living stubs."""
        found = processes.stubs(self.supervisor)
        return [stub.pid for stub in found if stub.state != processes.DEAD and stub.model == model]

    def health(self) -> dict[str, Any]:
        """What the health endpoint says."""
        with urllib.request.urlopen(self.health_url, timeout=10) as answer:
            read: dict[str, Any] = json.load(answer)
        return read


@contextmanager
def serving(
    avatars: Path, *arguments: str, log: Path, before: Sequence[str] = (), **environment: str
) -> Iterator[Served]:
    """A watched server of `avatars` on free ports; it must end well when the block does.

    `before` is a command that runs it, and must become it by exec.
    """
    line = [*before, sys.executable, "-m", "server", "--avatars", str(avatars), "--log", str(log)]
    for name in ("grpc", "http", "metrics", "health"):
        line += [f"--{name}-port", "0"]
    launcher = subprocess.Popen(
        [*line, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )
    try:
        assert launcher.stdout
        told = [launcher.stdout.readline().split() for _ in range(4)]
        assert all(len(words) == 2 for words in told), "the server did not start"
        urls = dict(told)  # type: ignore[arg-type]
        yield Served(launcher, urls["gRPC"], urls["HTTP"], urls["health"], urls["metrics"])
    finally:
        launcher.send_signal(signal.SIGTERM)
        try:
            launcher.communicate(timeout=STOP_S)
        except subprocess.TimeoutExpired:
            launcher.kill()
            launcher.communicate()
            raise
    assert launcher.returncode == 0
