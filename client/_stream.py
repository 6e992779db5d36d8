"""Frames in order out of requests that run side by side."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import numpy as np

from client._requests import Frame, FrameRequest
from client._settings import StreamOptions
from client._speech import Chunk, SpeechBuffer
from client.errors import ServerError
from compositor_backend.contract import CHUNK_GRID_FRAMES, pcm_samples

IDLE_FRAMES = CHUNK_GRID_FRAMES
"""Idle frames of a request: few, since speech that comes must wait until they have been shown."""

Answer = list[Frame]
Send = Callable[[FrameRequest], Coroutine[Any, Any, Answer]]


@dataclass
class _Pending:
    request: FrameRequest
    task: asyncio.Task[Answer]

    @property
    def failed(self) -> bool:
        return self.task.done() and (self.task.cancelled() or self.task.exception() is not None)


class FrameStream:
    """The frames of one utterance after another, in order, with a bounded number of requests at a time.

    Requests are sent as soon as the speech they need is there and one of `in_flight` places is free; a
    place is taken until the answer's turn has come. So a slow consumer slows the requests, and memory
    stays bounded.

    With `options.idle`, what is awaited while there is no speech are idle frames, a few at a time; their positions
    are taken when they are requested, and the next utterance's follow.

    When a request fails, its error is raised once all frames before it have been taken. To go on, iterate
    again: what failed is sent again, and nothing is lost or doubled.
    """

    def __init__(self, avatar: str, options: StreamOptions, send: Send) -> None:
        self.avatar = avatar
        self.delivered = 0
        self.speech = SpeechBuffer()
        self._options = options
        self._send = send
        self._base = options.first_frame
        self._idle_to_come = 0
        self._ready: deque[Frame] = deque()
        self._pending: deque[_Pending] = deque()
        self._tasks: set[asyncio.Task[Answer]] = set()
        self._changed = asyncio.Event()
        self._raised = False
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether `aclose` has been called."""
        return self._closed

    @property
    def next_index(self) -> int:
        """Timeline position of the next frame that will be delivered."""
        return self._base + self.delivered - self._idle_to_come

    @property
    def drained(self) -> bool:
        """Whether the utterance has ended and all its frames have been delivered."""
        return self.speech.finished and not self._pending and not self._ready

    def advance(self) -> None:
        """Send what can be sent; call it when the speech has changed."""
        while not self._closed and len(self._pending) < self._options.in_flight:
            chunk = self.speech.take(self._options.limit_frames(self.speech.taken_frames))
            if chunk is None:
                break
            request = FrameRequest(self.avatar, chunk, self._base, self._options.rects)
            self._pending.append(_Pending(request, self._start(request)))
        self._changed.set()

    def restart(self) -> None:
        """Drop the utterance and cancel its requests; the timeline goes on after the last frame delivered."""
        self._base = self.next_index
        self._idle_to_come = 0
        self.delivered = 0
        self.speech = SpeechBuffer()
        self._cancel()
        self._changed.set()

    async def aclose(self) -> None:
        """Cancel everything and wait until it is cancelled; iteration ends."""
        self._closed = True
        self._cancel()
        self._changed.set()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def __aiter__(self) -> FrameStream:
        return self

    async def __anext__(self) -> Frame:
        self._resend_failed()
        self.advance()
        while not self._closed:
            frame = self._next_ready()
            if frame is not None:
                return frame
            if self._options.idle and self._nothing_to_say:
                self._request_idle()
            elif self.drained:
                break
            self._changed.clear()
            await self._changed.wait()
        raise StopAsyncIteration

    @property
    def _nothing_to_say(self) -> bool:
        """Whether no utterance is under way, and nothing else is awaited."""
        return not self._pending and not self._ready and (self.drained or not self.speech.samples)

    def _request_idle(self) -> None:
        if self.drained:
            self.restart()
        silence = np.zeros(pcm_samples(IDLE_FRAMES), np.int16)
        request = FrameRequest(
            self.avatar, Chunk(0, IDLE_FRAMES, silence), self._base, self._options.rects, idle=True
        )
        self._base += IDLE_FRAMES
        self._idle_to_come += IDLE_FRAMES
        self._pending.append(_Pending(request, self._start(request)))

    def _start(self, request: FrameRequest) -> asyncio.Task[Answer]:
        task = asyncio.get_running_loop().create_task(self._send(request))
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Answer]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # Dropped requests' errors are nobody's: mark them seen.
        self._changed.set()

    def _cancel(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._pending.clear()
        self._ready.clear()

    def _resend_failed(self) -> None:
        if not self._raised:
            return
        self._raised = False
        for pending in self._pending:
            if pending.failed:
                pending.task = self._start(pending.request)

    def _next_ready(self) -> Frame | None:
        if not self._ready and self._pending and self._pending[0].task.done():
            self._ready.extend(self._answer(self._pending[0]))
            self._pending.popleft()
            self.advance()
        if not self._ready:
            return None
        frame = self._ready.popleft()
        if frame.idle:
            self._idle_to_come -= 1
        else:
            self.delivered += 1
        return frame

    def _answer(self, head: _Pending) -> Answer:
        self._raised = head.failed
        try:
            return head.task.result()
        except ServerError as error:
            error.frames_delivered = self.delivered
            raise
