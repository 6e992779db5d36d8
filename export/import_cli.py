"""The command ``import``: an avatar from a folder as people have it, in whatever format that is."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.prompt import Prompt
from rich.text import Text

from compositor_backend import contract
from export.avatar_cli import Commands, ProgressBars
from export.build_options import add_build_options, avatar_settings, say_ready
from export.networks.families import AUDIO_MODES

if TYPE_CHECKING:
    from export.importers.base import Source, UndecidedError, Wanted

_EPILOG = (
    "Formats are told apart by what lies in PATH. A video, or pictures with a JSON of boxes, and a network are "
    "imported by python -m export avatar."
)


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add the command to the parser of ``python -m export``."""
    parser = commands.add_parser(
        "import", help="make a served avatar of a folder in any of the known formats", epilog=_EPILOG
    )
    parser.add_argument("path", type=Path, metavar="PATH", help="the avatar's or data set's folder")
    parser.add_argument("--id", required=True, help="a-z, 0-9, '_' and '-', at most 64")
    parser.add_argument(
        "--avatars", type=Path, default=Path("avatars"), metavar="DIR", help="the folder of avatars (avatars)"
    )
    parser.add_argument("--format", metavar="F", help="take PATH for this format, where several fit")
    _add_networks(parser)
    add_build_options(parser)
    parser.add_argument("--dry-run", action="store_true", help="only say what is found and assumed")
    parser.set_defaults(run=_run_import)


def _add_networks(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint", type=Path, metavar="P", help="the network (.pth or .onnx), or a folder of checkpoints"
    )
    parser.add_argument("--audio", choices=AUDIO_MODES, help="only where neither weights nor folder tell")
    parser.add_argument("--family", metavar="F", help="the network's, to be compared with the weights")


def _run_import(options: argparse.Namespace) -> int:
    from export.importers.base import Wanted

    console = Console(soft_wrap=True)
    contract.check_avatar_id(options.id)
    if not options.dry_run and _was_finished(options, console):
        return 0
    wanted = Wanted(options.checkpoint, options.encoder, options.audio, options.family)
    source = _found(options.path, options.format, wanted, console)
    if options.dry_run:
        console.print(Text("nothing was built, as --dry-run says"))
    else:
        _build(options, source, console)
    return 0


def _was_finished(options: argparse.Namespace, console: Console) -> bool:
    """Put imports in order that were cut off; whether one of them had this avatar ready, so that all is done."""
    from export.atomic import root_lock, settle_dead_stages

    folder = options.avatars / contract.check_avatar_id(options.id)
    if folder.exists() or not options.avatars.is_dir():
        return False
    with root_lock(options.avatars):
        settle_dead_stages(options.avatars)
    if options.replace or not folder.exists():
        return False
    console.print(
        Text(
            f"an import of {options.id} that was cut off had all ready: it is finished now (--replace builds anew)"
        )
    )
    say_ready(options, console)
    return True


def _found(path: Path, name: str | None, wanted: Wanted, console: Console) -> Source:
    """What the importer that fits reads; what the folder does not tell is asked for, where somebody can answer."""
    from export.importers.base import UndecidedError
    from export.importers.choice import choose

    while True:
        try:
            importer, evidence = choose(path, wanted, name)
            source = importer.read(path, wanted)
            break
        except UndecidedError as question:
            answer = _ask(question, console)
            if question.option == "--format":
                name = answer
            else:
                wanted = _answered(wanted, question.option, answer)
    console.print(Text(f"{path} is {importer.LABEL} ({importer.NAME}): {evidence.found}"))
    for kind, sentences in (("found", source.found), ("assumed", source.assumed), ("note", source.notes)):
        for sentence in sentences:
            console.print(Text(f"  {kind + ':':9}{sentence}"))
    return source


def _ask(question: UndecidedError, console: Console) -> str:
    if not (sys.stdin.isatty() and console.is_terminal):
        raise question
    console.print(Text(f"{question.sentence}."))
    try:
        return Prompt.ask(question.option.removeprefix("--"), console=console, choices=list(question.choices))
    except EOFError:
        raise question from None


def _answered(wanted: Wanted, option: str, answer: str) -> Wanted:
    if option == "--checkpoint":
        return dataclasses.replace(wanted, checkpoint=Path(answer))
    return dataclasses.replace(wanted, audio=answer)


def _build(options: argparse.Namespace, source: Source, console: Console) -> None:
    from export.avatar import build_avatar

    settings = avatar_settings(options, source.network, source.encoder)
    if console.is_terminal:
        with ProgressBars(console) as bars:
            build_avatar(settings, source.frames, source.boxes, bars)
    else:
        build_avatar(settings, source.frames, source.boxes, ProgressLines(console))
    say_ready(options, console)


class ProgressLines:
    """A line for each step that ends, and for each hundred frames of it: for logs, where bars are of no use."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __call__(self, what: str, done: int, total: int) -> None:
        """Say how far `what` is."""
        if done and (done == total or done % 100 == 0):
            self._console.print(Text(f"{what}: {done} of {total}"))
