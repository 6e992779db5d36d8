"""The commands ``pack`` and ``unpack``."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from rich.text import Text

from export.avatar_cli import Commands, ProgressBars


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add the commands to the parser of ``python -m export``."""
    _add_pack(commands)
    _add_unpack(commands)


def _add_pack(commands: Commands[argparse.ArgumentParser]) -> None:
    pack = commands.add_parser(
        "pack", help="make one archive of all that an avatar needs to be served elsewhere"
    )
    pack.add_argument("avatar", metavar="AVATAR_DIR|ID", help="avatars/<id>, or the id alone")
    pack.add_argument(
        "--avatars",
        type=Path,
        default=Path("avatars"),
        metavar="DIR",
        help="where an id is looked for (avatars)",
    )
    pack.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help=".tar, or .tar.gz (about half as large: JPEG data hardly shrinks, the raw pictures do)",
    )
    pack.set_defaults(run=_run_pack)


def _add_unpack(commands: Commands[argparse.ArgumentParser]) -> None:
    unpack = commands.add_parser(
        "unpack", help="make the avatar of such an archive appear, checked, or nothing"
    )
    unpack.add_argument("archive", type=Path, metavar="FILE", help="what `pack` has written")
    unpack.add_argument(
        "--avatars", type=Path, required=True, metavar="DIR", help="the folder of avatars to add to"
    )
    unpack.add_argument("--id", metavar="NEW", help="another id than the archive's")
    unpack.add_argument("--replace", action="store_true", help="exchange an avatar that is there already")
    unpack.set_defaults(run=_run_unpack)


def _run_pack(options: argparse.Namespace) -> None:
    from compositor_backend import contract
    from compositor_backend.manifest import MANIFEST_NAME
    from export.archive import left_out, pack_avatar

    folder = Path(options.avatar).resolve()
    if not (folder / MANIFEST_NAME).is_file() and "/" not in options.avatar:
        folder = options.avatars.resolve() / contract.check_avatar_id(options.avatar)
    console = Console()
    with ProgressBars(console) as bars:
        contents = pack_avatar(folder, options.out, bars)
    size_mb = options.out.stat().st_size / 1e6
    lines = [
        f"{options.out}: {contents.avatar}, {contents.about}; {len(contents.files)} files, {size_mb:.1f} MB"
    ]
    remained = left_out(folder, contents)
    if remained:
        lines.append(f"left out, since they are bound to this machine: {', '.join(remained)}")
    console.print(Text("\n".join(lines)), soft_wrap=True)


def _run_unpack(options: argparse.Namespace) -> None:
    from export.archive import UnpackSettings, unpack_avatar

    console = Console()
    settings = UnpackSettings(options.avatars, options.id, options.replace)
    with ProgressBars(console) as bars:
        folder = unpack_avatar(options.archive, settings, bars)
    text = f"{folder} is ready: python -m server --avatars {options.avatars}"
    console.print(Text(text), soft_wrap=True)
