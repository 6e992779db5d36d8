"""Processes as /proc lists them, with Python in the place of Triton and its stubs."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from server.processes import DEAD, STOPPED, Stub, read_process, stubs, tritonserver, wants_to_run

# A "Triton" that starts a stub, leaves it unburied when it dies, and tells its process id.
PARENT = """
import subprocess, sys
stub = subprocess.Popen(sys.argv[1:])
print(stub.pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def stub_pid(tmp_path: Path) -> Iterator[int]:
    # What waits for ever and can be given a path: tail(1), under the stub's name.
    stub = tmp_path / "triton_python_backend_stub"
    shutil.copy(shutil.which("tail") or "", stub)
    model = tmp_path / "a model (1) of mine" / "1" / "model.py"
    model.parent.mkdir(parents=True)
    model.write_text("")
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, stub, model, "-f"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout
    assert parent.stdin
    yield int(parent.stdout.readline())
    for found in stubs(os.getpid()):
        os.kill(found.pid, signal.SIGKILL)
    parent.communicate()


def test_a_stub_tells_its_model_and_state(stub_pid: int, tmp_path: Path) -> None:
    assert tritonserver(os.getpid()) is not None
    (found,) = wait_for(lambda found: found.version_folder == tmp_path / "a model (1) of mine" / "1")
    assert found.pid == stub_pid
    assert found.model == "a model (1) of mine"


def test_a_stopped_and_a_dead_stub_are_seen(stub_pid: int) -> None:
    os.kill(stub_pid, signal.SIGSTOP)
    wait_for(lambda found: found.state == STOPPED)
    os.kill(stub_pid, signal.SIGKILL)
    (found,) = wait_for(lambda found: found.state == DEAD)
    assert found.model is None


def test_who_has_no_triton_has_no_stubs(stub_pid: int) -> None:
    assert stubs(stub_pid) == []
    assert tritonserver(stub_pid) is None


def test_a_process_is_told_by_when_it_started(stub_pid: int) -> None:
    found, parent = read_process(stub_pid), read_process(os.getpid())
    assert found is not None
    assert parent is not None
    assert found.started > parent.started > 0
    os.kill(stub_pid, signal.SIGKILL)
    wait_for(lambda stub: stub.state == DEAD)
    again = read_process(stub_pid)
    assert again is not None
    assert again.started == found.started


def test_there_is_no_process_of_a_number_that_none_can_have() -> None:
    assert read_process(2**22 + 1) is None
    assert not wants_to_run(2**22 + 1)


def test_who_waits_does_not_want_to_run_and_who_works_takes_cpu_time(stub_pid: int) -> None:
    wait_until(lambda: not wants_to_run(stub_pid))
    assert wants_to_run(os.getpid())
    before = read_process(os.getpid())
    assert before is not None
    wait_until(lambda: (now := read_process(os.getpid())) is not None and now.cpu_s > before.cpu_s)


def test_a_name_that_is_cut_within_a_character_is_read(tmp_path: Path) -> None:
    # 15 bytes are kept: the last is the first half of an "ü".
    tail = tmp_path / ("x" * 14 + "ü")
    shutil.copy(shutil.which("tail") or "", tail)
    with subprocess.Popen([tail, "-f", os.devnull]) as process:
        try:
            assert wait_for_name(process.pid).startswith("x" * 14)
        finally:
            process.kill()


def test_too_many_open_files_do_not_make_processes_vanish(
    stub_pid: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise OSError(errno.EMFILE, "Too many open files")

    wait_for(lambda found: found.pid == stub_pid)
    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(OSError, match="Too many open files"):
        stubs(os.getpid())
    monkeypatch.undo()


def wait_for_name(pid: int, within_s: float = 20) -> str:
    """The name of a process, once it has become what it was started for."""
    end_s = time.monotonic() + within_s
    while True:
        process = read_process(pid)
        assert process is not None
        if (name := process.name).startswith("x"):
            return name
        assert time.monotonic() < end_s, name
        time.sleep(0.01)


def wait_until(condition: Callable[[], bool], within_s: float = 20) -> None:
    end_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end_s


def wait_for(condition: Callable[[Stub], bool], within_s: float = 20) -> list[Stub]:
    """The stubs of this process's "Triton", once the only one is as wanted."""
    end_s = time.monotonic() + within_s
    while True:
        found = stubs(os.getpid())
        if len(found) == 1 and condition(found[0]):
            return found
        assert time.monotonic() < end_s, found
        time.sleep(0.01)
