"""Thousands of requests that are wrong, while two viewers watch: each is told why, and nobody else notices.

``LIPSTREAM_MALFORMED`` is how many are sent, over gRPC and HTTP together; always the same ones. With pytest's
``--log-cli-level=INFO`` they are counted by what is wrong with them.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import grpc
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from client import AvatarPool, PoolSettings
from compositor_backend import contract
from tests.functional.faults.conftest import PATIENCE, Catalogue
from tests.support.clones import SOURCE
from tests.support.malformed import Valid, valid_requests
from tests.support.malformed_grpc import GrpcCase, grpc_cases, grpc_message
from tests.support.malformed_http import HttpCase, http_cases, http_parts, http_path
from tests.support.served import Served, serving
from tests.support.streams import viewers

pytestmark = pytest.mark.functional

_log = logging.getLogger(__name__)

REQUESTS = int(os.environ.get("LIPSTREAM_MALFORMED", "300"))
WARM_S = 120
ANSWERED_S = 5 * PATIENCE
VIEWERS = 2


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("log") / "triton.log"


@pytest.fixture(scope="module")
def served(catalogue: Catalogue, log: Path) -> Iterator[Served]:
    """The avatars that are asked for wrongly are loaded for good, those that are watched by their viewers."""
    loaded = ("--load", catalogue.ids[0], "--load", SOURCE)
    with serving(catalogue.avatars, *loaded, log=log) as server:
        yield server


@dataclass
class Answers:
    """What came of the requests sent to one server: `kinds` counts their mistakes, `models` themselves."""

    served: Served
    valid: list[Valid]
    kinds: Counter[str] = field(default_factory=Counter)
    models: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0

    def send_grpc(self, count: int) -> None:
        """Send so many malformed requests, and check each answer."""
        with grpc.insecure_channel(self.served.url) as channel:

            @_settings(count)
            @given(case=grpc_cases(self.valid))
            def send(case: GrpcCase) -> None:
                refused, text = self._timed(lambda: ask_grpc(channel, case))
                self._check(case, case.clues, refused, text)

            send()

    def send_http(self, count: int) -> None:
        """The same over HTTP."""

        @_settings(count)
        @given(case=http_cases(self.valid))
        def send(case: HttpCase) -> None:
            refused, text = self._timed(lambda: ask_http(self.served.http_url, case))
            self._check(case, frozenset({""}) if case.unreadable else case.clues, refused, text)

        send()

    def _timed(self, ask: Callable[[], tuple[bool, str]]) -> tuple[bool, str]:
        began_s = time.monotonic()
        answer = ask()
        self.slowest_s = max(self.slowest_s, time.monotonic() - began_s)
        return answer

    def _check(self, case: GrpcCase | HttpCase, clues: frozenset[str], refused: bool, text: str) -> None:
        about = f"{case.model}: {' + '.join(case.kinds)}: {text[:300]!r}; one of {sorted(clues)} is wanted"
        assert refused, about
        assert any(clue in text for clue in clues), about
        assert "Traceback" not in text, about
        assert "fault" not in text, about
        self.kinds.update(case.kinds)
        self.models[case.model] += 1


def _settings(count: int) -> settings:
    return settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )


_SERVICE = "/inference.GRPCInferenceService"


def ask_grpc(channel: grpc.Channel, case: GrpcCase) -> tuple[bool, str]:
    """Send a message as it is; whether the answer is an error, and what it says."""
    try:
        if not case.streamed:
            channel.unary_unary(f"{_SERVICE}/ModelInfer")(case.message, timeout=ANSWERED_S)
            return False, ""
        stream = channel.stream_stream(
            f"{_SERVICE}/ModelStreamInfer", response_deserializer=pb.ModelStreamInferResponse.FromString
        )
        (answer,) = stream(iter([case.message]), timeout=ANSWERED_S)
    except grpc.RpcError as error:
        return True, str(error.details())
    return bool(answer.error_message), answer.error_message


def ask_http(url: str, case: HttpCase) -> tuple[bool, str]:
    """Send a request as it is; whether the answer is an error, and what it says.

    It says nothing where Triton closes the connection in place of an answer.
    """
    parts = urlsplit(url)
    with closing(http.client.HTTPConnection(parts.hostname or "", parts.port, ANSWERED_S)) as connection:
        connection.putrequest(case.method, case.path, skip_accept_encoding=True)
        for name, value in case.headers.items():
            connection.putheader(name, value)
        if not {"Content-Length", "Transfer-Encoding"} & set(case.headers):
            connection.putheader("Content-Length", str(len(case.body)))
        try:
            connection.endheaders(case.body)
            if case.cut:
                with suppress(OSError):  # Triton has closed it already
                    connection.sock.shutdown(socket.SHUT_WR)
            answer = connection.getresponse()
            text = answer.read()
        except ConnectionError:
            return True, ""
    refused = answer.status >= http.HTTPStatus.BAD_REQUEST
    return refused, str(json.loads(text)["error"]) if refused else ""


def pids(served: Served, models: set[str]) -> dict[str, list[int]]:
    """The processes that serve."""
    return {"triton": [served.triton]} | {model: sorted(served.stubs(model)) for model in sorted(models)}


def all_are_answered(served: Served, valid: list[Valid]) -> None:
    """What is broken is right before it is broken, over gRPC and HTTP."""
    with grpc.insecure_channel(served.url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for one in valid:
            stub.ModelInfer(grpc_message(one.request), timeout=WARM_S)
    for one in valid:
        header, tail = http_parts(one.request)
        text = json.dumps(header).encode()
        headers = {"Inference-Header-Content-Length": str(len(text))}
        case = HttpCase("", (), frozenset(), "POST", http_path(one.request), headers, text + tail)
        assert ask_http(served.http_url, case) == (False, "")


async def test_each_malformed_request_is_told_why_and_nobody_else_notices(
    served: Served, catalogue: Catalogue, log: Path
) -> None:
    asked, watched = catalogue.ids[0], catalogue.ids[1:3]
    valid = valid_requests(catalogue.avatars, asked, SOURCE)
    answers = Answers(served, valid)
    async with (
        AvatarPool([served.url], PoolSettings(most=len(watched))) as pool,
        viewers(pool, watched, VIEWERS, catalogue.source) as streams,
    ):
        await streams.each_served_since(0, WARM_S)
        await asyncio.to_thread(all_are_answered, served, valid)
        models = {one.request.model for one in valid} | {contract.lipsync_name(name) for name in watched}
        before = await asyncio.to_thread(pids, served, models)
        began_s = time.monotonic()
        await asyncio.to_thread(answers.send_grpc, REQUESTS // 2)
        await asyncio.to_thread(answers.send_http, REQUESTS - REQUESTS // 2)
        took_s = time.monotonic() - began_s
        await streams.each_served_since(time.monotonic(), WARM_S)
        assert await asyncio.to_thread(pids, served, models) == before
        await asyncio.to_thread(all_are_answered, served, valid)
    assert all(not utterance.error for utterance in streams.all())
    health = served.health()
    assert (health["repairs"], health["restarts"]) == (0, 0)
    assert "fault " not in log.read_text()
    assert answers.models.total() == REQUESTS
    assert set(answers.models) == {one.request.model for one in valid}
    for kind, count in sorted((answers.models + answers.kinds).items()):
        _log.info("%6d %s", count, kind)
    _log.info(
        "%d mistakes in %d requests in %.1f s, the slowest %.2f s; %d utterances",
        *(answers.kinds.total(), REQUESTS, took_s, answers.slowest_s, len(streams.all())),
    )
