"""The client: one connection to a Triton that serves Lipstream's avatars."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any

from numpy.typing import NDArray

from client._requests import Frame, FrameRequest
from client._retry import retrying
from client._session import Session
from client._settings import DEFAULT_URL, Keepalive, RetryPolicy, StreamOptions, Timeouts
from client._speech import check_pcm
from client._stream import FrameStream
from client._transport import ModelState, ModelStatistics, Tensors, Transport
from client._triton import TritonTransport
from client.errors import (
    AudioError,
    AvatarNotFoundError,
    AvatarNotLoadedError,
    RequestRefusedError,
    RequestTimeoutError,
    ServerError,
    ServerFaultError,
    ServerUnavailableError,
)
from compositor_backend import contract

_log = logging.getLogger(__name__)
IDLE_FRAMES_AGAIN_S = 60.0
"""How long a server that had no idle frames for an avatar is not asked again: it may have been restarted since."""
BRINGS_BACK = 10
"""How often a request's avatar is loaded again: two pools that unload each other's may do so more than once."""
_SHARED = frozenset(model.name for model in contract.SHARED_MODELS)


@dataclass(frozen=True)
class AvatarState:
    """An avatar of the server's model repository.

    `state` is ``ready``, ``not loaded``, ``loading``, ``unloading`` or ``failed``; `reason` says why it
    failed.
    """

    avatar: str
    state: str
    reason: str = ""


class LipstreamClient:
    """Talks to one server; make one and keep it, it reconnects by itself.

        async with LipstreamClient("127.0.0.1:8001") as client:
            async for frame in client.speak("demo", pcm):
                show(frame.jpeg)

    Every method that talks to the server may raise a `ServerError`. One event loop per client.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        timeouts: Timeouts | None = None,
        retry: RetryPolicy | None = None,
        keepalive: Keepalive | None = None,
        transport: Transport | None = None,
        idle_frames: bool = True,
        bring_back: Callable[[str], Awaitable[None]] | None = None,
        admin_key: str | None = None,
    ) -> None:
        """`url` is ``host:port`` of Triton's gRPC service; `transport` stands in for the connection to it.

        `admin_key` is what a server that has one wants of who loads avatars, lists them or reads statistics.

        With `idle_frames`, chunks in whose window nothing is heard are asked of the server's model of that name:
        the same frames, and no network runs. Where it, or an avatar's idle frames, are missing, the avatar's
        ensemble is asked as for any other chunk.

        `bring_back` is called with the id of an avatar that turns out not to be loaded; when it returns, the request is
        sent again. Without it that is an `AvatarNotLoadedError`.
        """
        self._timeouts = timeouts or Timeouts()
        self._retry = retry or RetryPolicy()
        self._transport = transport or TritonTransport(url, keepalive or Keepalive(), admin_key)
        self._idle_frames = idle_frames
        self._bring_back = bring_back
        self._without_idle_until_s: dict[str, float] = {}

    @property
    def url(self) -> str:
        """The server's address."""
        return self._transport.url

    def speak(
        self,
        avatar: str,
        pcm: NDArray[Any],
        *,
        chunk_frames: int = 25,
        first_chunk_frames: int | None = 5,
        first_frame: int = 0,
        in_flight: int = 4,
        rects: bool = False,
    ) -> AsyncGenerator[Frame, None]:
        """The frames of a whole utterance, in order: one for each 40 ms begun, ``ceil(len(pcm) / 640)``.

        - `avatar`: The avatar's id.
        - `pcm`: 16 kHz mono int16.
        - `chunk_frames`: Frames of a request, a multiple of 5 up to 30. Frames do not depend on it.
        - `first_chunk_frames`: The same for the first request, for an early first frame; None: no difference.
        - `first_frame`: Where on the avatar's endless timeline the utterance begins.
        - `in_flight`: Requests at a time.
        - `rects`: Whether frames carry the face box.

        Bad arguments are refused at once, nothing is sent before the first frame is awaited, and leaving the
        iteration cancels what is under way (at once with ``contextlib.aclosing``).
        """
        options = StreamOptions(chunk_frames, first_chunk_frames, first_frame, in_flight, rects)
        sound = check_pcm(pcm)
        if len(sound) == 0:
            raise AudioError("PCM is empty; at least one sample is wanted")
        stream = FrameStream(contract.check_avatar_id(avatar), options, self._send)
        stream.speech.append(sound)
        stream.speech.end()
        return _all_frames(stream)

    def session(
        self,
        avatar: str,
        *,
        chunk_frames: int = 25,
        first_chunk_frames: int | None = 5,
        first_frame: int = 0,
        in_flight: int = 4,
        rects: bool = False,
        idle: bool = False,
    ) -> Session:
        """A conversation with an avatar; arguments as in `speak`.

        Requests are as long as the sound at hand allows, up to `chunk_frames`: 5 frames each while sound
        comes in real time. With `idle` there are frames while nobody speaks as well: see `Session`.
        """
        options = StreamOptions(chunk_frames, first_chunk_frames, first_frame, in_flight, rects, idle)
        return Session(contract.check_avatar_id(avatar), options, self._send)

    async def is_ready(self, avatar: str | None = None) -> bool:
        """Whether the server answers, and if an avatar is named, whether that one is loaded."""
        model = None if avatar is None else contract.avatar_ensemble_name(avatar)
        try:
            return await self._transport.is_ready(model, self._timeouts.control_s)
        except (ServerUnavailableError, RequestTimeoutError):
            return False

    async def avatars(self) -> list[AvatarState]:
        """Every avatar in the server's model repository, by id."""
        models = await retrying(lambda: self._transport.index(self._timeouts.control_s), self._retry)
        found = [_avatar_state(model) for model in models if _is_avatar(model.name)]
        return sorted(found, key=lambda state: state.avatar)

    async def load(self, avatar: str) -> None:
        """Load an avatar and wait until it is ready; at once if it is. Sent again while the server is unavailable.

        Raises `AvatarNotFoundError` if the server's repository has none of that name, `ServerFaultError`
        if it has one and cannot load it.
        """
        model = contract.avatar_ensemble_name(avatar)
        try:
            await retrying(lambda: self._transport.load(model, self._timeouts.load_s), self._retry)
        except (RequestRefusedError, ServerFaultError) as error:
            await self._check_found(avatar, error)
            raise ServerFaultError(str(error), url=self.url) from error

    async def unload(self, avatar: str) -> None:
        """Unload an avatar: its ensembles and its own network, not what avatars share.

        No error if it is not loaded. Requests under way are answered first. Sent again while the server is
        unavailable: one that comes back after a crash loads again what was loaded, so that what was not sent is lost.
        """
        # Not with Triton's unload_dependents: after the last avatar that would end the shared models too, and
        # starting those again takes seconds.
        names = (contract.avatar_ensemble_name, contract.features_ensemble_name, contract.lipsync_name)
        for name in names:
            await retrying(partial(self._transport.unload, name(avatar), self._timeouts.load_s), self._retry)

    async def statistics(self) -> list[ModelStatistics]:
        """What the server counted for each loaded model since it started."""
        return await retrying(lambda: self._transport.statistics(self._timeouts.control_s), self._retry)

    async def close(self) -> None:
        """Close the connection; requests under way are cancelled. May be called twice."""
        await self._transport.close()

    async def __aenter__(self) -> LipstreamClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _send(self, request: FrameRequest) -> list[Frame]:
        now_s = asyncio.get_running_loop().time()
        without = now_s < self._without_idle_until_s.get(request.avatar, now_s)
        if not self._idle_frames or without or not request.silent:
            return await self._ask_ensemble(request)
        try:
            return await self._ask(request, contract.IDLE_FRAMES_MODEL.name, request.idle_inputs())
        except (AvatarNotLoadedError, RequestRefusedError) as error:
            refusal = error
        # Where more is wrong than idle frames, this fails as well, and says what.
        frames = await self._ask_ensemble(request)
        known = request.avatar in self._without_idle_until_s
        self._without_idle_until_s[request.avatar] = now_s + IDLE_FRAMES_AGAIN_S
        if not known:
            _log.info("%s is asked for its silent frames by its ensemble: %s", request.avatar, refusal)
        return frames

    async def _ask_ensemble(self, request: FrameRequest) -> list[Frame]:
        for _ in range(BRINGS_BACK):
            try:
                return await self._ask(request, request.model, request.inputs())
            except AvatarNotLoadedError:
                if self._bring_back is None:
                    raise
                await self._bring_back(request.avatar)
        return await self._ask(request, request.model, request.inputs())

    async def _ask(self, request: FrameRequest, model: str, inputs: Tensors) -> list[Frame]:
        answer = await retrying(
            lambda: self._transport.infer(model, inputs, request.outputs, self._timeouts.request_s),
            self._retry,
        )
        return request.frames(answer, self.url)

    async def _check_found(self, avatar: str, error: ServerError) -> None:
        known = [state.avatar for state in await self.avatars()]
        if avatar not in known:
            there = ", ".join(known[:10]) + (" …" if len(known) > 10 else "") if known else "none"
            raise AvatarNotFoundError(
                f"Triton at {self.url} has no avatar {avatar!r}; it has: {there}", url=self.url
            ) from error


async def _all_frames(stream: FrameStream) -> AsyncGenerator[Frame, None]:
    try:
        async for frame in stream:
            yield frame
    finally:
        await stream.aclose()


def _is_avatar(model: str) -> bool:
    if model in _SHARED:  # "avatar_frames" is no avatar, whatever its name begins with
        return False
    avatar = model.removeprefix(contract.AVATAR_PREFIX)
    return avatar != model and contract.AVATAR_ID_PATTERN.fullmatch(avatar) is not None


def _avatar_state(model: ModelState) -> AvatarState:
    avatar = model.name.removeprefix(contract.AVATAR_PREFIX)
    if model.state == "" or (model.state == "UNAVAILABLE" and model.reason == "unloaded"):
        return AvatarState(avatar, "not loaded")
    if model.state == "UNAVAILABLE":
        return AvatarState(avatar, "failed", model.reason)
    return AvatarState(avatar, model.state.lower())
