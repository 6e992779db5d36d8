"""What the commands that build an avatar have in common: ``avatar``, ``import`` and ``prepare``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from compositor_backend import contract
from compositor_backend.manifest import BLENDS
from export.pack_writer import DEFAULT_QUALITY

if TYPE_CHECKING:
    from export.avatar import AvatarSettings, NetworkSource


def add_build_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that do not depend on where the frames come from."""
    parser.add_argument(
        "--encoder", type=Path, metavar="P|F", help="the audio encoder; without it features are sent ready"
    )
    parser.add_argument(
        "--quality",
        type=int,
        default=DEFAULT_QUALITY,
        metavar="Q",
        help=f"of the JPEG frames, 1 to 100 ({DEFAULT_QUALITY})",
    )
    parser.add_argument("--blend", choices=BLENDS, default="hard", help="edge of the pasted face (hard)")
    parser.add_argument(
        "--gpu", action="store_true", help="write the network in half precision too, for GPUs"
    )
    parser.add_argument("--replace", action="store_true", help="build an avatar that is there already anew")


def network_said(options: argparse.Namespace) -> NetworkSource:
    """The network of ``--checkpoint`` or ``--onnx``, with ``--family`` and ``--audio``."""
    from export.avatar import NetworkSource

    # An encoder says that the features are its own, which the weights of ave and hubert networks do not.
    audio = options.audio or ("ave" if options.encoder and options.checkpoint else None)
    return NetworkSource(options.checkpoint or options.onnx, options.family, audio)


def avatar_settings(
    options: argparse.Namespace, network: NetworkSource, encoder: Path | None
) -> AvatarSettings:
    """The avatar to build of that network and audio encoder, by the options."""
    from export.avatar import AvatarSettings

    return AvatarSettings(
        avatar_id=options.id,
        avatars=options.avatars,
        network=network,
        encoder=encoder,
        quality=options.quality,
        blend=options.blend,
        replace=options.replace,
        gpu=options.gpu,
    )


def say_ready(options: argparse.Namespace, console: Console) -> None:
    """Say that the avatar is ready, and what serves it."""
    folder = options.avatars / contract.check_avatar_id(options.id)
    command = f"python -m server --avatars {options.avatars}"
    console.print(Text(f"{folder} is ready: {command}"), soft_wrap=True)
