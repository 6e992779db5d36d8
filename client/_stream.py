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
"""Idle frames of a request, and most that are shown before speech that is under way: it must wait for them."""

Answer = list[Frame]
Send = Callable[[FrameRequest], Coroutine[Any, Any, Answer]]


@dataclass
class _Pending:
    """A request under way; `frames` of its answer are wanted, from the first on."""

    request: FrameRequest
    task: asyncio.Task[Answer]
    frames: int

    @property
    def failed(self) -> bool:
        return self.task.done() and (self.task.cancelled() or self.task.exception() is not None)


class FrameStream:
    """The frames of one utterance after another, in order, with a bounded number of requests at a time.

    Requests are sent as soon as the speech they need is there and one of `in_flight` places is free; a
    place is taken until the answer's turn has come. So a slow consumer slows the requests, and memory
    stays bounded.

    With `options.idle`, idle frames fill the time in which no frame of speech has been requested, `IDLE_FRAMES` at a
    time and not before they are awaited. The first ones after an utterance are what the network draws while it still
    hears it. An utterance's place on the timeline is settled by its first request: it follows on the idle frames
    that are there or under way, of which all but the next `IDLE_FRAMES` are given up.

    When a request fails, its error is raised once all frames before it have been taken. To go on, iterate
    again: what failed is sent again, and nothing is lost or doubled.
    """

    def __init__(self, avatar: str, options: StreamOptions, send: Send) -> None:
        self.avatar = avatar
        self.delivered = 0
        self.speech = SpeechBuffer(options.idle)
        self.next_index = options.first_frame
        """Timeline position of the next frame that will be delivered."""
        self._options = options
        self._send = send
        self._base = options.first_frame
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
    def drained(self) -> bool:
        """Whether the utterance has ended and all its frames have been delivered."""
        return self.speech.ended and self.delivered == self.speech.frames

    def advance(self) -> None:
        """Send what can be sent; call it when the speech has changed."""
        while not self._closed and len(self._pending) < self._options.in_flight:
            chunk = self.speech.take(self._options.limit_frames(self.speech.taken_frames))
            if chunk is None:
                break
            if chunk.start == 0:
                self._base = self._settled()
            self._request(chunk, self._base)
        self._changed.set()

    def next_utterance(self) -> None:
        """The next one's sound will come; the present one's frames have been delivered."""
        self.delivered = 0
        self.speech = SpeechBuffer(self._options.idle)

    def restart(self) -> None:
        """Drop the utterance and cancel its requests; the timeline goes on after the last frame delivered."""
        self.next_utterance()
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
            if self._options.idle:
                self._request_idle()
            elif self.drained:
                break
            self._changed.clear()
            await self._changed.wait()
        raise StopAsyncIteration

    def _request_idle(self) -> None:
        """Ask for some idle frames if there is nothing else to wait for."""
        speaking = self.speech.taken_frames > 0 and not self.drained
        if not speaking and not self._pending:
            silence = np.zeros(pcm_samples(IDLE_FRAMES), np.int16)
            self._request(Chunk(0, IDLE_FRAMES, silence, idle=IDLE_FRAMES), self.next_index)

    def _settled(self) -> int:
        """The position after those idle frames to come that will be shown; the others are given up."""
        room = IDLE_FRAMES
        while len(self._ready) > room:
            self._ready.pop()
        room -= len(self._ready)
        for pending in self._pending:
            pending.frames = min(pending.frames, room)
            room -= pending.frames
        while self._pending and self._pending[-1].frames == 0:
            self._pending.pop().task.cancel()
        return self.next_index + IDLE_FRAMES - room

    def _request(self, chunk: Chunk, base: int) -> None:
        request = FrameRequest(self.avatar, chunk, base, self._options.rects, self._options.regions)
        self._pending.append(_Pending(request, self._start(request), chunk.frames))

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
        self.next_index = frame.index + 1
        self.delivered += not frame.idle
        return frame

    def _answer(self, head: _Pending) -> Answer:
        self._raised = head.failed
        try:
            return head.task.result()[: head.frames]
        except ServerError as error:
            error.frames_delivered = self.delivered
            raise
