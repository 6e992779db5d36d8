import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from client import (
    NO_RETRY,
    AvatarIdError,
    Frame,
    JpegFolderSink,
    LipstreamClient,
    MemoryTransport,
    NullSink,
    ServerUnavailableError,
    SinkError,
    SpeakReport,
    speak_to_sinks,
)
from client import _report as report_module
from tests.unit.client.speaker import FRAME, answer, answer_at_once, frames_of, noise


class Recorder:
    """A sink that keeps what it is told, and fails at a frame if it is told to."""

    def __init__(self, fails_at: int | None = None, error: Exception | None = None) -> None:
        self.frames = 0
        self.path: Path | None = None
        self.got: list[Frame] = []
        self.ends: list[str] = []
        self.threads: set[int] = set()
        self._fails_at = fails_at
        self._error = error or SinkError("disk full")

    def write(self, frame: Frame) -> None:
        self.threads.add(threading.get_ident())
        if self.frames == self._fails_at:
            raise self._error
        self.got.append(frame)
        self.frames += 1

    def close(self) -> None:
        self.ends.append("close")

    def abort(self) -> None:
        self.ends.append("abort")


async def make_client(answering: Any = answer_at_once) -> LipstreamClient:
    transport = MemoryTransport(answering)
    return LipstreamClient(transport=transport, retry=NO_RETRY)


async def test_every_sink_gets_every_frame_in_order_and_is_closed() -> None:
    pcm, sinks = noise(70 * FRAME), [Recorder(), Recorder()]
    await speak_to_sinks(await make_client(), "demo", pcm, sinks, chunk_frames=10, first_chunk_frames=None)
    for sink in sinks:
        assert sink.got == frames_of(pcm)
        assert sink.ends == ["close"]


async def test_sinks_do_not_write_in_the_event_loops_thread() -> None:
    sink = Recorder()
    await speak_to_sinks(await make_client(), "demo", noise(9 * FRAME), [sink])
    assert len(sink.threads) == 1
    assert threading.get_ident() not in sink.threads


async def test_the_report_counts_what_happened(tmp_path: Path) -> None:
    pcm, seen = noise(70 * FRAME - 3), list[Frame]()
    report = await speak_to_sinks(
        await make_client(), "demo", pcm, [JpegFolderSink(tmp_path), NullSink()], on_frame=seen.append
    )
    assert (report.avatar, report.url, report.frames) == ("demo", "memory:1", 70)
    assert seen == frames_of(pcm)
    assert report.speech_s == pytest.approx(len(pcm) / 16000)
    assert report.frames_per_s == pytest.approx(70 / report.elapsed_s)
    assert 0 < report.time_to_first_frame_ms <= report.elapsed_s * 1e3
    assert report.mean_jpeg_bytes == pytest.approx(sum(len(frame.jpeg) for frame in seen) / 70)
    assert report.files == (str(tmp_path),)


@pytest.mark.parametrize("error", [SinkError("disk full"), ZeroDivisionError("a defect")])
async def test_a_sink_that_fails_stops_everything_and_no_frame_follows_the_one_that_failed(
    error: Exception,
) -> None:
    broken, other = Recorder(fails_at=20, error=error), Recorder()
    with pytest.raises(type(error), match=str(error)):
        await speak_to_sinks(await make_client(), "demo", noise(1000 * FRAME), [broken, other])
    assert broken.ends == other.ends == ["abort"]
    assert broken.frames == other.frames == 20


async def test_a_sink_that_fails_at_the_very_last_frame_is_not_missed() -> None:
    broken = Recorder(fails_at=6)
    with pytest.raises(SinkError):
        await speak_to_sinks(await make_client(), "demo", noise(7 * FRAME), [broken])
    assert broken.ends == ["abort"]


async def test_a_sink_that_cannot_be_closed_does_not_keep_others_from_it() -> None:
    class Stuck(Recorder):
        def close(self) -> None:
            raise SinkError("no room for the index")

    sinks = [Recorder(), Stuck(), Recorder()]
    with pytest.raises(SinkError, match="no room for the index"):
        await speak_to_sinks(await make_client(), "demo", noise(FRAME), sinks)
    assert [sink.ends for sink in sinks] == [["close"], [], ["close"]]


async def test_frames_received_before_the_server_went_away_are_written() -> None:
    async def dies(model: str, inputs: Any) -> Any:
        if inputs["FRAME_INDEX"][0] >= 20:
            raise ServerUnavailableError("gone", url="h:1")
        return answer(inputs)

    sink, pcm = Recorder(), noise(70 * FRAME)
    with pytest.raises(ServerUnavailableError) as caught:
        await speak_to_sinks(
            await make_client(dies), "demo", pcm, [sink], chunk_frames=10, first_chunk_frames=None
        )
    assert caught.value.frames_delivered == 20
    assert sink.got == frames_of(pcm)[:20]
    assert sink.ends == ["abort"]


async def test_cancelling_writes_what_was_received_and_aborts() -> None:
    received = asyncio.Event()

    async def hangs(model: str, inputs: Any) -> Any:
        if inputs["FRAME_INDEX"][0] >= 10:
            await asyncio.Event().wait()
        return answer(inputs)

    def seen(frame: Frame) -> None:
        if frame.index == 9:
            received.set()

    sink = Recorder()
    task = asyncio.create_task(
        speak_to_sinks(
            await make_client(hangs),
            "demo",
            noise(70 * FRAME),
            [sink],
            chunk_frames=10,
            first_chunk_frames=None,
            on_frame=seen,
        )
    )
    await received.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (sink.frames, sink.ends) == (10, ["abort"])


async def test_bad_arguments_abort_the_sinks_too() -> None:
    sink = Recorder()
    with pytest.raises(AvatarIdError):
        await speak_to_sinks(await make_client(), "../x", noise(FRAME), [sink])
    assert sink.ends == ["abort"]


async def test_a_slow_sink_bounds_what_is_held_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_module, "SINK_QUEUE_FRAMES", 10)
    received, most, may_write = 0, 0, threading.Semaphore(0)

    class Slow(Recorder):
        def write(self, frame: Frame) -> None:
            may_write.acquire()
            super().write(frame)

    sink = Slow()

    def seen(frame: Frame) -> None:
        nonlocal received, most
        received += 1
        most = max(most, received - sink.frames)
        may_write.release()

    await speak_to_sinks(await make_client(), "demo", noise(200 * FRAME), [sink], on_frame=seen)
    assert sink.frames == 200
    assert most <= 12


def make_report() -> SpeakReport:
    return SpeakReport("demo", "h:1", 25, 1.0, 0.5, 50.0, 120.0, 1e5, ("a.mp4",))


def test_the_report_is_written_as_json(tmp_path: Path) -> None:
    make_report().write(tmp_path / "deep" / "report.json")
    read = json.loads((tmp_path / "deep" / "report.json").read_text())
    assert (read["frames"], read["frames_per_s"], read["time_to_first_frame_ms"]) == (25, 50.0, 120.0)
    assert read["files"] == ["a.mp4"]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["report.json"]


def test_a_report_that_cannot_be_written_names_its_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SinkError, match=r"file/report\.json cannot be written"):
        make_report().write(tmp_path / "file" / "report.json")
