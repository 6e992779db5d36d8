"""The commands ``avatar`` and ``check``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from compositor_backend.geometry import FAMILIES, Box
from compositor_backend.manifest import Manifest
from export.build_options import add_build_options, avatar_settings, network_said, say_ready
from export.networks.families import AUDIO_MODES

Commands = argparse._SubParsersAction  # argparse gives it no public name


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add the commands to the parser of ``python -m export``."""
    _add_avatar(commands)
    check = commands.add_parser("check", help="say whether an avatar, or a folder of them, is whole")
    check.add_argument("folder", type=Path, metavar="DIR", help="avatars/<id>, or avatars/ for all of them")
    check.add_argument(
        "--deep",
        action="store_true",
        help="run it too: decode all frames, draw to speech, draw the idle frames anew",
    )
    check.set_defaults(run=_run_check)


MOST_STRETCH = 1.05
"""A face box's longer side by its shorter one, up to which nothing is said of it."""


class ProgressBars:
    """A bar for each thing that is being done, added when it begins; use as a context manager."""

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=console)
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> ProgressBars:
        self._progress.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._progress.stop()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Move the bar of `what`."""
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(what, total=total)
        self._progress.update(self._tasks[what], completed=done)


def _add_avatar(commands: Commands[argparse.ArgumentParser]) -> None:
    avatar = commands.add_parser("avatar", help="make a served avatar of frames, face boxes and networks")
    _add_sources(avatar)
    avatar.add_argument(
        "--avatars", type=Path, required=True, metavar="DIR", help="the folder of avatars to add to"
    )
    add_build_options(avatar)
    avatar.set_defaults(run=_run_avatar)


def _add_sources(avatar: argparse.ArgumentParser) -> None:
    avatar.add_argument("--id", required=True, help="a-z, 0-9, '_' and '-', at most 64")
    avatar.add_argument(
        "--frames", type=Path, required=True, metavar="DIR|VIDEO", help="the template frames (25 a second)"
    )
    avatar.add_argument(
        "--boxes",
        type=Path,
        required=True,
        metavar="F|DIR",
        help="crop_rects.json, or a folder of .lms landmarks",
    )
    network = avatar.add_mutually_exclusive_group(required=True)
    network.add_argument("--checkpoint", type=Path, metavar="P", help="the network's .pth file")
    network.add_argument("--onnx", type=Path, metavar="F", help="the network's .onnx file")
    avatar.add_argument("--family", choices=tuple(FAMILIES), help="only where the weights do not tell")
    avatar.add_argument("--audio", choices=AUDIO_MODES, help="only where the weights do not tell")


def _run_avatar(options: argparse.Namespace) -> None:
    from export.avatar import build_avatar
    from export.boxes import read_boxes
    from export.frames import open_frames

    settings = avatar_settings(options, network_said(options), options.encoder)
    console = Console()
    frames = open_frames(options.frames)
    if frames.note:
        console.print(Text(frames.note))
    boxes = read_boxes(options.boxes, frames.names)
    with ProgressBars(console) as bars:
        folder = build_avatar(settings, frames, boxes, bars)
    note = stretched_note(Manifest.load(folder).family, boxes)
    if note:
        console.print(Text(note), soft_wrap=True)
    say_ready(options, console)


def stretched_note(family: str, boxes: Sequence[Box]) -> str:
    """What to say of face boxes that a network of that family sees stretched; nothing if it sees none so."""
    longer = [max(x2 - x1, y2 - y1) / min(x2 - x1, y2 - y1) for x1, y1, x2, y2 in boxes]
    stretched = sum(ratio > MOST_STRETCH for ratio in longer)
    if not FAMILIES[family].square_boxes or not stretched:
        return ""
    return (
        f"{stretched} of {len(boxes)} face boxes are not square, by up to {max(longer) - 1:.0%}: networks of the "
        f"{family} family were trained on squares, and see these faces stretched"
    )


def _run_check(options: argparse.Namespace) -> int:
    from export.check import check_avatars

    table = Table("avatar", "part", "finding")
    whole, console = True, Console()
    with ProgressBars(console) as bars:
        look = None
        if options.deep:
            from export.deep_check import check_avatar_deeply

            look = partial(check_avatar_deeply, progress=bars)
        for finding in check_avatars(options.folder.resolve(), look):
            whole &= finding.good
            text = Text(finding.text, style="green" if finding.good else "red", overflow="fold")
            table.add_row(Text(finding.avatar), finding.part, text)
    console.print(table)
    return 0 if whole else 1
