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
from client._transport import ModelState, ModelStatistics, Tensors
from client.errors import (
    AvatarNotLoadedError,
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
from compositor_backend.contract import AVATAR_PREFIX, SHARED_MODELS

MAX_MESSAGE_BYTES = 2**31 - 1
FIRST_RECONNECT_MS = 100
LONGEST_RECONNECT_MS = 1000
"""gRPC waits up to 2 minutes between attempts to reconnect if nobody tells it otherwise."""

_KEY_HEADER = "triton-grpc-protocol-admin-key"
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
_SHARED = frozenset(model.name for model in SHARED_MODELS)
_RESTRICTED = re.compile(r"protocol is restricted")
# A server that dies can reset the stream instead of the connection, and then the status is one of these two.
_RESET = re.compile(r"RST_STREAM|Stream removed|Connection reset|Broken pipe")


class TritonTransport:
    """A `Transport` over gRPC; connects at the first call, and again by itself when the connection broke."""

    def __init__(self, url: str, keepalive: Keepalive, admin_key: str | None = None) -> None:
        """`url` is ``host:port`` of Triton's gRPC service; `admin_key` goes with whatever is no inference."""
        if _ADDRESS.fullmatch(url) is None:
            raise SettingsError(f"{url!r} is no server address; host:port of Triton's gRPC service is wanted")
        self.url = url
        self._keepalive = keepalive
        self._key = None if not admin_key else {_KEY_HEADER: admin_key}
        self._client: Any = None
        self._closed = False

    async def infer(
        self, model: str, inputs: Tensors, outputs: Sequence[str], timeout_s: float
    ) -> dict[str, NDArray[Any]]:
        """See `Transport`."""
        tensors = [_input(name, array) for name, array in inputs.items()]
        wanted = [triton.InferRequestedOutput(name) for name in outputs]
        with self._calling(timeout_s) as client:
            result = await client.infer(model, tensors, outputs=wanted, client_timeout=timeout_s)
        return {name: result.as_numpy(name) for name in outputs}

    async def is_ready(self, model: str | None, timeout_s: float) -> bool:
        """See `Transport`."""
        with self._calling(timeout_s) as client:
            if model is None:
                # Not Triton's "ready": one avatar that failed to load would make that false for all.
                return bool(await client.is_server_live(client_timeout=timeout_s))
            return bool(await client.is_model_ready(model, client_timeout=timeout_s))

    async def index(self, timeout_s: float) -> list[ModelState]:
        """See `Transport`."""
        with self._calling(timeout_s) as client:
            answer = await client.get_model_repository_index(headers=self._key, client_timeout=timeout_s)
        return [ModelState(model.name, model.state, model.reason) for model in answer.models]

    async def load(self, model: str, timeout_s: float) -> None:
        """See `Transport`."""
        with self._calling(timeout_s) as client:
            await client.load_model(model, headers=self._key, client_timeout=timeout_s)

    async def unload(self, model: str, timeout_s: float) -> None:
        """See `Transport`."""
        with self._calling(timeout_s) as client:
            await client.unload_model(model, headers=self._key, client_timeout=timeout_s)

    async def statistics(self, timeout_s: float) -> list[ModelStatistics]:
        """See `Transport`."""
        with self._calling(timeout_s) as client:
            answer = await client.get_inference_statistics(headers=self._key, client_timeout=timeout_s)
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
        return _not_loaded(unknown.group(1), url)
    if _RESTRICTED.search(text):  # Triton calls that UNAVAILABLE, but trying again changes nothing.
        return RequestRefusedError(f"Triton at {url} wants a key for this: {text}", url=url)
    if _QUEUE_FULL.search(text):  # UNAVAILABLE as well, though it answers
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


def _not_loaded(model: str, url: str) -> AvatarNotLoadedError:
    if model in _SHARED:
        return AvatarNotLoadedError(
            f"Triton at {url} has not loaded {model!r}, which all avatars need; "
            "'python -m server' loads it at its start",
            url=url,
        )
    avatar = model.removeprefix(AVATAR_PREFIX)
    return AvatarNotLoadedError(
        f"avatar {avatar!r} is not loaded on Triton at {url}; "
        f"'python -m client load {avatar}' loads it, 'python -m client avatars' lists what is there",
        url=url,
    )


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
