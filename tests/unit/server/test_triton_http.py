"""What is asked of Triton over HTTP, and what is made of its answers, by a server of the test's own."""

from __future__ import annotations

import errno
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from server.errors import TritonRefusedError, TritonSilentError
from server.triton_http import ModelCounts, TritonHttp

STATISTICS = {
    "model_stats": [
        {
            "name": "pen",
            "version": "1",
            "inference_count": 7,
            "inference_stats": {"success": {"count": 3, "ns": 1}},
        },
        {"name": "ears", "version": "1"},
    ]
}
METADATA = {
    "name": "pen",
    "inputs": [
        {"name": "ID", "datatype": "BYTES", "shape": [1, 1]},
        {"name": "FACE", "datatype": "UINT8", "shape": [-1, -1, 2]},
    ],
}


class Answers:
    """What the server answers, by path, and what it was sent."""

    def __init__(self) -> None:
        self.by_path: dict[str, tuple[int, bytes]] = {}
        self.sent: list[tuple[str, Any]] = []

    def give(self, path: str, body: object, status: int = 200) -> None:
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.by_path[path] = (status, data)


@pytest.fixture
def answers() -> Answers:
    return Answers()


@pytest.fixture
def triton(answers: Answers) -> Iterator[TritonHttp]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            answers.sent.append((self.path, json.loads(self.rfile.read(length)) if length else None))
            status, data = answers.by_path.get(self.path, (404, b'{"error":"no such path"}'))
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_GET  # noqa: N815 - the library's name

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    port = server.server_address[1]
    yield TritonHttp("127.0.0.1", port)
    server.shutdown()
    thread.join()
    server.server_close()


def test_counts_are_read_where_they_are_and_nought_where_not(triton: TritonHttp, answers: Answers) -> None:
    answers.give("/v2/models/stats", STATISTICS)
    assert triton.counts() == [ModelCounts("pen", 3, 7), ModelCounts("ears", 0, 0)]


@pytest.mark.parametrize(("status", "ready"), [(200, True), (400, False)])
def test_ready_is_what_triton_says(triton: TritonHttp, answers: Answers, status: int, ready: bool) -> None:
    answers.give("/v2/health/ready", "", status)
    assert triton.ready() is ready


def test_a_probe_is_as_small_as_the_tensors_allow(triton: TritonHttp, answers: Answers) -> None:
    answers.give("/v2/models/pen", METADATA)
    answers.give("/v2/models/pen/infer", {"outputs": []})
    triton.probe("pen")
    assert answers.sent[-1][1] == {
        "inputs": [
            {"name": "ID", "datatype": "BYTES", "shape": [1, 1], "data": [""]},
            {"name": "FACE", "datatype": "UINT8", "shape": [1, 1, 2], "data": [0, 0]},
        ]
    }


def test_a_models_refusal_is_a_sign_of_life(triton: TritonHttp, answers: Answers) -> None:
    answers.give("/v2/models/pen", METADATA)
    answers.give("/v2/models/pen/infer", {"error": "AVATAR '' is not an avatar id"}, status=400)
    triton.probe("pen")


@pytest.mark.parametrize(
    ("text", "status"),
    [("Stub process 'pen_0_0' is not healthy.", 500), ("Exceeds maximum queue size", 503)],
)
def test_an_answer_of_triton_in_the_models_place_is_none(
    triton: TritonHttp, answers: Answers, text: str, status: int
) -> None:
    answers.give("/v2/models/pen", METADATA)
    answers.give("/v2/models/pen/infer", {"error": text}, status)
    with pytest.raises(TritonSilentError):
        triton.probe("pen")


def test_an_error_is_told_with_tritons_words(triton: TritonHttp, answers: Answers) -> None:
    answers.give("/v2/models/stats", {"error": "it is broken"}, status=400)
    with pytest.raises(TritonRefusedError, match="it is broken"):
        triton.counts()


def test_who_has_no_file_left_to_ask_with_does_not_take_that_for_silence(
    triton: TritonHttp, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("socket.create_connection", refuse)
    with pytest.raises(OSError, match="Too many open files"):
        triton.counts()


def test_nobody_there_is_silence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(TritonSilentError, match="/v2/models/stats"):
        TritonHttp("127.0.0.1", port).counts()
    with pytest.raises(TritonSilentError):
        TritonHttp("127.0.0.1", port).ready()


def test_who_listens_and_says_nothing_is_silent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        port = mute.getsockname()[1]
        with pytest.raises(TritonSilentError):
            TritonHttp("127.0.0.1", port, timeout_s=0.05).counts()
