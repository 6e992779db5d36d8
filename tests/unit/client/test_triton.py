"""The transport over real gRPC, to a server in this process that speaks Triton's protocol."""

import asyncio
import socket
import struct
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from client import (
    AvatarNotFoundError,
    Keepalive,
    RequestCancelledError,
    RequestRefusedError,
    RequestTimeoutError,
    ServerBusyError,
    ServerError,
    ServerFaultError,
    ServerUnavailableError,
    SessionError,
)
from client._triton import TritonTransport
from tests.unit.client.grpc_server import Hanging, Service, answering, failing, served

WAIT_S = 20


def strings(*values: bytes) -> bytes:
    """BYTES as the protocol has them: each after its length, four bytes, little-endian."""
    return b"".join(struct.pack("<I", len(value)) + value for value in values)


def transport(url: str) -> TritonTransport:
    return TritonTransport(url, Keepalive())


def unused_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


async def infer(url: str, timeout_s: float = WAIT_S) -> Any:
    carrier = transport(url)
    try:
        return await carrier.infer("avatar", {"N": np.zeros(2, np.int32)}, ["JPEG"], timeout_s)
    finally:
        await carrier.close()


async def test_tensors_go_out_as_the_protocol_wants_them() -> None:
    seen: list[Any] = []

    async def keep(request: Any, context: Any) -> Any:
        seen.append(request)
        return service_pb2.ModelInferResponse()

    inputs = {
        "AVATAR": np.array([b"demo\0"], dtype=object),
        "FRAME_INDEX": np.array([1, 2], np.int32),
        "PCM": np.array([-1, 256], np.int16),
    }
    async with served(Service(keep)) as url:
        carrier = transport(url)
        await carrier.infer("avatar", inputs, [], WAIT_S)
        await carrier.close()
    (request,) = seen
    assert request.model_name == "avatar"
    assert [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in request.inputs] == [
        ("AVATAR", "BYTES", [1]),
        ("FRAME_INDEX", "INT32", [2]),
        ("PCM", "INT16", [2]),
    ]
    assert list(request.raw_input_contents) == [
        b"\5\0\0\0demo\0",
        b"\1\0\0\0\2\0\0\0",
        b"\xff\xff\0\1",
    ]


async def test_answers_keep_trailing_zeros_and_only_what_was_asked_for_comes() -> None:
    rects = np.arange(8, dtype=np.int32)
    handler = answering(JPEG=("BYTES", [2], strings(b"a\0\0", b"")), RECT=("INT32", [2, 4], rects.tobytes()))
    async with served(Service(handler)) as url:
        carrier = transport(url)
        both = await carrier.infer("avatar", {}, ["JPEG", "RECT"], WAIT_S)
        one = await carrier.infer("avatar", {}, ["JPEG"], WAIT_S)
        await carrier.close()
    assert both["JPEG"].tolist() == [b"a\0\0", b""]
    np.testing.assert_array_equal(both["RECT"], rects.reshape(2, 4))
    assert set(one) == {"JPEG"}


async def test_answers_larger_than_grpcs_own_limit_of_4_mb_arrive() -> None:
    big = bytes(20_000_000)
    async with served(Service(answering(JPEG=("BYTES", [1], strings(big))))) as url:
        answer = await infer(url)
    assert answer["JPEG"][0] == big


@pytest.mark.parametrize(
    ("status", "text", "kind", "sentence"),
    [
        (
            "INVALID_ARGUMENT",
            "in ensemble 'avatar', PCM has shape [3]; [4] is wanted",
            RequestRefusedError,
            "PCM has shape [3]; [4] is wanted",
        ),
        ("INVALID_ARGUMENT", "unexpected shape", RequestRefusedError, "unexpected shape"),
        ("UNIMPLEMENTED", "no such thing", RequestRefusedError, "no such thing"),
        (
            "INTERNAL",
            "in ensemble 'avatar', error 4f2a, see the log",
            ServerFaultError,
            "error 4f2a, see the log",
        ),
        (
            "INTERNAL",
            "AVATAR 'may' is damaged on this server",
            ServerFaultError,
            "AVATAR 'may' is damaged on this server",
        ),
        ("UNKNOWN", "who knows", ServerFaultError, "who knows"),
        ("UNAVAILABLE", "Server is stopping", ServerUnavailableError, "(Server is stopping)"),
        *(
            ("INTERNAL", f"in ensemble 'avatar', {text}", ServerUnavailableError, f"is failing: {text}")
            for text in (
                "Received RST_STREAM with error code 2",
                "GOAWAY received",
                "Socket closed",
                "Connection reset by peer",
                "Failed to obtain the health mutex.",
                "Unable to initialize shared memory key 'lipstream_7' to requested size (1048576 bytes).",
                "Failed to increase the shared memory pool size for key 'lipstream_7' to 9 bytes.",
                "Failed to create new mapped region for the grown shared memory region 'lipstream_7'.",
            )
        ),
        (
            "INVALID_ARGUMENT",
            "expected shared memory region 'x'",
            RequestRefusedError,
            "expected shared memory region 'x'",
        ),
        (
            "INTERNAL",
            "in ensemble 'avatar', Failed to process the request(s) for model instance 'lipsync_0_0', message: Stub "
            "process 'lipsync_0_0' is not healthy.",
            ServerUnavailableError,
            "has died (lipsync_0_0)",
        ),
        ("INTERNAL", "Stub process is not healthy.", ServerUnavailableError, "has died"),
        (
            "UNAVAILABLE",
            "in ensemble 'avatar', [request id: <id_unknown>] Exceeds maximum queue size",
            ServerBusyError,
            "is full; try again in about 1 s",
        ),
        ("UNAVAILABLE", "[request id: 3] Request timeout expired", ServerBusyError, "try again in about 1 s"),
        (
            "UNAVAILABLE",
            "in ensemble 'avatar', 512 requests wait for networks to be loaded already; retry later",
            ServerBusyError,
            "wait for networks to be loaded; try again in about 1 s",
        ),
        (
            "CANCELLED",
            "in-flight request cancelled on shutdown",
            ServerUnavailableError,
            "cancelled the request: in-flight request cancelled on shutdown",
        ),
        (
            "INVALID_ARGUMENT",
            "in ensemble 'avatar', AVATAR 'may' is not on this server",
            AvatarNotFoundError,
            "avatar 'may' is not on this server",
        ),
        (
            "NOT_FOUND",
            "Request for unknown model: 'avatar' is not found",
            ServerUnavailableError,
            "does not serve 'avatar' at the moment",
        ),
        (
            "UNAVAILABLE",
            "Request for unknown model: 'compositor' has no available versions",
            ServerUnavailableError,
            "does not serve 'compositor' at the moment",
        ),
        (
            "NOT_FOUND",
            "Request for unknown model: 'other' is not found",
            RequestRefusedError,
            "no model 'other'",
        ),
    ],
)
async def test_the_servers_errors_become_the_clients(
    status: str, text: str, kind: type[ServerError], sentence: str
) -> None:
    async with served(Service(failing(status, text))) as url:
        with pytest.raises(ServerError) as caught:
            await infer(url)
    assert type(caught.value) is kind
    assert sentence in str(caught.value)
    assert "in ensemble" not in str(caught.value)
    assert caught.value.url == url
    assert caught.value.__cause__ is not None


async def test_nobody_there_is_one_sentence_with_address_and_remedy() -> None:
    url = unused_address()
    with pytest.raises(ServerUnavailableError, match="make serve") as caught:
        await infer(url)
    assert str(caught.value).startswith(f"no Triton answers at {url} (Connection refused")


async def test_no_answer_in_time_says_how_long_it_waited_and_frees_the_server() -> None:
    hanging = Hanging()
    async with served(Service(hanging)) as url:
        with pytest.raises(RequestTimeoutError, match=r"did not answer within 0\.2 s"):
            await infer(url, timeout_s=0.2)
        await asyncio.wait_for(hanging.cancelled.wait(), WAIT_S)


async def test_cancelling_the_task_cancels_the_request_on_the_server() -> None:
    hanging = Hanging()
    async with served(Service(hanging)) as url:
        carrier = transport(url)
        task = asyncio.create_task(carrier.infer("avatar", {}, ["JPEG"], WAIT_S))
        await asyncio.wait_for(hanging.came.wait(), WAIT_S)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(hanging.cancelled.wait(), WAIT_S)
        await carrier.close()


async def test_closing_under_a_request_is_an_error_not_a_cancelled_task() -> None:
    hanging = Hanging()
    async with served(Service(hanging)) as url:
        carrier = transport(url)
        task = asyncio.create_task(carrier.infer("avatar", {}, ["JPEG"], WAIT_S))
        await asyncio.wait_for(hanging.came.wait(), WAIT_S)
        await carrier.close()
        with pytest.raises(RequestCancelledError, match="the client was closed"):
            await task


async def test_a_closed_transport_says_so() -> None:
    carrier = transport("127.0.0.1:1")
    await carrier.close()
    await carrier.close()
    with pytest.raises(SessionError, match="closed"):
        await carrier.is_ready(WAIT_S)


async def test_it_is_ready_when_the_ensemble_is() -> None:
    service = Service(failing("INTERNAL", ""))
    async with served(service) as url:
        carrier = transport(url)
        assert not await carrier.is_ready(WAIT_S)
        service.ready.add("avatar")
        assert await carrier.is_ready(WAIT_S)
        await carrier.close()


async def test_calls_about_an_avatar_say_so_to_balancers() -> None:
    seen: list[dict[str, Any]] = []

    async def keep(request: Any, context: Any) -> Any:
        seen.append(dict(context.invocation_metadata()))
        return service_pb2.ModelInferResponse()

    async with served(Service(keep)) as url:
        carrier = transport(url)
        await carrier.infer("avatar", {}, [], WAIT_S, "may")
        await carrier.infer("catalog", {}, [], WAIT_S)
        await carrier.close()
    assert [metadata.get("x-avatar-id") for metadata in seen] == ["may", None]


async def test_it_reconnects_to_a_server_that_comes_back_at_the_same_address() -> None:
    service = Service(answering(JPEG=("BYTES", [1], strings(b"a"))))
    url = unused_address()
    carrier = transport(url)
    with pytest.raises(ServerUnavailableError):
        await carrier.infer("avatar", {}, ["JPEG"], WAIT_S)
    async with served(service, url):
        answer = await asyncio.wait_for(_until_answered(carrier), WAIT_S)
    await carrier.close()
    assert answer["JPEG"].tolist() == [b"a"]


async def _until_answered(carrier: TritonTransport) -> Any:
    while True:
        try:
            return await carrier.infer("avatar", {}, ["JPEG"], WAIT_S)
        except ServerUnavailableError:
            await asyncio.sleep(0.05)
