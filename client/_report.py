"""Speaking into sinks, and what there is to say about it afterwards."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, aclosing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from client._client import LipstreamClient
from client._requests import Frame
from client.errors import SinkError
from client.sinks import Sink
from compositor_backend.contract import SAMPLE_RATE_HZ

SINK_QUEUE_FRAMES = 250
"""Frames that may wait for the sinks: ten seconds, so that short utterances do not measure the disk."""


@dataclass(frozen=True)
class SpeakReport:
    """How an utterance went.

    `elapsed_s` runs from the first request to the last frame received, `time_to_first_frame_ms` from the
    same moment to the first; `frames_per_s` is frames over `elapsed_s`.
    """

    avatar: str
    url: str
    frames: int
    speech_s: float
    elapsed_s: float
    frames_per_s: float
    time_to_first_frame_ms: float
    mean_jpeg_bytes: float
    files: tuple[str, ...]

    def write(self, path: Path | str) -> None:
        """As JSON; the file is either written whole or not touched."""
        path = Path(path)
        partial = path.with_name(f"{path.name}.partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")
            partial.replace(path)
        except OSError as error:
            raise SinkError(f"{path} cannot be written: {error.strerror or error}") from error


async def speak_to_sinks(
    client: LipstreamClient,
    avatar: str,
    pcm: NDArray[Any],
    sinks: Sequence[Sink],
    *,
    chunk_frames: int = 25,
    first_chunk_frames: int | None = 5,
    in_flight: int = 4,
    on_frame: Callable[[Frame], None] | None = None,
) -> SpeakReport:
    """Say `pcm` (16 kHz mono int16), write every frame to every sink, then close them, or abort on failure.

    Arguments as in `LipstreamClient.speak`; `on_frame` is called for each frame as it is received.
    """
    async with _SinkWriter(sinks) as writer:
        frames = client.speak(
            avatar, pcm, chunk_frames=chunk_frames, first_chunk_frames=first_chunk_frames, in_flight=in_flight
        )
        arrivals = _Arrivals(on_frame)
        async with aclosing(frames):
            async for frame in frames:
                arrivals.add(frame)
                await writer.put(frame)
    files = tuple(str(sink.path) for sink in sinks if sink.path is not None)
    return arrivals.report(avatar, client.url, len(pcm) / SAMPLE_RATE_HZ, files)


class _Arrivals:
    """Times and sizes of frames as they come in."""

    def __init__(self, on_frame: Callable[[Frame], None] | None) -> None:
        self._on_frame = on_frame
        self._started_s = time.perf_counter()
        self._first_s = self._last_s = self._started_s
        self._frames = 0
        self._bytes = 0

    def add(self, frame: Frame) -> None:
        self._last_s = time.perf_counter()
        if self._frames == 0:
            self._first_s = self._last_s
        self._frames += 1
        self._bytes += len(frame.jpeg)
        if self._on_frame is not None:
            self._on_frame(frame)

    def report(self, avatar: str, url: str, speech_s: float, files: tuple[str, ...]) -> SpeakReport:
        elapsed_s = self._last_s - self._started_s
        return SpeakReport(
            avatar=avatar,
            url=url,
            frames=self._frames,
            speech_s=speech_s,
            elapsed_s=elapsed_s,
            frames_per_s=self._frames / elapsed_s,
            time_to_first_frame_ms=(self._first_s - self._started_s) * 1e3,
            mean_jpeg_bytes=self._bytes / self._frames,
            files=files,
        )


class _SinkWriter:
    """Writes to sinks in one thread beside the event loop, in order, from a bounded queue."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = sinks
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sinks")
        self._room = asyncio.Semaphore(SINK_QUEUE_FRAMES)
        self._broken = False
        self._error: BaseException | None = None

    async def __aenter__(self) -> _SinkWriter:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait for what is queued, then close the sinks, or abort them if anything broke off."""
        finished = self._submit(self._finish, kind is None)
        self._thread.shutdown(wait=False)
        await asyncio.wait([finished])
        if kind is None and self._error is not None:
            raise self._error

    async def put(self, frame: Frame) -> None:
        """Queue a frame; raises what went wrong with an earlier one."""
        await self._room.acquire()
        if self._error is not None:
            raise self._error
        self._submit(self._write, frame)

    def _submit(self, call: Callable[..., None], *arguments: object) -> asyncio.Future[None]:
        future = asyncio.get_running_loop().run_in_executor(self._thread, call, *arguments)
        future.add_done_callback(self._done)
        return future

    def _done(self, future: asyncio.Future[None]) -> None:
        self._room.release()
        self._error = self._error or future.exception()

    def _write(self, frame: Frame) -> None:
        if self._broken:
            return
        self._broken = True  # until proved otherwise: no frame may follow one that failed
        for sink in self._sinks:
            sink.write(frame)
        self._broken = False

    def _finish(self, complete: bool) -> None:
        with ExitStack() as every:  # each sink gets its turn whatever the others raise
            for sink in self._sinks:
                every.callback(sink.close if complete and not self._broken else sink.abort)
