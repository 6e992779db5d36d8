"""A small HTTP endpoint that says how a watched server is.

================  ===========================================================
``/live``         200 while the server is watched, 503 if that has stopped
``/ready``        200 while it serves, 503 while it is being brought back
``/``             both, and the rest of `server.watchdog.health.Health`
================  ===========================================================

Answers are JSON. Monitors of other machines may be let in to ``/live`` and ``/ready``: only ``/`` names models and
files.
"""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from server.errors import StartError
from server.watchdog.health import Health

_log = logging.getLogger(__name__)

MOST_CONNECTIONS = 16
"""At a time; more are closed at once. Each takes a thread and a file of the launcher, which needs both itself."""
TIMEOUT_S = 5.0
"""How long a connection may say nothing."""
_NO_FILE_PAUSE_S = 0.1


class HealthEndpoint:
    """Answers from `open` to `close`; `read` gives the health of the moment."""

    def __init__(self, host: str, port: int, read: Callable[[], Health]) -> None:
        """Port 0 is any free one; `StartError` if it cannot be had."""
        try:
            self._server = _BoundedServer((host, port), _handler(read))
        except OSError as error:
            raise StartError(
                f"port {port} of {host} cannot be used: {error.strerror}; "
                "choose another with --health-port (0 takes any free one)"
            ) from error
        self._thread = threading.Thread(target=self._server.serve_forever, name="health", daemon=True)

    @property
    def port(self) -> int:
        """Where it answers."""
        return int(self._server.server_address[1])

    def open(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """Stop."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()


class _BoundedServer(ThreadingHTTPServer):
    """Serves so many connections at a time, each in a thread."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, handler)
        self._free = threading.BoundedSemaphore(MOST_CONNECTIONS)

    def get_request(self) -> tuple[socket.socket, object]:
        """Accept a connection."""
        try:
            return super().get_request()
        except OSError:
            # Too many open files: the connection goes on waiting, and we would be asked again at once, for ever.
            time.sleep(_NO_FILE_PAUSE_S)
            raise

    def process_request(self, request: socket.socket | tuple[bytes, socket.socket], client: object) -> None:
        """Begin to serve a connection that was accepted."""
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client)
        except RuntimeError:  # there is no thread to be had
            self._free.release()
            raise

    def process_request_thread(
        self, request: socket.socket | tuple[bytes, socket.socket], client: object
    ) -> None:
        """Serve it, in a thread of its own."""
        try:
            super().process_request_thread(request, client)
        finally:
            self._free.release()

    def handle_error(self, request: socket.socket | tuple[bytes, socket.socket], client: object) -> None:
        """Clients that hang up are no matter for the log."""
        _log.debug("a connection of %s failed", client, exc_info=True)


def _handler(read: Callable[[], Health]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = TIMEOUT_S

        def do_GET(self) -> None:
            """Answer one request."""
            health = read()
            if self.path == "/":
                self._tell(health.live, asdict(health))
            elif self.path == "/live":
                self._tell(health.live, {"live": health.live})
            elif self.path == "/ready":
                self._tell(health.ready, {"ready": health.ready})
            else:
                self._answer(HTTPStatus.NOT_FOUND, {"error": "there are /, /live and /ready"})

        do_HEAD = do_GET  # noqa: N815 - the library's name

        def _tell(self, good: bool, body: object) -> None:
            self._answer(HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE, body)

        def _answer(self, status: HTTPStatus, body: object) -> None:
            data = json.dumps(body).encode() + b"\n"
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            """Requests are not logged: they come every few seconds, for ever."""
            _log.debug(format, *args)

    return Handler
