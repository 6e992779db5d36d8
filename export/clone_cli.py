"""The command ``clone``."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from rich.text import Text

from export.avatar_cli import Commands, ProgressBars


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add the command to the parser of ``python -m export``."""
    clone = commands.add_parser(
        "clone",
        help="make many avatars of one, for tests and demos: together hardly larger",
    )
    clone.add_argument("--from", dest="source", required=True, metavar="ID", help="the avatar to clone")
    clone.add_argument("--count", type=int, required=True, metavar="N", help="so many clones")
    clone.add_argument(
        "--avatars", type=Path, default=Path("avatars"), metavar="DIR", help="the folder of avatars (avatars)"
    )
    clone.add_argument("--prefix", metavar="NAME", help="what their ids begin with (the avatar's id)")
    clone.add_argument("--first", type=int, default=1, metavar="N", help="the first one's number (1)")
    clone.add_argument(
        "--recolour",
        action="store_true",
        help="give each a colour of its own, and its id in every JPEG; takes some seconds and MB each",
    )
    clone.set_defaults(run=_run_clone)


def _run_clone(options: argparse.Namespace) -> None:
    from export.clone import clone_avatars, clone_ids

    ids = clone_ids(options.prefix or options.source, options.count, options.first)
    console = Console()
    with ProgressBars(console) as bars:
        clone_avatars(options.avatars, options.source, ids, bars, recolour=options.recolour)
    are = "is" if len(ids) == 1 else "are"
    lines = [
        f"{len(ids)} of {options.source} {are} ready: {ids[0]} to {ids[-1]}",
        f"python -m server --avatars {options.avatars}",
    ]
    console.print(Text("\n".join(lines)), soft_wrap=True)
