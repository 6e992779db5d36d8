from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from perf.processes import EndedError, cpu_s, memory_of, processes_by_role, pss_bytes

BUSY = """
import sys
held = bytearray(40_000_000)
for n in range(4_000_000): held[n] = 1
print("done", flush=True)
sys.stdin.read()
"""
PARENT = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {BUSY!r}])"


@pytest.fixture
def parent() -> Iterator[subprocess.Popen[str]]:
    """A process that does nothing but have a child which has worked and holds 40 MB."""
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "done\n"
    yield process
    process.stdin.close()
    process.wait(10)
    process.stdout.close()


def test_descendants_count(parent: subprocess.Popen[str]) -> None:
    (child,) = [memory for memory in memory_of([parent.pid]) if memory.pid != parent.pid]
    assert child.uss >= 40e6
    assert child.pss >= child.uss
    assert pss_bytes([parent.pid]) >= 40e6
    assert cpu_s([parent.pid]) > 0.01


def test_a_process_named_twice_counts_once(parent: subprocess.Popen[str]) -> None:
    (child,) = [memory.pid for memory in memory_of([parent.pid]) if memory.pid != parent.pid]
    assert len(memory_of([parent.pid, child, parent.pid])) == 2


def test_a_process_that_is_gone_counts_nothing() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert cpu_s([process.pid]) == 0
    assert memory_of([process.pid]) == []
    assert memory_of([os.getpid()])


def test_a_server_that_has_ended_is_said_to_have(parent: subprocess.Popen[str]) -> None:
    assert [len(processes) for processes in processes_by_role(parent.pid).values()] == [2]
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a zombie until somebody asks
        with pytest.raises(EndedError, match=str(process.pid)):
            processes_by_role(process.pid)
