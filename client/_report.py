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
from client._transport import ModelStatistics
from client.errors import RequestRefusedError, SinkError
from client.sinks import Sink
from compositor_backend import contract

_CHAIN = tuple(model.name for model in contract.PYTHON_MODELS)
"""The chain's models, first step first."""

SETTLING_S = 0.02
SETTLING_ATTEMPTS = 10
"""How often the server's counts are read again, that far apart, until they stand still."""

SINK_QUEUE_FRAMES = 250
"""Frames that may wait for the sinks: ten seconds, lest short utterances measure the disk."""


@dataclass(frozen=True)
class StepTimes:
    """A step of the chain on the server: counts, and means per request in milliseconds.

    `rows` are batch rows, `executions` runs of the model; `rows_per_execution` is the mean batch.
    `input_ms` and `output_ms` are Triton's copies in and out, `infer_ms` is the model itself.
    """

    model: str
    requests: int
    rows: int
    executions: int
    rows_per_execution: float
    queue_ms: float
    input_ms: float
    infer_ms: float
    output_ms: float


@dataclass(frozen=True)
class SpeakReport:
    """How an utterance went.

    `elapsed_s` runs from the first request to the last frame received, `time_to_first_frame_ms` from the
    same moment to the first; `frames_per_s` is frames over `elapsed_s`. `steps` count everything that the
    server did in between, for other clients too.
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
    steps: tuple[StepTimes, ...]

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
        before = await _readings(client)
        arrivals = _Arrivals(on_frame)
        async with aclosing(frames):
            async for frame in frames:
                arrivals.add(frame)
                await writer.put(frame)
        steps = step_times(before, await _settled_readings(client))
    files = tuple(str(sink.path) for sink in sinks if sink.path is not None)
    return arrivals.report(avatar, client.url, len(pcm) / contract.SAMPLE_RATE_HZ, files, steps)


async def _readings(client: LipstreamClient) -> list[ModelStatistics]:
    """The server's statistics; none from a server that restricts them (``--grpc-restricted-protocol``)."""
    try:
        return await client.statistics()
    except RequestRefusedError:
        return []


async def _settled_readings(client: LipstreamClient) -> list[ModelStatistics]:
    """Readings that no longer change: Triton counts a request a moment after it has answered it.

    While other clients keep the server busy they never settle; then the last ones are as good as any.
    """
    readings = await _readings(client)
    for _ in range(SETTLING_ATTEMPTS):
        await asyncio.sleep(SETTLING_S)
        earlier, readings = readings, await _readings(client)
        if readings == earlier:
            break
    return readings


def step_times(before: Sequence[ModelStatistics], after: Sequence[ModelStatistics]) -> tuple[StepTimes, ...]:
    """What each model did between two readings, in the chain's order, ensembles after it.

    Models that did nothing are left out.
    """
    earlier = {reading.model: reading for reading in before}
    spent = (reading.since(earlier.get(reading.model, ModelStatistics(reading.model))) for reading in after)
    active = sorted((reading for reading in spent if reading.requests > 0), key=_place_in_chain)
    return tuple(_step(reading) for reading in active)


def _place_in_chain(reading: ModelStatistics) -> tuple[int, str]:
    """For sorting: steps in the chain's order, then all else by name."""
    place = _CHAIN.index(reading.model) if reading.model in _CHAIN else len(_CHAIN)
    return place, reading.model


def _step(spent: ModelStatistics) -> StepTimes:
    def mean_ms(total_ns: int) -> float:
        return total_ns / spent.requests / 1e6

    return StepTimes(
        model=spent.model,
        requests=spent.requests,
        rows=spent.rows,
        executions=spent.executions,
        rows_per_execution=spent.rows / max(1, spent.executions),
        queue_ms=mean_ms(spent.queue_ns),
        input_ms=mean_ms(spent.input_ns),
        infer_ms=mean_ms(spent.infer_ns),
        output_ms=mean_ms(spent.output_ns),
    )


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

    def report(
        self, avatar: str, url: str, speech_s: float, files: tuple[str, ...], steps: tuple[StepTimes, ...]
    ) -> SpeakReport:
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
            steps=steps,
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
