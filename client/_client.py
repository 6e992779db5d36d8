"""The client: talks to Tritons that serve Lipstream's avatars."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client._catalog import PAGE, AvatarInfo, one_inputs, page_inputs, parse_entry
from client._requests import Frame, FrameRequest
from client._servers import Servers
from client._session import Session
from client._settings import DEFAULT_URL, Keepalive, RetryPolicy, StreamOptions, Timeouts
from client._speech import Chunk, check_pcm
from client._stream import FrameStream
from client._transport import Tensors, Transport
from client._triton import TritonTransport
from client.errors import (
    AudioError,
    RequestRefusedError,
    RequestTimeoutError,
    ServerUnavailableError,
    SettingsError,
)
from compositor_backend import contract

_log = logging.getLogger(__name__)
IDLE_FRAMES_AGAIN_S = 60.0
"""How long an avatar that had no idle frames is not asked for them again: it may have been imported again since."""
WARM_FRAMES = 1
WARM_LEVEL = 64
"""Of the square wave that warms an avatar: 0.2 % of full scale, which is not heard, but no silence either."""


class LipstreamClient:
    """Talks to one server, or several; make one and keep it, it reconnects by itself.

        async with LipstreamClient("127.0.0.1:8001") as client:
            async for frame in client.speak("demo", pcm):
                show(frame.jpeg)

    Every method that talks to the server may raise a `ServerError`. One event loop per client.
    """

    def __init__(
        self,
        url: str | Sequence[str] = DEFAULT_URL,
        *,
        timeouts: Timeouts | None = None,
        retry: RetryPolicy | None = None,
        keepalive: Keepalive | None = None,
        transport: Transport | Sequence[Transport] | None = None,
        idle_frames: bool = True,
    ) -> None:
        """`url` is ``host:port`` of Triton's gRPC service, or several; `transport` replaces the connections to them.

        All servers must hold the same avatars. Each avatar has one server that is asked first, the same for all
        clients, so that each server's memory holds its share; where that one is unavailable or busy, or does not
        answer within `timeouts`, the next in the avatar's order is asked.

        With `idle_frames`, chunks that carry nothing but silence are asked of the server's model of that name:
        the same frames, and no network runs. Where an avatar has none, they are drawn like any other chunk.
        """
        self._timeouts = timeouts or Timeouts()
        urls = [url] if isinstance(url, str) else list(url)
        if not urls:
            raise SettingsError("expected the address of at least one server, got none")
        transports = transport or [TritonTransport(each, keepalive or Keepalive()) for each in urls]
        self._servers = Servers(
            transports if isinstance(transports, Sequence) else [transports], retry or RetryPolicy()
        )
        self._idle_frames = idle_frames
        self._without_idle_until_s: dict[str, float] = {}

    @property
    def url(self) -> str:
        """The server's address; several are joined by commas."""
        return ",".join(self._servers.urls)

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
        regions: bool = False,
    ) -> AsyncGenerator[Frame, None]:
        """The frames of a whole utterance, in order: one for each 40 ms begun, ``ceil(len(pcm) / 640)``.

        - `avatar`: The avatar's id.
        - `pcm`: 16 kHz mono int16.
        - `chunk_frames`: Frames of a request, a multiple of 5 up to 30. Frames do not depend on it.
        - `first_chunk_frames`: The same for the first request, for an early first frame; None: no difference.
        - `first_frame`: Where on the avatar's endless timeline the utterance begins.
        - `in_flight`: Requests at a time.
        - `rects`: Whether frames carry the face box (`Frame.rect`).
        - `regions`: Whether frames carry only what differs from an idle frame (`Frame.region`), a tenth of the bytes.

        Bad arguments are refused at once, nothing is sent before the first frame is awaited, and leaving the
        iteration cancels what is under way (at once with ``contextlib.aclosing``).
        """
        options = StreamOptions(chunk_frames, first_chunk_frames, first_frame, in_flight, rects, regions)
        sound = check_pcm(pcm)
        if len(sound) == 0:
            raise AudioError("expected PCM of at least one sample, got none")
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
        regions: bool = False,
        idle: bool = False,
    ) -> Session:
        """A conversation with an avatar; arguments as in `speak`.

        Requests are as long as the sound at hand allows, up to `chunk_frames`: 5 frames each while sound
        comes in real time. With `idle` there are frames while nobody speaks as well: see `Session`.
        """
        options = StreamOptions(
            chunk_frames, first_chunk_frames, first_frame, in_flight, rects, regions, idle
        )
        return Session(contract.check_avatar_id(avatar), options, self._send)

    async def warm(self, avatar: str) -> None:
        """Have the server that is asked first for an avatar load its networks and files, before somebody speaks.

        Costs a frame. Raises `AvatarNotFoundError` if there is no avatar of that id.
        """
        pcm = np.full(contract.pcm_samples(WARM_FRAMES), WARM_LEVEL, np.int16)
        pcm[::2] = -WARM_LEVEL
        request = FrameRequest(contract.check_avatar_id(avatar), Chunk(0, WARM_FRAMES, pcm), 0, regions=True)
        await self._ask(request, contract.AVATAR_ENSEMBLE.name, request.inputs())

    async def is_ready(self) -> bool:
        """Whether a server answers, and its models are ready; nothing is sent again."""
        for transport in self._servers.in_order(""):
            with suppress(ServerUnavailableError, RequestTimeoutError):
                if await transport.is_ready(self._timeouts.control_s):
                    return True
        return False

    async def avatars(self) -> list[AvatarInfo]:
        """Every avatar of the first server that answers, by id; damaged ones are left out."""
        found: dict[str, AvatarInfo] = {}  # pages overlap where avatars appear, or are damaged, in between
        offset = 0
        while True:
            page = await self._catalog("", page_inputs(offset))
            found.update((info.id, info) for info in page)
            offset += len(page)
            if len(page) < PAGE:
                return [found[avatar] for avatar in sorted(found)]

    async def avatar(self, avatar: str) -> AvatarInfo:
        """One avatar; `AvatarNotFoundError` if there is none of that id."""
        (info,) = await self._catalog(avatar, one_inputs(contract.check_avatar_id(avatar)))
        return info

    async def close(self) -> None:
        """Close all connections; requests under way are cancelled. May be called twice."""
        await self._servers.close()

    async def __aenter__(self) -> LipstreamClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _send(self, request: FrameRequest) -> list[Frame]:
        now_s = asyncio.get_running_loop().time()
        without = now_s < self._without_idle_until_s.get(request.avatar, now_s)
        speech = contract.AVATAR_ENSEMBLE.name
        if not self._idle_frames or without or not request.silent:
            return await self._ask(request, speech, request.inputs())
        try:
            return await self._ask(request, contract.IDLE_FRAMES_MODEL.name, request.idle_inputs())
        except RequestRefusedError as error:
            refusal = error
        # Where more is wrong than idle frames, this fails as well, and says what.
        frames = await self._ask(request, speech, request.inputs())
        known = request.avatar in self._without_idle_until_s
        self._without_idle_until_s[request.avatar] = now_s + IDLE_FRAMES_AGAIN_S
        if not known:
            _log.info("silent frames of %s are drawn: %s", request.avatar, refusal)
        return frames

    async def _ask(self, request: FrameRequest, model: str, inputs: Tensors) -> list[Frame]:
        async def ask(server: Transport) -> list[Frame]:
            timeout_s = self._timeouts.request_s
            answer = await server.infer(model, inputs, request.outputs, timeout_s, request.avatar)
            return request.frames(answer, server.url)

        return await self._servers.ask(request.avatar, ask)

    async def _catalog(self, avatar: str, inputs: Tensors) -> list[AvatarInfo]:
        async def ask(server: Transport) -> list[AvatarInfo]:
            outputs = [contract.MANIFEST.name]
            answer = await server.infer(
                contract.CATALOG_MODEL.name, inputs, outputs, self._timeouts.control_s, avatar or None
            )
            return [parse_entry(entry, server.url) for entry in answer[contract.MANIFEST.name]]

        return await self._servers.ask(avatar, ask)


async def _all_frames(stream: FrameStream) -> AsyncGenerator[Frame, None]:
    try:
        async for frame in stream:
            yield frame
    finally:
        await stream.aclose()
