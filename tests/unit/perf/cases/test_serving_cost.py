from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from client._triton import TritonTransport
from perf.cases.serving_cost import BATCH, CountingTransport, System
from perf.processes import processes_by_role


class Counter:
    """Answers with two frames a request, and notes how many requests were under way together."""

    def __init__(self) -> None:
        self.requests: list[int] = []
        self.together = 0
        self._open = 0

    async def __call__(self, request: int) -> Sequence[bytes]:
        self.requests.append(request)
        self._open += 1
        self.together = max(self.together, self._open)
        await asyncio.sleep(0)
        self._open -= 1
        return [b"frame"] * 2


@pytest.mark.parametrize("in_flight", [1, 3])
async def test_a_round_asks_for_consecutive_batches_so_many_at_a_time(in_flight: int) -> None:
    answer = Counter()
    found = await System(answer, {}, in_flight).round(span_s=0.01)
    assert answer.requests == list(range(len(answer.requests)))
    assert answer.together == in_flight
    assert found.wall_ms >= 10 / (2 * len(answer.requests))
    assert found.total_cpu_ms == found.cpu_ms["client"]


async def test_a_round_asks_once_however_short_it_is() -> None:
    answer = Counter()
    await System(answer, {}).round(span_s=0)
    assert answer.requests == [0]


def test_processes_are_told_apart_by_the_model_that_they_run(tmp_path: Path) -> None:
    script = tmp_path / "repository" / "compositor" / "1" / "model.py"
    script.parent.mkdir(parents=True)
    script.write_text("input()\n")
    commands = {
        "compositor": ["somewhere/triton_python_backend_stub", str(script), "compositor_0_0"],
        "tritonserver": ["somewhere/tritonserver", str(script)],
    }
    for role, command in commands.items():
        with subprocess.Popen(command, executable=sys.executable, stdin=subprocess.PIPE) as process:
            roles = processes_by_role(process.pid)
            process.communicate(b"\n")
        assert {name: [each.pid for each in found] for name, found in roles.items()} == {role: [process.pid]}


async def test_bytes_both_ways_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    async def infer(*_: object) -> dict[str, np.ndarray]:
        return {"JPEG": np.array([b"12345", b"678"], object), "RECT": np.zeros((2, 4), np.int32)}

    monkeypatch.setattr(TritonTransport, "infer", infer)
    transport = CountingTransport("127.0.0.1:1")
    await transport.infer("m", {"FRAME_INDEX": np.zeros(BATCH, np.int32)}, ["JPEG", "RECT"], 1)
    await transport.infer("m", {"AVATAR": np.array([b"ann"], object)}, ["JPEG", "RECT"], 1)
    assert transport.bytes == 4 * BATCH + 3 + 2 * (8 + 32)
