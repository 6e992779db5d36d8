"""The command ``engine``: engines for a kind of GPU, and what serving takes of a machine's memory."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from export.avatar_cli import Commands, ProgressBars
from export.errors import ExportError

if TYPE_CHECKING:
    from export.memory_plan import MemoryPlan

_GIB, _MIB = 1 << 30, 1 << 20
_AUDIO = {"328": "ave", "160": "hubert"}


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add the command to the parser of ``python -m export``."""
    engine = commands.add_parser(
        "engine", help="build avatars' TensorRT engines for this GPU, or plan a machine's memory"
    )
    engine.add_argument("avatar", nargs="*", metavar="ID", help="the avatars")
    engine.add_argument(
        "--avatars", type=Path, default=Path("avatars"), metavar="DIR", help="the folder of avatars (avatars)"
    )
    engine.add_argument("--force", action="store_true", help="build engines that are there anew")
    plan = engine.add_argument_group("plan")
    plan.add_argument(
        "--plan", action="store_true", help="only say what avatars like these take of a GPU's memory"
    )
    plan.add_argument("--cpu", action="store_true", help="or of a machine's without a GPU")
    plan.add_argument(
        "--family", choices=sorted(_AUDIO), help="plan for a network of this family in full width"
    )
    plan.add_argument(
        "--memory",
        type=float,
        default=24.0,
        metavar="GB",
        help="of the GPU or machine, as its label says (24)",
    )
    plan.add_argument(
        "--instances", type=int, metavar="N", help="of lipsync on the GPU or machine (8; with --cpu 1)"
    )
    plan.add_argument(
        "--context", type=float, metavar="MB", help="what a CUDA context takes, where you know better (800)"
    )
    plan.add_argument("--scratch", type=int, metavar="MIB", help="LIPSTREAM_SCRATCH_MIB (256; with --cpu 64)")
    engine.set_defaults(run=_run_engine)


def _run_engine(options: argparse.Namespace) -> None:
    if options.plan:
        _print_plans(options)
        return
    _build_engines(options)


def _folders(options: argparse.Namespace) -> list[Path]:
    from compositor_backend import contract

    return [options.avatars / contract.check_avatar_id(avatar_id) for avatar_id in options.avatar]


# --- engines ---
def _build_engines(options: argparse.Namespace) -> None:
    from export.engine import build_engine, this_machine

    if not options.avatar:
        raise ExportError("engine: expected the id of an avatar, got none")
    machine = this_machine()
    console = Console()
    lines, folders = [], _folders(options)
    with ProgressBars(console) as bars:
        for number, folder in enumerate(folders, 1):
            lines.append(str(build_engine(folder, machine, force=options.force)))
            bars("engines", number, len(folders))
    console.print(Text("\n".join(lines)), soft_wrap=True)


# --- plan ---
def _print_plans(options: argparse.Namespace) -> None:
    if not options.avatar and options.family is None:
        raise ExportError("engine --plan: expected the id of an avatar, or --family, got neither")
    console = Console()
    for folder in _folders(options):
        console.print(_table(f"avatars like {folder.name}", _plan_of_avatar(options, folder)))
    if options.family is not None:
        with _network(options.family) as graph:
            plan = _plan_of_network(options, graph)
        console.print(_table(f"networks of the {options.family} family", plan))


def _plan_of_avatar(options: argparse.Namespace, folder: Path) -> MemoryPlan:
    from export.memory_plan import cpu_plan, gpu_plan

    if options.cpu:
        return cpu_plan(folder, **_limits(options))
    return gpu_plan(folder, **_limits(options), **_context(options))


def _plan_of_network(options: argparse.Namespace, graph: Path) -> MemoryPlan:
    from export.graph_memory import read_memory
    from export.memory_plan import cpu_plan_of, gpu_plan_of

    size = graph.stat().st_size
    if options.cpu:
        return cpu_plan_of(graph, size, **_limits(options))
    return gpu_plan_of(read_memory(graph).halved(), size // 2, **_limits(options), **_context(options))


def _limits(options: argparse.Namespace) -> dict[str, int]:
    limits = {"memory_bytes": int(options.memory * _GIB)}
    if options.instances is not None:
        limits["instances"] = options.instances
    if options.scratch is not None:
        limits["scratch_bytes"] = options.scratch * _MIB
    return limits


def _context(options: argparse.Namespace) -> dict[str, int]:
    return {} if options.context is None else {"context_bytes": int(options.context * 1e6)}


@contextmanager
def _network(family: str) -> Iterator[Path]:
    """The graph of a network of a family in full width, with weights of no meaning."""
    from export.networks.unet import LipSyncUNet
    from export.onnx_export import write_unet

    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / "network.onnx"
        write_unet(LipSyncUNet(family, _AUDIO[family]).eval(), "0" * 64, graph)
        yield graph


def _table(what: str, plan: MemoryPlan) -> Table:
    precision = "half precision" if plan.device == "GPU" else "float32"
    title = (
        f"{plan.memory_bytes / _GIB:g} GB, {plan.instances} instances on a {plan.device}, {what}, {precision}"
    )
    table = Table("each instance of lipsync", "MB", "", title=title)
    table.columns[1].justify = "right"
    for name, size, source in _lines(plan):
        table.add_row(name, f"{size / 1e6:,.0f}", source)
    table.caption = f"LIPSTREAM_NETWORK_CACHE_MIB={plan.network_cache_mib}"
    return table


def _lines(plan: MemoryPlan) -> Iterator[tuple[str, int, str]]:
    on_gpu = plan.device == "GPU"
    yield (
        "CUDA context" if on_gpu else "process",
        plan.process_bytes,
        "measured, H100" if on_gpu else "measured",
    )
    if on_gpu:
        yield "cuDNN workspace", plan.workspace_bytes, "assumed"
    yield (
        f"activations: {plan.rows} rows a run, {plan.row_bytes / 1e6:.1f} MB each",
        plan.scratch_bytes,
        "computed",
    )
    yield "the arena's rounding of that", plan.arena_bytes - plan.scratch_bytes, "computed"
    yield (
        f"{plan.resident} resident avatars, {plan.network_bytes / 1e6:.1f} MB each "
        f"({plan.weight_bytes / 1e6:.1f} MB weights)",
        plan.resident * plan.network_bytes,
        "computed",
    )
    yield "together", plan.instance_bytes, ""
    yield f"{plan.instances} of them", plan.instances * plan.instance_bytes, ""
    yield "the instance of audio_encoder", plan.encoder_bytes, "its settings"
    yield "all", plan.total_bytes, ""
    yield "there is", plan.usable_bytes, "8 % kept free"
