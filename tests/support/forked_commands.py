"""Runs commands of `export` in processes forked from one that has imported all they need, so that each starts at once.

Each can be killed in the middle of what it does, and each one's memory is known. As a module this is the process that
forks; it reads a JSON list from each line, ``[kill_at, argument, …]``, and answers with an `Outcome` as an object.
An event is a file opened, mapped, renamed or removed, a folder made or listed, a lock taken: what the interpreter
reports to its audit hooks of the disk. A command kills itself with SIGKILL at the event number `kill_at` (from 1), and
never if that is 0.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_DISK = ("open", "os.", "mmap.", "fcntl.", "tempfile.", "shutil.")
_IMPORTED = (
    *("av", "export.avatar", "export.importers.choice", "export.wrap", "PIL.PngImagePlugin"),
    *("PIL.JpegImagePlugin", "rich.progress"),
)


@dataclass(frozen=True)
class Outcome:
    """How a command ended: its exit status (-9 if killed), what it said, its events, the most memory it had in MB."""

    status: int
    error: str
    events: list[str]
    peak_mb: float


class Commands:
    """Runs commands one after another."""

    def __init__(self, runner: subprocess.Popen[str]) -> None:
        self._runner = runner

    def __call__(self, *arguments: str, kill_at: int = 0) -> Outcome:
        assert self._runner.stdin is not None
        assert self._runner.stdout is not None
        print(json.dumps([kill_at, *arguments]), file=self._runner.stdin, flush=True)
        return Outcome(**json.loads(self._runner.stdout.readline()))


@contextmanager
def forked_commands(imported: Sequence[str] = ()) -> Iterator[Commands]:
    """`imported` are further modules that the commands are going to need."""
    command = [sys.executable, "-m", "tests.support.forked_commands", *imported]
    with subprocess.Popen(
        command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as runner:
        yield Commands(runner)
        assert runner.stdin is not None
        runner.stdin.close()


# --- the process that forks ---
def main() -> None:
    for name in (*_IMPORTED, *sys.argv[1:]):
        importlib.import_module(name)
    for line in sys.stdin:
        kill_at, *arguments = json.loads(line)
        sys.stdout.write(json.dumps(dataclasses.asdict(_run(kill_at, arguments))) + "\n")
        sys.stdout.flush()


def _run(kill_at: int, arguments: list[str]) -> Outcome:
    events, error = os.memfd_create("events"), os.memfd_create("error")
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(error, 2)
        _command(kill_at, arguments, events)
    _, status, usage = os.wait4(child, 0)
    return Outcome(
        os.waitstatus_to_exitcode(status), _content(error), _content(events).split(), usage.ru_maxrss / 1024
    )


def _command(kill_at: int, arguments: list[str], events: int) -> None:
    """Never returns."""
    from export.cli import main as export

    count = 0

    def hook(event: str, _details: tuple[object, ...]) -> None:
        nonlocal count
        if not event.startswith(_DISK) or event == "os.kill":
            return
        count += 1
        os.write(events, f"{event}\n".encode())
        if count == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    status = export(arguments)
    sys.stderr.flush()
    os._exit(status)


def _content(file: int) -> str:
    os.lseek(file, 0, os.SEEK_SET)
    with os.fdopen(file, encoding="utf-8", errors="replace") as opened:
        return opened.read()


if __name__ == "__main__":
    main()
