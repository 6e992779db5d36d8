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
from client._transport import Tensors
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
_DEAD_PROCESS = re.compile(r"Stub process(?: '([^']*)')? is not healthy")
_UNKNOWN_AVATAR = re.compile(r"AVATAR ('[^']*') is not on this server")
_WAITING_FOR_NETWORKS = re.compile(r"wait for networks to be loaded")
_OURS = frozenset(model.name for model in MODELS)
_DYING = re.compile(
    # A server that dies can reset the stream instead of the connection, and then the status is not UNAVAILABLE.
    r"RST_STREAM|GOAWAY|Stream removed|Socket closed|Connection (?:reset|aborted)|Broken pipe"
    # What Triton's Python backend has to say of memory that it shares with a process that is no more.
    r"|shared memory (?:key|pool|region)|health mutex"
)


class TritonTransport:
    """A `Transport` over gRPC; connects at the first call, and again by itself when the connection broke."""

    def __init__(self, url: str, keepalive: Keepalive) -> None:
        """`url` is ``host:port`` of Triton's gRPC service."""
        if _ADDRESS.fullmatch(url) is None:
            raise SettingsError(f"expected host:port of Triton's gRPC service, got {url!r}")
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
        requested = [triton.InferRequestedOutput(name) for name in outputs]
        headers = None if avatar is None else {AVATAR_ID_METADATA: avatar}
        with self._calling(timeout_s) as client:
            result = await client.infer(
                model, tensors, outputs=requested, headers=headers, client_timeout=timeout_s
            )
        return {name: result.as_numpy(name) for name in outputs}

    async def is_ready(self, timeout_s: float) -> bool:
        """See `Transport`."""
        with self._calling(timeout_s) as client:
            return bool(await client.is_model_ready(AVATAR_ENSEMBLE.name, client_timeout=timeout_s))

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
                    f"the request to {self.url} was cancelled because the client was closed", url=self.url
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


def _server_error(error: InferenceServerException, url: str, timeout_s: float) -> ServerError:
    status = str(error.status()).removeprefix("StatusCode.")
    # Some of Triton's messages have line breaks.
    text = _ENSEMBLE_PREFIX.sub("", " ".join(_TRACE.sub("", error.message() or "no reason given").split()))
    if known := _known_error(text, url):
        return known
    if status == "UNAVAILABLE":
        return _unavailable(text, url)
    if status in ("INTERNAL", "UNKNOWN") and _DYING.search(text):
        return ServerUnavailableError(f"Triton at {url} is failing: {text}", url=url)
    if status == "DEADLINE_EXCEEDED":
        return RequestTimeoutError(f"Triton at {url} did not answer within {timeout_s:g} s", url=url)
    if status == "CANCELLED":  # by the server, as it does at its end: who cancels here gets no answer
        return ServerUnavailableError(f"Triton at {url} cancelled the request: {text}", url=url)
    kind = ServerFaultError if status in ("INTERNAL", "UNKNOWN") else RequestRefusedError
    return kind(text, url=url)


def _known_error(text: str, url: str) -> ServerError | None:
    """What is told by its text; its status says less, or something else."""
    if model := _UNKNOWN_MODEL.search(text):
        return _no_model(model.group(1), url)
    if avatar := _UNKNOWN_AVATAR.search(text):
        return AvatarNotFoundError(
            f"avatar {avatar.group(1)} is not on this server ({url}); `avatars` lists those that are", url=url
        )
    if _QUEUE_FULL.search(text):
        return _busy(f"a queue of Triton at {url} is full", url)
    if _WAITING_FOR_NETWORKS.search(text):
        return _busy(f"too many requests at {url} wait for networks to be loaded", url)
    if process := _DEAD_PROCESS.search(text):
        return _process_died(process.group(1) or "of a model", url)
    return None


def _no_model(model: str, url: str) -> ServerError:
    if model in _OURS:  # while Triton starts, or ends
        return ServerUnavailableError(f"Triton at {url} does not serve {model!r} at the moment", url=url)
    return RequestRefusedError(f"Triton at {url} has no model {model!r}", url=url)


def _busy(sentence: str, url: str) -> ServerBusyError:
    return ServerBusyError(sentence, url=url, retry_after_s=_QUEUE_RETRY_AFTER_S)


def _process_died(process: str, url: str) -> ServerUnavailableError:
    return ServerUnavailableError(
        f"a process of Triton at {url} has died ({process}); 'python -m server' restarts Triton within seconds",
        url=url,
    )


def _unavailable(text: str, url: str) -> ServerUnavailableError:
    reason = text.rsplit(": ", 1)[-1]
    return ServerUnavailableError(
        f"no Triton answers at {url} ({reason}); start one with 'make serve' or give another host:port",
        url=url,
    )
