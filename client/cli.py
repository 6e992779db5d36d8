"""The client's command line: speak, idle, list avatars and warm them."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from client._client import LipstreamClient
from client._report import SpeakReport, speak_to_sinks
from client._settings import DEFAULT_URL
from client._speech import frame_count
from client.audio import Recording, read_audio
from client.errors import AudioError, LipstreamError, ServerError, ServerUnavailableError, SinkError
from client.sinks import JpegFolderSink, Mp4Sink, NullSink, Sink
from compositor_backend.contract import FRAME_RATE_HZ, SAMPLE_RATE_HZ

URL_VARIABLE = "LIPSTREAM_URL"
MAX_IDLE_S = 3600

EXIT_FAILED = 1
EXIT_UNAVAILABLE = 3
EXIT_SERVER = 4
EXIT_AUDIO = 5
EXIT_SINK = 6
EXIT_INTERRUPTED = 130
# The first that fits counts; argparse itself exits with 2.
_EXIT_CODES = (
    (ServerUnavailableError, EXIT_UNAVAILABLE),
    (ServerError, EXIT_SERVER),
    (AudioError, EXIT_AUDIO),
    (SinkError, EXIT_SINK),
    (LipstreamError, EXIT_FAILED),
)

_EPILOG = f"""\
The server's address is --url, else the environment's {URL_VARIABLE}, else {DEFAULT_URL}.
Several servers: --url more than once, or commas in the environment's.
Exit codes: 0 done, 1 a bad id or setting, 2 usage, 3 no server there, 4 the server refused or failed,
5 the audio, 6 the files to write, 130 interrupted. Frames written before a failure are kept."""

Command = Callable[[argparse.Namespace, Console], Coroutine[Any, Any, None]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = _parser().parse_args(arguments)
    command: Command = options.command
    try:
        asyncio.run(command(options, Console()))
    except LipstreamError as error:
        print(f"error: {error}", file=sys.stderr)
        return next(code for kind, code in _EXIT_CODES if isinstance(error, kind))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


async def _speak(options: argparse.Namespace, console: Console) -> None:
    await _write_frames(options, console, read_audio(options.audio), "speaks")


async def _idle(options: argparse.Namespace, console: Console) -> None:
    """Silence is an utterance like any other; the server has its frames ready."""
    silence = np.zeros(round(options.seconds * SAMPLE_RATE_HZ), np.float32)
    await _write_frames(options, console, Recording(silence, SAMPLE_RATE_HZ), "idles")


async def _write_frames(options: argparse.Namespace, console: Console, speech: Recording, does: str) -> None:
    pcm = speech.pcm()
    sinks = _sinks(options, speech)
    async with _connect(options) as client:
        with _progress(console, options.quiet) as progress:
            task = progress.add_task(f"{options.avatar} {does}", total=frame_count(len(pcm)))
            try:
                report = await speak_to_sinks(
                    client,
                    options.avatar,
                    pcm,
                    sinks,
                    chunk_frames=options.chunk,
                    first_chunk_frames=options.first_chunk,
                    in_flight=options.in_flight,
                    on_frame=lambda _: progress.advance(task),
                )
            finally:
                progress.stop()
                _report_kept(sinks, console)
    if options.report is not None:
        report.write(options.report)
    if not options.quiet:
        console.print(_summary_table(report))


async def _avatars(options: argparse.Namespace, console: Console) -> None:
    async with _connect(options) as client:
        avatars = await client.avatars()
    if options.json:
        for avatar in avatars:
            print(json.dumps(asdict(avatar)))
        return
    table = Table("avatar", "size", "frames", "family", "audio", "idle", title=f"{len(avatars):,} avatars")
    for avatar in avatars:
        size, idle = f"{avatar.width}x{avatar.height}", "yes" if avatar.idle_frames else "no"
        audio = "speech" if avatar.takes_pcm else f"{avatar.audio_mode} features"
        table.add_row(avatar.id, size, str(avatar.frames), avatar.family, audio, idle)
    console.print(table)


async def _warm(options: argparse.Namespace, console: Console) -> None:
    async with _connect(options) as client:
        for avatar in options.avatar:
            await client.warm(avatar)
            console.print(f"{avatar} is warm")


def _connect(options: argparse.Namespace) -> LipstreamClient:
    default: str = os.environ.get(URL_VARIABLE, DEFAULT_URL)
    return LipstreamClient(options.url or default.split(","))


def _sinks(options: argparse.Namespace, speech: Recording) -> list[Sink]:
    sinks: list[Sink] = []
    if options.out is not None:
        sinks.append(JpegFolderSink(options.out))
    if options.mp4 is not None:
        sinks.append(Mp4Sink(options.mp4, speech))
    return sinks or [NullSink()]


def _report_kept(sinks: Sequence[Sink], console: Console) -> None:
    """Which frames a run that broke off has left, and where; nothing after one that did not."""
    if sys.exc_info()[0] is None:
        return
    for sink in sinks:
        if sink.path is not None and sink.frames > 0:
            console.print(f"{sink.frames} frames are kept in {sink.path}", soft_wrap=True)


def _progress(console: Console, quiet: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, disable=quiet)


def _summary_table(report: SpeakReport) -> Table:
    table = Table("measure", "value", title=f"{report.avatar} at {report.url}")
    table.add_row("frames", str(report.frames))
    table.add_row("speech", f"{report.speech_s:.2f} s")
    table.add_row("time", f"{report.elapsed_s:.2f} s")
    table.add_row("frames/s", f"{report.frames_per_s:.1f}")
    table.add_row("time to first frame", f"{report.time_to_first_frame_ms:.0f} ms")
    table.add_row("bytes a frame", f"{report.mean_jpeg_bytes:.0f}")
    for path in report.files:
        table.add_row("written", path)
    return table


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m client",
        description="Speech to a Lipstream server, talking frames back.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    speak = _add_write_frames(
        commands.add_parser("speak", help="say a sound file and write the frames"), _speak
    )
    speak.add_argument("--audio", required=True, type=Path, help="sound file, any rate and channel count")
    idle = _add_write_frames(
        commands.add_parser("idle", help="write the frames of an avatar that nobody speaks through"), _idle
    )
    idle.add_argument("--seconds", required=True, type=_seconds, help=f"how long, up to {MAX_IDLE_S}")
    avatars = _add_common(commands.add_parser("avatars", help="list the server's avatars"), _avatars)
    avatars.add_argument("--json", action="store_true", help="a line of JSON for each")
    warm = _add_common(
        commands.add_parser("warm", help="have avatars in the server's memory before they speak"), _warm
    )
    warm.add_argument("avatar", nargs="+", help="the avatar's id")
    return parser


def _add_write_frames(parser: argparse.ArgumentParser, command: Command) -> argparse.ArgumentParser:
    _add_common(parser, command)
    parser.add_argument("--avatar", required=True, help="the avatar's id")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for 000000.jpg, 000001.jpg …")
    parser.add_argument("--mp4", type=Path, metavar="FILE", help="video with sound")
    parser.add_argument("--report", type=Path, metavar="FILE", help="figures of the run as JSON")
    parser.add_argument(
        "--chunk",
        type=int,
        default=25,
        metavar="N",
        help="frames of a request, a multiple of 5 up to 30 (25)",
    )
    parser.add_argument("--first-chunk", type=int, default=5, metavar="N", help="of the first request (5)")
    parser.add_argument("--in-flight", type=int, default=4, metavar="N", help="requests at a time (4)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar and no tables")
    return parser


def _seconds(text: str) -> float:
    """A length that makes one frame or more; `ArgumentTypeError` otherwise."""
    with contextlib.suppress(ValueError):
        if 1 / FRAME_RATE_HZ <= (seconds := float(text)) <= MAX_IDLE_S:
            return seconds
    raise argparse.ArgumentTypeError(f"expected {1 / FRAME_RATE_HZ} to {MAX_IDLE_S}, got {text[:80]!r}")


def _add_common(parser: argparse.ArgumentParser, command: Command) -> argparse.ArgumentParser:
    url = os.environ.get(URL_VARIABLE, DEFAULT_URL)
    parser.set_defaults(command=command)
    parser.add_argument(
        "--url", action="append", metavar="HOST:PORT", help=f"Triton's gRPC service; may be repeated ({url})"
    )
    return parser
