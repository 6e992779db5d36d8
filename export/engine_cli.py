"""The command ``engine``: engines for a kind of GPU, and what serving takes of its memory."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from export.avatar_cli import Commands, ProgressBars

if TYPE_CHECKING:
    from export.memory_plan import MemoryPlan


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add the command to the parser of ``python -m export``."""
    engine = commands.add_parser(
        "engine", help="build avatars' TensorRT engines for this GPU, or plan a GPU's memory"
    )
    engine.add_argument("avatar", nargs="+", metavar="ID", help="the avatars")
    engine.add_argument(
        "--avatars", type=Path, default=Path("avatars"), metavar="DIR", help="the folder of avatars (avatars)"
    )
    engine.add_argument(
        "--plan", action="store_true", help="only say what avatars like this one take of a GPU's memory"
    )
    engine.add_argument("--memory", type=float, default=24.0, metavar="GB", help="of the GPU (24)")
    engine.add_argument("--instances", type=int, default=8, metavar="N", help="of lipsync on the GPU (8)")
    engine.set_defaults(run=_run_engine)


def _run_engine(options: argparse.Namespace) -> None:
    from compositor_backend import contract

    console = Console()
    folders = [options.avatars / contract.check_avatar_id(avatar_id) for avatar_id in options.avatar]
    if options.plan:
        from export.memory_plan import plan_of

        for folder in folders:
            console.print(_table(folder.name, plan_of(folder, int(options.memory * 1e9), options.instances)))
        return
    from export.engine import build_engine, engine_platform

    platform = engine_platform()
    lines = []
    with ProgressBars(console) as bars:
        for number, folder in enumerate(folders, 1):
            target, parity = build_engine(folder, platform)
            lines.append(f"{target}: {parity}")
            bars("engines", number, len(folders))
    console.print(Text("\n".join(lines)), soft_wrap=True)


def _table(avatar: str, plan: MemoryPlan) -> Table:
    title = (
        f"{plan.memory_bytes / 1e9:g} GB, {plan.instances} instances, avatars like {avatar}, half precision"
    )
    table = Table("each instance", "MB", title=title)
    for name, size in (
        ("CUDA context (assumed)", plan.context_bytes),
        ("cuDNN workspace (assumed)", plan.workspace_bytes),
        (
            f"activations of {plan.rows} rows a run, {plan.row_bytes / 1e6:.1f} MB each (computed)",
            plan.scratch_bytes,
        ),
        (
            f"weights of {plan.resident} resident avatars, {plan.weight_bytes / 1e6:.1f} MB each (computed)",
            plan.resident * plan.weight_bytes,
        ),
        ("together", plan.instance_bytes),
        ("all instances", plan.instances * plan.instance_bytes),
    ):
        table.add_row(name, f"{size / 1e6:,.0f}")
    table.caption = f"LIPSTREAM_NETWORK_CACHE_MIB={plan.network_cache_mib}"
    return table
