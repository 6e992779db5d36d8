"""The command ``prepare``: face boxes, and with a network the avatar itself, from a video."""

from __future__ import annotations

import argparse
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from compositor_backend import contract
from compositor_backend.geometry import FAMILIES
from export.avatar_cli import Commands, ProgressBars
from export.build_options import add_build_options, avatar_settings, network_said
from export.networks.families import AUDIO_MODES

if TYPE_CHECKING:
    from export.frames import FrameSource
    from export.prepare import FaceBoxes

_EPILOG = (
    "Look at contact-sheet.png before you serve the avatar. Without a network only boxes and sheet are written; "
    "python -m export avatar goes on from there."
)


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add the command to the parser of ``python -m export``."""
    parser = commands.add_parser(
        "prepare", help="find the face in a video, and make its avatar", epilog=_EPILOG
    )
    parser.add_argument("frames", type=Path, metavar="VIDEO|FOLDER", help="somebody, alone in the picture")
    parser.add_argument("--id", required=True, help="a-z, 0-9, '_' and '-', at most 64")
    _add_networks(parser)
    parser.add_argument(
        "--fill",
        type=int,
        default=0,
        metavar="N",
        help="bridge up to N frames without a face (0: refuse them)",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("out/prepare"), metavar="DIR", help="for DIR/ID (out/prepare)"
    )
    parser.add_argument(
        "--avatars", type=Path, default=Path("avatars"), metavar="DIR", help="the folder of avatars (avatars)"
    )
    add_build_options(parser)
    parser.set_defaults(run=_run)


def _add_networks(parser: argparse.ArgumentParser) -> None:
    network = parser.add_mutually_exclusive_group()
    network.add_argument("--checkpoint", type=Path, metavar="P", help="the network's .pth file")
    network.add_argument("--onnx", type=Path, metavar="F", help="the network's .onnx file")
    parser.add_argument(
        "--family", choices=tuple(FAMILIES), help="whose boxes to make (328), where no network tells"
    )
    parser.add_argument("--audio", choices=AUDIO_MODES, help="only where the weights do not tell")


def _run(options: argparse.Namespace) -> None:
    from export.frames import open_frames
    from export.prepare import prepared_folder, refuse_existing

    console = Console()
    refuse_existing(options.out, options.id, options.replace)
    family = _family(options)
    frames = open_frames(options.frames)
    with ProgressBars(console) as bars:
        found, seconds = _find(options, frames, family, bars)
        source = (options.frames, frames)
        with prepared_folder(options.out, options.id, source, found, family, options.replace):
            if _network(options) is not None:
                _build(options, frames, found, bars)
    for note in (frames.note, *found.notes):
        if note:
            console.print(Text(f"note: {note}"), soft_wrap=True)
    _say_what_was_made(options, found, seconds, console)


def _network(options: argparse.Namespace) -> Path | None:
    network: Path | None = options.checkpoint or options.onnx
    return network


def _family(options: argparse.Namespace) -> str:
    """The family whose boxes are wanted; what cannot become an avatar is refused before the work begins."""
    from export.errors import ExportError
    from export.importers.weights import describe
    from export.prepare import DEFAULT_FAMILY

    network = _network(options)
    if network is None:
        for name in ("encoder", "audio"):
            if getattr(options, name) is not None:
                option = name.replace("_", "-")
                raise ExportError(f"--{option} was said without a network (--checkpoint or --onnx)")
        return str(options.family or DEFAULT_FAMILY)
    there = options.avatars / contract.check_avatar_id(options.id)
    if there.exists() and not options.replace:
        raise ExportError(f"{there} is there already; say --replace to build it anew")
    weights = describe(network, "as said", options.family)
    if len(weights.modes) > 1 and options.audio is None and options.encoder is None:
        raise ExportError(
            f"{network} does not tell its audio mode: say whether it is {' or '.join(weights.modes)} (--audio)"
        )
    return weights.family


def _find(
    options: argparse.Namespace, frames: FrameSource, family: str, bars: ProgressBars
) -> tuple[FaceBoxes, float]:
    """The boxes, and how many seconds they took."""
    from export.landmarks import MediaPipeFinder
    from export.prepare import BoxSettings, find_boxes

    settings = BoxSettings(family, options.fill)
    start = time.perf_counter()
    with MediaPipeFinder() as finder:
        found = find_boxes(frames, finder, settings, bars)
    return found, time.perf_counter() - start


def _build(options: argparse.Namespace, frames: FrameSource, found: FaceBoxes, bars: ProgressBars) -> None:
    from export.avatar import build_avatar

    settings = avatar_settings(options, network_said(options), options.encoder)
    build_avatar(settings, frames, found.boxes, bars)


def _say_what_was_made(
    options: argparse.Namespace, found: FaceBoxes, seconds: float, console: Console
) -> None:
    from export.prepare import BOXES_FILE, SHEET_FILE

    folder, count = options.out / options.id, len(found.boxes)
    widths = [x2 - x1 for x1, _, x2, _ in found.boxes]
    lines = [
        f"{count} faces in {seconds:.1f} s ({count / seconds:.0f} a second), "
        f"{min(widths)} to {max(widths)} px wide",
        f"look at {folder / SHEET_FILE}: each box has to lie on its face",
    ]
    if _network(options) is not None:
        lines.append(f"then: python -m server --avatars {options.avatars} --load {options.id}")
    else:
        frames, boxes = (shlex.quote(str(path)) for path in (options.frames, folder / BOXES_FILE))
        lines.append(
            f"then: python -m export avatar --id {options.id} --frames {frames} --boxes {boxes} "
            f"--checkpoint P --avatars {options.avatars}"
        )
    for line in lines:
        console.print(Text(line), soft_wrap=True)
