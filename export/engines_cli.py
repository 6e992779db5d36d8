"""The commands ``engine`` and ``engines``."""

from __future__ import annotations

import argparse
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from export.avatar_cli import Commands, ProgressBars

if TYPE_CHECKING:
    from export.engine_settings import EngineSettings
    from export.engines import Finished


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add the commands to the parser of ``python -m export``."""
    engine = commands.add_parser(
        "engine", help="build the engine that serves an avatar on a GPU, and prove it"
    )
    engine.add_argument("avatar", metavar="AVATAR", help="the avatar's id")
    engine.add_argument("--off", action="store_true", help="serve the avatar's model.onnx again, as imported")
    _add_options(engine)
    engine.set_defaults(run=_run_engine)
    engines = commands.add_parser("engines", help="the same for many avatars; what is up to date is skipped")
    engines.add_argument("avatar", nargs="*", metavar="AVATAR", help="ids of avatars, or --all")
    engines.add_argument("--all", action="store_true", help="all avatars of the folder")
    engines.add_argument("--jobs", type=int, default=1, metavar="N", help="so many at a time (1)")
    _add_options(engines)
    engines.set_defaults(run=_run_engines)


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--avatars", type=Path, default=Path("avatars"), metavar="DIR", help="the model repository (avatars)"
    )
    forms = parser.add_mutually_exclusive_group()
    forms.add_argument(
        "--accelerator",
        dest="form",
        action="store_const",
        const="accelerator",
        help="onnxruntime's TensorRT provider, with a cache of the avatar's own, in place of a TensorRT engine",
    )
    forms.add_argument(
        "--onnx",
        dest="form",
        action="store_const",
        const="onnx",
        help="an ONNX graph in fp16; needs no TensorRT and no GPU",
    )
    parser.set_defaults(form="plan")
    parser.add_argument("--precision", choices=("fp32", "fp16"), default="fp16", help="of the engine (fp16)")
    parser.add_argument(
        "--batch",
        default="1,25,32",
        metavar="MIN,OPT,MAX",
        help="rows of the smallest batch, of the one to tune for and of the largest (1,25,32)",
    )
    parser.add_argument("--force", action="store_true", help="build what is up to date, too")


def _settings(options: argparse.Namespace) -> EngineSettings:
    from export.engine_settings import Batches, EngineSettings

    return EngineSettings(options.form, options.precision, Batches.parse(options.batch))


def _run_engine(options: argparse.Namespace) -> None:
    from export.engine import build_engine, network_of, remove_engine

    settings = _settings(options)
    network = network_of(options.avatars, options.avatar)
    if options.off:
        outcome = remove_engine(options.avatars, network)
    else:
        outcome = build_engine(options.avatars, network, settings, force=options.force)
    Console().print(Text(f"{options.avatars / network}: {outcome.text}"), soft_wrap=True)


def _run_engines(options: argparse.Namespace) -> int:
    from export.engine import tensorrt_builder
    from export.engines import build_engines, targets_of
    from export.errors import ExportError

    settings = _settings(options)
    if options.jobs < 1:
        raise ExportError(f"the jobs are {options.jobs}; 1 or more are wanted")
    if options.all == bool(options.avatar):
        raise ExportError("avatars, or --all, are wanted")
    targets, finished = targets_of(options.avatars, None if options.all else options.avatar)
    if settings.form == "plan" and targets:
        # What is missing here is missing for all of them: said once.
        tensorrt_builder()
    console = Console()
    runs = build_engines(options.avatars, targets, settings, options.jobs, force=options.force)
    with ProgressBars(console) as bars, closing(runs):
        bars("engines", 0, len(targets))
        for number, run in enumerate(runs, 1):
            finished.append(run)
            bars("engines", number, len(targets))
    return _summary(console, finished)


def _summary(console: Console, finished: list[Finished]) -> int:
    table = Table("network", "avatars", "engine")
    for run in sorted(finished, key=lambda run: (run.target.network, run.target.avatars)):
        said = run.error or (run.outcome.text if run.outcome else "")
        colour = "red" if run.error else "green"
        avatars = _shortened(run.target.avatars)
        table.add_row(Text(run.target.network), Text(avatars), Text(said, style=colour, overflow="fold"))
    console.print(table)
    failed = sum(run.error is not None for run in finished)
    skipped = sum(run.outcome is not None and run.outcome.why is None for run in finished)
    console.print(f"{len(finished) - failed - skipped} built, {skipped} up to date, {failed} failed")
    return 1 if failed else 0


def _shortened(avatars: tuple[str, ...]) -> str:
    """Many avatars may share a network."""
    if len(avatars) <= 3:
        return ", ".join(avatars)
    return f"{', '.join(avatars[:3])} and {len(avatars) - 3} more"
