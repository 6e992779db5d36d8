"""Runs commands of `export` in processes that are killed in the middle of what they do.

A process of its own, because it forks: it imports all that the commands need, so that each of them starts at once.
Reads a JSON list from each line, ``[kill_at, argument, …]``; answers with ``[exit status, events, names of events]``.
An event is a file opened, mapped, renamed or removed, a folder made or listed, a lock taken: what the interpreter
reports to its audit hooks of the disk.
The process of a command kills itself with SIGKILL at the event number `kill_at` (from 1), and never if that is 0.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from typing import Any

_DISK = ("open", "os.", "mmap.", "fcntl.", "tempfile.", "shutil.")
_IMPORTED = (
    "av",
    "export.avatar",
    "export.importers.choice",
    "export.wrap",
    "PIL.PngImagePlugin",
    "rich.progress",
)


def main() -> None:
    for name in _IMPORTED:
        importlib.import_module(name)
    for line in sys.stdin:
        kill_at, *arguments = json.loads(line)
        sys.stdout.write(json.dumps(_run(kill_at, arguments)) + "\n")
        sys.stdout.flush()


def _run(kill_at: int, arguments: list[str]) -> list[Any]:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _command(kill_at, arguments, writer)
    os.close(writer)
    with os.fdopen(reader) as report:
        events = report.read().split()
    _, status = os.waitpid(child, 0)
    return [os.waitstatus_to_exitcode(status), len(events), events]


def _command(kill_at: int, arguments: list[str], writer: int) -> None:
    """Never returns."""
    from export.cli import main as export

    count = 0

    def hook(event: str, _details: tuple[object, ...]) -> None:
        nonlocal count
        if not event.startswith(_DISK) or event == "os.kill":
            return
        count += 1
        os.write(writer, f"{event}\n".encode())
        if count == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    sys.addaudithook(hook)
    os._exit(export(arguments))


if __name__ == "__main__":
    main()
