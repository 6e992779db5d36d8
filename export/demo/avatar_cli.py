"""The commands ``demo-avatar`` and ``contact-sheet``."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from export.avatar_cli import Commands, show_progress


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add the commands to the parser of ``python -m export``."""
    avatar = commands.add_parser("demo-avatar", help="build the demo's avatar (no torch needed)")
    avatar.add_argument(
        "--avatars", type=Path, required=True, metavar="DIR", help="the model repository to add to"
    )
    avatar.add_argument("--replace", action="store_true", help="build it anew even if it is up to date")
    avatar.set_defaults(run=_run_avatar)
    sheet = commands.add_parser(
        "contact-sheet", help="draw frames and the sound that made them into one picture"
    )
    sheet.add_argument(
        "--frames", type=Path, required=True, metavar="DIR", help="JPEG frames of an utterance"
    )
    sheet.add_argument("--audio", type=Path, required=True, metavar="F", help="the utterance")
    sheet.add_argument(
        "--box", type=int, nargs=4, metavar=("X1", "Y1", "X2", "Y2"), help="close-ups (demo's mouth)"
    )
    sheet.add_argument("--out", type=Path, required=True, metavar="PNG", help="the picture to write")
    sheet.set_defaults(run=_run_sheet)


def _run_avatar(options: argparse.Namespace) -> None:
    from export.demo.avatar import build_demo_avatar

    console = Console()
    with show_progress(console) as bar:
        tasks = {what: bar.add_task(what, total=None) for what in ("network", "frames")}
        built = build_demo_avatar(
            options.avatars,
            options.replace,
            lambda what, done, total: bar.update(tasks[what], completed=done, total=total),
        )
        for task in tasks.values():
            bar.update(task, visible=built)
    console.print(f"{options.avatars}/avatar_demo is {'ready' if built else 'up to date'}")


def _run_sheet(options: argparse.Namespace) -> None:
    from export.demo.contact_sheet import SheetSettings, draw_sheet

    box = tuple(options.box) if options.box else None
    draw_sheet(SheetSettings(options.frames, options.audio, options.out, box))
    Console().print(f"{options.out} is drawn")
