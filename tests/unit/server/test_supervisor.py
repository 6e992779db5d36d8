"""The supervisor with shell commands in Triton's place."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.settings import ROOT
from server.supervisor import SHARED_MEMORY, remove_shared_memory

PREFIX = f"lipstream_test_{os.getpid()}_"


@pytest.mark.parametrize(
    ("soft", "hard", "wanted"), [(256, 1000, 1000), (256, 70_000, 65_536), (300, 300, 300)]
)
def test_more_files_may_be_open_than_in_a_usual_shell(soft: int, hard: int, wanted: int) -> None:
    if hard > resource.getrlimit(resource.RLIMIT_NOFILE)[1]:
        pytest.skip("fewer files are allowed here")
    script = (
        "import resource\nfrom server.supervisor import allow_open_files\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))\n"
        "allow_open_files()\nprint(resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    said = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert said.stdout.strip() == f"({wanted}, {hard})", said.stderr


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    (folder / "backends").mkdir(parents=True)
    return folder


@pytest.fixture
def segment() -> Iterator[Path]:
    path = SHARED_MEMORY / f"{PREFIX}1"
    path.write_bytes(b"left over")
    yield path
    path.unlink(missing_ok=True)


def supervise(run_folder: Path, script: str, stop_timeout_s: float = 5) -> subprocess.Popen[bytes]:
    """A supervisor of a shell `script`, once that has printed its first line."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "server.supervisor", f"--run-folder={run_folder}"),
            *(f"--shm-prefix={PREFIX}", f"--stop-timeout-s={stop_timeout_s}", "--", "sh", "-c", script),
        ],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout
    process.stdout.readline()
    return process


def finish(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    """Its exit status and the rest of its output, which ends when the last child has closed it."""
    rest, _ = process.communicate(timeout=20)
    return process.returncode, rest.decode()


def test_closing_the_pipe_stops_with_sigint_and_cleans_up(run_folder: Path, segment: Path) -> None:
    process = supervise(run_folder, "trap 'echo stopped; exit 0' INT; echo up; while :; do sleep 0.05; done")
    assert finish(process) == (0, "stopped\n")
    assert not segment.exists()
    assert not run_folder.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_too(run_folder: Path, segment: Path, number: signal.Signals) -> None:
    process = supervise(run_folder, "trap 'echo stopped; exit 7' INT; echo up; while :; do sleep 0.05; done")
    process.send_signal(number)
    process.wait(20)
    assert finish(process) == (7, "stopped\n")
    assert not segment.exists()


def test_what_does_not_stop_is_killed_with_its_children(run_folder: Path) -> None:
    script = "trap '' INT TERM; sleep 1000 & echo up; while :; do sleep 0.05; done"
    process = supervise(run_folder, script, stop_timeout_s=0.2)
    # The pipe of standard output is at its end only when the child `sleep` is gone as well.
    assert finish(process)[0] == 128 + signal.SIGKILL


def test_a_command_that_ends_by_itself_leaves_no_children(run_folder: Path, segment: Path) -> None:
    process = supervise(run_folder, "sleep 1000 & echo up; exit 3")
    process.wait(20)
    assert finish(process) == (3, "")
    assert not segment.exists()


def test_only_segments_with_the_prefix_go(tmp_path: Path) -> None:
    for name in ("mine_1", "mine_2", "other_1"):
        (tmp_path / name).touch()
    remove_shared_memory("mine_", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["other_1"]
