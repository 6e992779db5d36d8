"""Keeps one tritonserver and cleans up after it, whatever becomes of who started it.

The launcher runs ``python -m server.supervisor`` with a pipe as standard input. When the pipe closes,
because the launcher closed it or was killed, Triton is stopped: SIGINT, then SIGTERM, then SIGKILL.
When Triton has ended, its Python stubs, its shared memory and the run folder go. Nothing but the
standard library is needed.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import resource
import selectors
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

SHARED_MEMORY = Path("/dev/shm")
MOST_FILES = 65_536

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
"""Both from linux/prctl.h."""


class Supervisor:
    """Runs one `command` until it ends, a signal comes, or `control` (a file descriptor) closes."""

    def __init__(self, command: Sequence[str], control: int, stop_timeout_s: float) -> None:
        self._command = list(command)
        self._control = control
        self._stop_timeout_s = stop_timeout_s
        self._stop_asked = False
        self._wakeup, self._wakeup_end = os.pipe()
        os.set_blocking(self._wakeup_end, False)

    def run(self) -> int:
        """The exit status of the command, 128 + n if signal n ended it."""
        self._watch_signals()
        # Stubs that outlive Triton become our children, so that they can be waited for.
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        process = subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=_die_with(os.getpid())
        )
        try:
            self._wait(process)
            self._stop(process)
        finally:
            _kill_group(process.pid)
        return process.returncode if process.returncode >= 0 else 128 - process.returncode

    def _watch_signals(self) -> None:
        signal.set_wakeup_fd(self._wakeup_end, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _signal, _frame: None)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._ask_stop)

    def _ask_stop(self, _signal: int, _frame: FrameType | None) -> None:
        self._stop_asked = True

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._control, selectors.EVENT_READ)
            selector.register(self._wakeup, selectors.EVENT_READ)
            while process.poll() is None and not self._stop_asked:
                ready = {key.fd for key, _ in selector.select()}
                if self._wakeup in ready:
                    os.read(self._wakeup, 4096)
                if self._control in ready and not os.read(self._control, 4096):
                    return

    def _stop(self, process: subprocess.Popen[bytes]) -> None:
        for number, timeout_s in ((signal.SIGINT, self._stop_timeout_s), (signal.SIGTERM, 2.0)):
            if process.poll() is not None:
                return
            process.send_signal(number)
            try:
                process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                continue
        if process.poll() is None:
            process.kill()
            process.wait()


def remove_shared_memory(prefix: str, folder: Path = SHARED_MEMORY) -> None:
    """Remove the segments whose names begin with `prefix`."""
    for path in folder.glob(f"{prefix}*"):
        path.unlink(missing_ok=True)


def allow_open_files() -> None:
    """Let this process and those that it starts have more files open than the 1024 of a usual shell.

    Each client of Triton's is one, and each mapped file of an avatar. Not all that the system might allow: programs
    that close every possible file take long then.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < MOST_FILES:
        wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def main(arguments: Sequence[str]) -> int:
    """Supervise the command in `arguments`; standard input is the control pipe."""
    parser = argparse.ArgumentParser(prog="server.supervisor")
    parser.add_argument("--run-folder", type=Path, required=True)
    parser.add_argument("--shm-prefix", required=True)
    parser.add_argument("--stop-timeout-s", type=float, required=True)
    parser.add_argument("command", nargs="+")
    options = parser.parse_args(arguments)
    allow_open_files()
    try:
        return Supervisor(options.command, sys.stdin.fileno(), options.stop_timeout_s).run()
    finally:
        remove_shared_memory(options.shm_prefix)
        shutil.rmtree(options.run_folder, ignore_errors=True)


def _die_with(parent: int) -> Callable[[], None]:
    """What the child does before it becomes Triton: ask for SIGKILL should the supervisor itself be killed.

    Running Python between fork and exec is safe here: the supervisor has one thread.
    """

    def prepare() -> None:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return prepare


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _kill_group(leader: int) -> None:
    """Kill what is left of the process group, and wait until all of it is gone."""
    with suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
