"""A small HTTP endpoint that says how a watched server is.

================  ===========================================================
``/live``         200 while the server is watched, 503 if that has stopped
``/ready``        200 while it serves, 503 while it is being brought back
``/``             both, and the rest of `server.watch.Health`, as JSON
================  ===========================================================
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from dataclasses import asdict
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from server.errors import StartError
from server.watch import Health

_log = logging.getLogger(__name__)


class HealthEndpoint:
    """Answers from `open` to `close`; `read` gives the health of the moment."""

    def __init__(self, host: str, port: int, read: Callable[[], Health]) -> None:
        """Port 0 is any free one; `StartError` if it cannot be had."""
        try:
            self._server = ThreadingHTTPServer((host, port), _handler(read))
        except OSError as error:
            raise StartError(
                f"port {port} of {host} cannot be used: {error.strerror}; "
                "choose another with --health-port (0 takes any free one)"
            ) from error
        self._server.daemon_threads = True
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


def _handler(read: Callable[[], Health]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 5

        def do_GET(self) -> None:
            """Answer one request."""
            health = read()
            good = {"/": health.live, "/live": health.live, "/ready": health.ready}.get(self.path)
            if good is None:
                self._answer(HTTPStatus.NOT_FOUND, {"error": "there are /, /live and /ready"})
            else:
                self._answer(HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE, asdict(health))

        def _answer(self, status: HTTPStatus, body: object) -> None:
            data = json.dumps(body).encode() + b"\n"
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            """Requests are not logged: they come every few seconds, for ever."""
            _log.debug(format, *args)

    return Handler
