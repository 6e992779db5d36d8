"""Starts Triton, waits until it is ready, and stops it without a trace."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import IO

from server.command import (
    BACKENDS,
    MODELS,
    Ports,
    lay_out_backends,
    lay_out_models,
    triton_command,
    triton_environment,
)
from server.errors import StartError, TritonSilentError
from server.installation import STUB, Installation, find_installation
from server.log_reason import find_reason
from server.processes import Stub, kill_stubs, stubs, tritonserver
from server.settings import ServerSettings
from server.supervisor import remove_shared_memory
from server.triton_http import TritonHttp

_log = logging.getLogger(__name__)
_POLL_S = 0.05
_PORT_ATTEMPTS = 3
TRITON = "Triton"
_PORT_OPTIONS = {"grpc": "--grpc-port", "http": "--http-port", "metrics": "--metrics-port"}


class TritonServer:
    """A running Triton; ready on entering the ``with`` block, gone on leaving it.

    Raises `StartError` or `InstallationError` where it does not come up. Should this process be
    killed, Triton stops by itself.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self.log_path = settings.log or _temporary_folder() / f"lipstream-{secrets.token_hex(4)}.log"
        self._keep_log = settings.log is not None
        self._log_begun = False
        self._log_start = 0
        self._ports = Ports(0, 0, 0)
        self._run_folder = Path()
        self._shm_prefix = ""
        self._supervisor: subprocess.Popen[bytes] | None = None

    @property
    def grpc_url(self) -> str:
        """``host:port`` of gRPC, as tritonclient wants it."""
        return f"{self.reachable_host}:{self._ports.grpc}"

    @property
    def http_url(self) -> str:
        """The address of HTTP."""
        return f"http://{self.reachable_host}:{self._ports.http}"

    @property
    def metrics_url(self) -> str:
        """The address of the Prometheus metrics."""
        return f"http://{self.reachable_host}:{self._ports.metrics}/metrics"

    @property
    def http(self) -> TritonHttp:
        """Short requests to Triton over HTTP."""
        return TritonHttp(self.reachable_host, self._ports.http)

    @property
    def ended(self) -> bool:
        """Whether Triton is not running, by its own will or because it was stopped."""
        return self._supervisor is None or self._supervisor.poll() is not None

    def processes(self) -> dict[int, str]:
        """What runs in each of its processes, by process id: a model, or `TRITON` itself."""
        if self._supervisor is None or (triton := tritonserver(self._supervisor.pid)) is None:
            return {}
        models = {stub.pid: stub.model or "a model" for stub in self.stubs()}
        return {triton: TRITON, **models}

    def stubs(self) -> list[Stub]:
        """The processes of its Python models."""
        return [] if self._supervisor is None else stubs(self._supervisor.pid)

    @property
    def pid(self) -> int:
        """The process that Triton and its Python instances descend from."""
        assert self._supervisor is not None
        return self._supervisor.pid

    def __enter__(self) -> TritonServer:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start Triton and return when all its models are ready."""
        for attempts_left in reversed(range(_PORT_ATTEMPTS)):
            try:
                self._ports = choose_ports(self.settings)
                self._start_once()
                break
            except StartError as error:
                # Between choosing a free port and binding it another process may have taken it.
                if attempts_left == 0 or "already in use" not in str(error) or not self._chose_ports:
                    raise

    def restart(self, cancelled: threading.Event, on_wait: Callable[[], None]) -> None:
        """Start again what has ended or must end, on the same ports, and return when all models are ready.

        `on_wait` is called again and again until then. `StartError` if Triton does not come up, or if `cancelled` is
        set before it has; `InstallationError` or `OSError` if it cannot be started any more. The log goes on, and is
        kept.
        """
        self._keep_log = True
        # What is broken does not end in good order.
        if self._supervisor is not None and (triton := tritonserver(self._supervisor.pid)) is not None:
            with suppress(ProcessLookupError):
                os.kill(triton, signal.SIGKILL)
        self.stop()
        on_wait()
        self._start_once(cancelled, on_wait)

    def wait(self, timeout_s: float | None = None) -> None:
        """Return after `timeout_s`; raise `StartError` if Triton ends before that."""
        assert self._supervisor is not None
        with suppress(subprocess.TimeoutExpired):
            status = self._supervisor.wait(timeout_s)
            raise self._failure(f"Triton ended by itself with status {status}")

    def stop(self) -> None:
        """Stop Triton; safe to call again."""
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is None:
            return
        assert supervisor.stdin is not None
        supervisor.stdin.close()
        # Had it been stopped, it would not notice.
        supervisor.send_signal(signal.SIGCONT)
        try:
            supervisor.wait(self.settings.stop_timeout_s + 10)
        except subprocess.TimeoutExpired:
            _log.warning("the supervisor of Triton does not end; it is killed")
            supervisor.kill()
            supervisor.wait()
        self._clean_up()
        if not self._keep_log:
            self.log_path.unlink(missing_ok=True)

    def _clean_up(self) -> None:
        """Remove what a supervisor that was killed has left."""
        kill_stubs(self._run_folder)
        remove_shared_memory(self._shm_prefix)
        shutil.rmtree(self._run_folder, ignore_errors=True)

    @property
    def _chose_ports(self) -> bool:
        return 0 in (self.settings.grpc_port, self.settings.http_port, self.settings.metrics_port)

    @property
    def reachable_host(self) -> str:
        """The host that clients on this machine use."""
        return "127.0.0.1" if self.settings.host in ("0.0.0.0", "") else self.settings.host

    def _start_once(
        self,
        cancelled: threading.Event | None = None,
        on_wait: Callable[[], None] = lambda: None,
    ) -> None:
        installation = find_installation()
        with ExitStack() as on_failure:
            self._run_folder = self._make_run_folder(installation)
            self._shm_prefix = f"lipstream_{os.getpid()}_{secrets.token_hex(4)}_"
            on_failure.callback(self._clean_up)
            # Nobody gets the key, so that what it closes is closed to everybody. (Who may list this machine's
            # processes can read it, and could do more harm than that anyway.)
            key = secrets.token_urlsafe(32)
            command = triton_command(
                self.settings, installation, self._run_folder, self._ports, self._shm_prefix, key
            )
            environment = triton_environment(self.settings, installation, os.environ)
            on_failure.callback(self.stop)
            self._supervisor = self._supervise(command, environment)
            self._wait_until_ready(cancelled, on_wait)
            on_failure.pop_all()

    def _make_run_folder(self, installation: Installation) -> Path:
        temporary = _temporary_folder()
        try:
            run_folder = Path(tempfile.mkdtemp(prefix="lipstream-", dir=temporary))
            try:
                lay_out_backends(installation, run_folder / BACKENDS)
                lay_out_models(self.settings.model_repository, run_folder / MODELS)
                if not os.access(run_folder / BACKENDS / "python" / STUB, os.X_OK):
                    raise StartError(f"programs cannot be run from {temporary}: it is mounted noexec")
            except BaseException:
                shutil.rmtree(run_folder, ignore_errors=True)
                raise
        except (OSError, shutil.Error) as error:
            raise StartError(f"Triton's run folder cannot be made in {temporary}: {error}") from error
        return run_folder

    def _supervise(self, command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        supervisor = [sys.executable, "-m", "server.supervisor", f"--run-folder={self._run_folder}"]
        supervisor += [f"--shm-prefix={self._shm_prefix}"]
        supervisor += [f"--stop-timeout-s={self.settings.stop_timeout_s}", "--"]
        with self._open_log() as log:
            return subprocess.Popen(
                [*supervisor, *command],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C in a terminal goes to all of its processes; Triton is to be stopped by us.
                start_new_session=True,
            )

    def _open_log(self) -> IO[bytes]:
        try:
            self.log_path.parent.mkdir(parents=True, exist_ok=True)
            log = self.log_path.open("ab" if self._log_begun else "wb")
        except OSError as error:
            raise StartError(f"the log {self.log_path} cannot be written: {error.strerror}") from error
        self._log_begun = True
        self._log_start = log.tell() if log.seekable() else 0
        return log

    def _wait_until_ready(self, cancelled: threading.Event | None, on_wait: Callable[[], None]) -> None:
        deadline = time.monotonic() + self.settings.start_timeout_s
        while True:
            on_wait()
            with suppress(TritonSilentError):
                if self.http.ready():
                    return
            if cancelled is not None and cancelled.is_set():
                raise StartError("the start was given up")
            if time.monotonic() > deadline:
                raise self._failure(f"Triton is not ready after {self.settings.start_timeout_s:.0f} s")
            assert self._supervisor is not None
            with suppress(subprocess.TimeoutExpired):
                self._supervisor.wait(_POLL_S)
                raise self._failure("Triton did not start")

    def _failure(self, text: str) -> StartError:
        """An error with the reason that the log gives; the log is kept from now on."""
        self._keep_log = True
        # A log in a container is a pipe, and cannot be read again.
        readable = self.log_path.is_file()
        log = self.log_path.read_bytes()[self._log_start :] if readable else b""
        reason = find_reason(log.decode("utf-8", errors="replace"))
        return StartError(f"{text}: {reason or 'see its log'} (log: {self.log_path})")


def choose_ports(settings: ServerSettings) -> Ports:
    """The settings' ports, any free ones for 0; `StartError` if one that is asked for is taken."""
    wanted = {"grpc": settings.grpc_port, "http": settings.http_port, "metrics": settings.metrics_port}
    with ExitStack() as held:
        # Held until all three are chosen, so that no two are the same.
        sockets = {
            name: held.enter_context(_bind(settings.host, name, port)) for name, port in wanted.items()
        }
        return Ports(**{name: bound.getsockname()[1] for name, bound in sockets.items()})


def _temporary_folder() -> Path:
    try:
        return Path(tempfile.gettempdir())
    except OSError as error:
        raise StartError(
            "no temporary folder can be written to, /tmp neither: Triton's run folder goes there; "
            "in a container without a writable root mount a tmpfs at /tmp"
        ) from error


def _bind(host: str, name: str, port: int) -> socket.socket:
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    # Connections of a server that has just ended do not keep a port.
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise StartError(
            f"port {port} of {host} cannot be used: {error.strerror}; "
            f"choose another with {_PORT_OPTIONS[name]} (0 takes any free one)"
        ) from error
    return bound
