"""The transport to a real Triton: the one file that touches tritonclient."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import tritonclient.grpc.aio as triton
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from client._settings import Keepalive
from client._transport import ModelStatistics, Tensors
from client.errors import (
    AvatarNotFoundError,
    RequestCancelledError,
    RequestRefusedError,
    RequestTimeoutError,
    ServerBusyError,
    ServerError,
    ServerFaultError,
    ServerUnavailableError,
    SessionError,
    SettingsError,
)
from compositor_backend.contract import AVATAR_ENSEMBLE, AVATAR_ID_METADATA, MODELS

MAX_MESSAGE_BYTES = 2**31 - 1
FIRST_RECONNECT_MS = 100
LONGEST_RECONNECT_MS = 1000
"""gRPC waits up to 2 minutes between attempts to reconnect if nobody tells it otherwise."""

_ADDRESS = re.compile(r"[^\s:/]+:\d{1,5}|\[[0-9a-fA-F:.]+\]:\d{1,5}")
_LOOPBACK = ("127.", "localhost:", "[::1]:")
_ENSEMBLE_PREFIX = re.compile(r"^in ensemble '[^']*', ")
_TRACE = re.compile(r"\n+At:\n.*", re.DOTALL)
"""Where in its source a Python model failed: the server's log has it too, and a caller has no use for it."""
_UNKNOWN_MODEL = re.compile(r"Request for unknown model: '([^']*)'")
_QUEUE_FULL = re.compile(r"Exceeds maximum queue size|Request timeout expired")
_QUEUE_RETRY_AFTER_S = 1.0
"""A full queue holds less than that of work, but others come back to it as well."""
_DEAD_PROCESS = re.compile(r"Stub process '([^']*)' is not healthy")
_UNKNOWN_AVATAR = re.compile(r"AVATAR '[^']*' is not on this server")
_WAITING_FOR_NETWORKS = re.compile(r"wait for networks to be loaded")
_OURS = frozenset(model.name for model in MODELS)
# A server that dies can reset the stream instead of the connection, and then the status is one of these two.
_RESET = re.compile(r"RST_STREAM|Stream removed|Connection reset|Broken pipe")


class TritonTransport:
    """A `Transport` over gRPC; connects at the first call, and again by itself when the connection broke."""

    def __init__(self, url: str, keepalive: Keepalive) -> None:
        """`url` is ``host:port`` of Triton's gRPC service."""
        if _ADDRESS.fullmatch(url) is None:
            raise SettingsError(f"{url!r} is no server address; host:port of Triton's gRPC service is wanted")
        self.url = url
        self._keepalive = keepalive
        self._client: Any = None
        self._closed = False

    async def infer(
        self,
        model: str,
        inputs: Tensors,
        outputs: Sequence[str],
        timeout_s: float,
        avatar: str | None = None,
    ) -> dict[str, NDArray[Any]]:
        """See `Transport`."""
        tensors = [_input(name, array) for name, array in inputs.items()]
        wanted = [triton.InferRequestedOutput(name) for name in outputs]
        headers = None if avatar is None else {AVATAR_ID_METADATA: avatar}
        with self._calling(timeout_s) as client:
            result = await client.infer(
                model, tensors, outputs=wanted, headers=headers, client_timeout=timeout_s
            )
        return {name: result.as_numpy(name) for name in outputs}

    async def is_ready(self, timeout_s: float) -> bool:
        """See `Transport`."""
        with self._calling(timeout_s) as client:
            return bool(await client.is_model_ready(AVATAR_ENSEMBLE.name, client_timeout=timeout_s))

    async def statistics(self, timeout_s: float) -> list[ModelStatistics]:
        """See `Transport`."""
        with self._calling(timeout_s) as client:
            answer = await client.get_inference_statistics(client_timeout=timeout_s)
        return [_statistics(model) for model in answer.model_stats]

    async def close(self) -> None:
        """See `Transport`."""
        self._closed = True
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    @contextmanager
    def _calling(self, timeout_s: float) -> Iterator[Any]:
        """The connected client; what the libraries below raise inside comes out as a `ServerError`."""
        if self._closed:
            raise SessionError("the client is closed; make a new one")
        if self._client is None:
            # Not before the first call: gRPC's channel wants the event loop that will use it.
            self._client = triton.InferenceServerClient(self.url, channel_args=self._channel_args())
        try:
            yield self._client
        except InferenceServerException as error:
            raise _server_error(error, self.url, timeout_s) from error
        except asyncio.CancelledError as error:
            # To the calls under way a closed channel looks like a cancelled task, though nobody cancelled it.
            if self._closed:
                raise RequestCancelledError(
                    "the request was given up because the client was closed", url=self.url
                ) from error
            raise

    def _channel_args(self) -> list[tuple[str, int]]:
        """Every option in full: giving tritonclient any channel_args at all replaces all its defaults."""
        keepalive = self._keepalive
        return [
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.keepalive_time_ms", keepalive.time_ms),
            ("grpc.keepalive_timeout_ms", keepalive.timeout_ms),
            ("grpc.keepalive_permit_without_calls", int(keepalive.permit_without_calls)),
            ("grpc.http2.max_pings_without_data", keepalive.max_pings_without_data),
            ("grpc.initial_reconnect_backoff_ms", FIRST_RECONNECT_MS),
            ("grpc.min_reconnect_backoff_ms", LONGEST_RECONNECT_MS),
            ("grpc.max_reconnect_backoff_ms", LONGEST_RECONNECT_MS),
            # A connection of its own: gRPC otherwise shares one among all clients of the process.
            ("grpc.use_local_subchannel_pool", 1),
            # http_proxy in the environment is not meant for a server on this machine.
            ("grpc.enable_http_proxy", int(not self.url.startswith(_LOOPBACK))),
        ]


def _input(name: str, array: NDArray[Any]) -> Any:
    tensor = triton.InferInput(name, array.shape, np_to_triton_dtype(array.dtype))
    tensor.set_data_from_numpy(array)
    return tensor


def _statistics(model: Any) -> ModelStatistics:
    stats = model.inference_stats
    return ModelStatistics(
        model.name,
        requests=stats.success.count,
        failures=stats.fail.count,
        rows=model.inference_count,
        executions=model.execution_count,
        queue_ns=stats.queue.ns,
        input_ns=stats.compute_input.ns,
        infer_ns=stats.compute_infer.ns,
        output_ns=stats.compute_output.ns,
    )


def _server_error(error: InferenceServerException, url: str, timeout_s: float) -> ServerError:
    status = str(error.status()).removeprefix("StatusCode.")
    text = " ".join(
        _TRACE.sub("", error.message() or "no reason given").split()
    )  # some of Triton's have line breaks
    if unknown := _UNKNOWN_MODEL.search(text):
        return _no_model(unknown.group(1), url)
    if unknown_avatar := _UNKNOWN_AVATAR.search(text):
        return AvatarNotFoundError(f"{unknown_avatar.group()} ({url})", url=url)
    if _QUEUE_FULL.search(text) or _WAITING_FOR_NETWORKS.search(
        text
    ):  # UNAVAILABLE as well, though it answers
        return _busy(url)
    if dead := _DEAD_PROCESS.search(text):
        return _process_died(dead.group(1), url)
    if status == "UNAVAILABLE" or (status in ("INTERNAL", "UNKNOWN") and _RESET.search(text)):
        return _unavailable(text, url)
    if status == "DEADLINE_EXCEEDED":
        return RequestTimeoutError(f"Triton at {url} did not answer within {timeout_s:g} s", url=url)
    if status == "CANCELLED":
        return RequestCancelledError(f"Triton at {url} gave the request up: {text}", url=url)
    kind = ServerFaultError if status in ("INTERNAL", "UNKNOWN") else RequestRefusedError
    return kind(_ENSEMBLE_PREFIX.sub("", text), url=url)


def _no_model(model: str, url: str) -> ServerError:
    if model in _OURS:  # while Triton starts, or ends
        return ServerUnavailableError(f"Triton at {url} does not serve {model!r} at the moment", url=url)
    return RequestRefusedError(f"Triton at {url} has no model {model!r}", url=url)


def _busy(url: str) -> ServerBusyError:
    return ServerBusyError(
        f"a queue of Triton at {url} is full: more is asked of it than it can compute",
        url=url,
        retry_after_s=_QUEUE_RETRY_AFTER_S,
    )


def _process_died(process: str, url: str) -> ServerUnavailableError:
    return ServerUnavailableError(
        f"process {process!r} of Triton at {url} has died; the watch of 'python -m server' brings it back in seconds",
        url=url,
    )


def _unavailable(text: str, url: str) -> ServerUnavailableError:
    reason = text.rsplit(": ", 1)[-1]
    return ServerUnavailableError(
        f"no Triton answers at {url} ({reason}); start one with 'make serve' or give another host:port",
        url=url,
    )
