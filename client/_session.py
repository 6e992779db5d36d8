"""A conversation with an avatar: sound goes in as it comes, frames come out, and it can be interrupted."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from numpy.typing import NDArray

from client._requests import Frame
from client._settings import StreamOptions
from client._speech import check_pcm
from client._stream import FrameStream, Send
from client.errors import AudioError, SessionError
from compositor_backend.contract import SAMPLE_RATE_HZ

MAX_QUEUED_S = 600
"""Sound that a session holds before its frames are requested; 19 MB."""


class Session:
    """One avatar's utterances, one after another, on one endless timeline.

        async with client.session("demo") as session:
            session.push_audio(pcm)        # any length, as often as sound comes
            session.end()                  # the utterance is complete
            async for frame in session:    # ends with the utterance
                show(frame.jpeg)

    `push_audio`, `end` and `clear` return at once and may be called while another task iterates. Frames
    are requested as soon as the sound 480 ms after them has been pushed; `end` stands in for it with
    silence. An utterance begins with the first `push_audio` after the session's start, after a `clear`,
    or after an ended utterance's last frame was taken.

    A session with `idle` shows the avatar while nobody speaks, too: iteration goes on before and after an utterance,
    with frames whose `Frame.idle` is true, until `aclose`. They come as fast as they are taken: take one each 40 ms.
    Five are requested at a time. An utterance's frames take their places when the first of them are requested, so it
    follows on the idle frames that are there or under way then, five at most, which are shown while the network
    works; until then, while its first sound gathers, the avatar idles on. After an utterance the network draws ten
    idle frames more, in which it is still heard, so the mouth comes to rest as it would in one long recording;
    `clear` has none of that: the next frame is at rest. Positions never jump, and where an answer is late it is
    awaited. An utterance that stops in the middle, its end not known, is awaited too: `end` it, and the avatar idles.

    A `ServerError` out of the iteration knows `frames_delivered` of the utterance. The session stays usable:
    iterate again, when the server is back, and it continues with the first frame not delivered.
    """

    def __init__(self, avatar: str, options: StreamOptions, send: Send) -> None:
        self._stream = FrameStream(avatar, options, send)

    @property
    def avatar(self) -> str:
        """The avatar's id."""
        return self._stream.avatar

    @property
    def frames_delivered(self) -> int:
        """Frames of the present utterance that have been delivered."""
        return self._stream.delivered

    @property
    def next_index(self) -> int:
        """Position on the avatar's timeline of the next frame that will be delivered."""
        return self._stream.next_index

    def push_audio(self, pcm: NDArray[Any]) -> None:
        """Add sound: 16 kHz mono int16 of any length.

        Raises `AudioError` if it is anything else or if ten minutes of sound are waiting already,
        `SessionError` between `end` and the last frame of the ended utterance. What is refused is not
        taken in part.
        """
        self._check_open()
        sound = check_pcm(pcm)
        if self._stream.drained:
            self._stream.next_utterance()
        speech = self._stream.speech
        if speech.ended:
            raise SessionError("the utterance was ended; take its last frame or clear() before more audio")
        if speech.queued_samples + len(sound) > MAX_QUEUED_S * SAMPLE_RATE_HZ:
            raise AudioError(f"more than {MAX_QUEUED_S} s of audio would wait; take frames first")
        speech.append(sound)
        self._stream.advance()

    def end(self) -> None:
        """The utterance is complete: its last frames are requested, and iteration ends after them, or idles."""
        self._check_open()
        self._stream.speech.end()
        self._stream.advance()

    def clear(self) -> None:
        """Interrupt, at once: drop sound and frames not delivered yet, cancel what is under way.

        The next `push_audio` begins a new utterance, with silence before it. The timeline goes on after
        the last delivered frame. Iteration under way goes on, waiting for it.
        """
        self._check_open()
        self._stream.restart()

    async def aclose(self) -> None:
        """Cancel what is under way; iteration ends. May be called twice."""
        await self._stream.aclose()

    async def __aenter__(self) -> Session:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> Session:
        return self

    async def __anext__(self) -> Frame:
        return await self._stream.__anext__()

    def _check_open(self) -> None:
        if self._stream.closed:
            raise SessionError("the session is closed; open a new one")
