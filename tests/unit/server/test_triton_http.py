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
METRICS = """\
# TYPE nv_inference_pending_request_count gauge
nv_inference_pending_request_count{model="pen",version="1"} 4
nv_inference_pending_request_count{model="pen2",version="1"} 9
nv_inference_count{model="pen",version="1"} 100
"""


INDEX = [{"name": "pen", "version": "1", "state": "READY"}, {"name": "ink"}]


class Answers:
    """What the server answers, by path, and what it was sent."""

    def __init__(self) -> None:
        self.by_path: dict[str, tuple[int, bytes]] = {}
        self.sent: list[tuple[str, Any]] = []
        self.headers: list[dict[str, str]] = []

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
            answers.headers.append(dict(self.headers))
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
    yield TritonHttp("127.0.0.1", port, port, headers={"admin-key": "s3cret"})
    server.shutdown()
    thread.join()
    server.server_close()


def test_counts_are_read_where_they_are_and_nought_where_not(triton: TritonHttp, answers: Answers) -> None:
    answers.give("/v2/models/stats", STATISTICS)
    assert triton.counts() == [ModelCounts("pen", 3, 7), ModelCounts("ears", 0, 0)]


def test_pending_requests_are_those_of_the_model(triton: TritonHttp, answers: Answers) -> None:
    answers.give("/metrics", METRICS)
    assert triton.pending("pen") == 4
    assert triton.pending("ears") == 0


def test_ready_is_what_triton_says(triton: TritonHttp, answers: Answers) -> None:
    answers.give("/v2/health/ready", "")
    answers.give("/v2/models/pen/ready", "", status=400)
    assert triton.ready()
    assert not triton.ready("pen")


def test_a_probe_is_as_small_as_the_tensors_allow(triton: TritonHttp, answers: Answers) -> None:
    answers.give("/v2/models/pen", METADATA)
    answers.give("/v2/models/pen/infer", {"outputs": []})
    assert triton.lives("pen")
    assert answers.sent[-1][1] == {
        "inputs": [
            {"name": "ID", "datatype": "BYTES", "shape": [1, 1], "data": [""]},
            {"name": "FACE", "datatype": "UINT8", "shape": [1, 1, 2], "data": [0, 0]},
        ]
    }


@pytest.mark.parametrize(
    ("text", "lives"),
    [("AVATAR '' is not an avatar id", True), ("Stub process 'pen_0_0' is not healthy.", False)],
)
def test_a_refusal_is_an_answer_unless_a_stub_is_dead(
    triton: TritonHttp, answers: Answers, text: str, lives: bool
) -> None:
    answers.give("/v2/models/pen", METADATA)
    answers.give("/v2/models/pen/infer", {"error": text}, status=500)
    assert triton.lives("pen") is lives


def test_an_error_is_told_with_tritons_words(triton: TritonHttp, answers: Answers) -> None:
    answers.give("/v2/repository/models/pen/load", {"error": "it is broken"}, status=400)
    with pytest.raises(TritonRefusedError, match="it is broken"):
        triton.load("pen", 5)


def test_the_key_goes_with_every_request(triton: TritonHttp, answers: Answers) -> None:
    answers.give("/v2/models/stats", STATISTICS)
    answers.give("/v2/repository/models/pen/load", "")
    triton.counts()
    triton.load("pen", 5)
    triton.ready()
    assert [headers["admin-key"] for headers in answers.headers] == ["s3cret"] * 3


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
    with pytest.raises(TritonSilentError, match="/v2/models/stats is not answered"):
        TritonHttp("127.0.0.1", port, port).counts()
    with pytest.raises(TritonSilentError):
        TritonHttp("127.0.0.1", port, port).ready("pen")


def test_who_listens_and_says_nothing_is_silent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        port = mute.getsockname()[1]
        with pytest.raises(TritonSilentError, match="timed out"):
            TritonHttp("127.0.0.1", port, port, timeout_s=0.05).counts()


def test_states_of_the_models_that_were_ever_loaded(triton: TritonHttp, answers: Answers) -> None:
    answers.give("/v2/repository/index", INDEX)
    assert triton.states() == {"pen": "READY"}
