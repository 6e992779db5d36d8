"""The commands ``demo-avatar`` and ``contact-sheet``."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from rich.text import Text

from export.avatar_cli import Commands, ProgressBars


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add the commands to the parser of ``python -m export``."""
    avatar = commands.add_parser("demo-avatar", help="build the demo's avatar (no torch needed)")
    avatar.add_argument(
        "--avatars", type=Path, required=True, metavar="DIR", help="the folder of avatars to add to"
    )
    avatar.add_argument("--replace", action="store_true", help="build it anew even if it is up to date")
    avatar.set_defaults(run=_run_avatar)
    sheet = commands.add_parser(
        "contact-sheet", help="draw the demo's frames and the sound that made them into one picture"
    )
    sheet.add_argument(
        "--frames", type=Path, required=True, metavar="DIR", help="JPEG frames of an utterance"
    )
    sheet.add_argument("--audio", type=Path, required=True, metavar="F", help="the utterance")
    sheet.add_argument("--out", type=Path, required=True, metavar="PNG", help="the picture to write")
    sheet.set_defaults(run=_run_sheet)


def _run_avatar(options: argparse.Namespace) -> None:
    from export.demo.avatar import build_demo_avatar

    console = Console()
    with ProgressBars(console) as bars:
        built = build_demo_avatar(options.avatars, options.replace, bars)
    state = "is ready" if built else "is up to date"
    console.print(Text(f"{options.avatars / 'demo'} {state}"), soft_wrap=True)


def _run_sheet(options: argparse.Namespace) -> None:
    from export.demo.contact_sheet import draw_sheet

    sheet = draw_sheet(options.frames, options.audio, options.out)
    console = Console()
    console.print(Text(f"{options.out}: {sheet.width}x{sheet.height} px"), soft_wrap=True)
