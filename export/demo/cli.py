"""The commands `demo-train` and `demo-eval`."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

if TYPE_CHECKING:
    from export.demo.evaluate import Figures, Limits

WORK = Path("out/demo-train")


def add_commands(subparsers: Any) -> None:
    """Register both commands; the chosen one's function is `args.run`, which returns the exit code."""
    train = subparsers.add_parser("demo-train", help="train the demo's audio encoder and U-Net")
    train.add_argument("--minutes", type=float, default=110.0, help="time for everything (default: 110)")
    train.add_argument("--device", default="auto", help="auto (default), cpu or cuda")
    train.add_argument("--workers", type=int, default=2, help="processes on a CPU (default: 2)")
    train.add_argument("--work", type=Path, default=WORK, help=f"work folder, resumed from (default: {WORK})")
    train.add_argument("--out", type=Path, help="where the weights go (default: the demo's own weights)")
    train.add_argument("--seed", type=int, default=0, help="added to the seeds of all stages (default: 0)")
    train.set_defaults(run=run_demo_train)
    evaluate = subparsers.add_parser("demo-eval", help="judge the demo's networks on voices not trained on")
    evaluate.add_argument("--weights", type=Path, help="folder of the weights (default: the demo's own)")
    evaluate.add_argument("--utterances", type=int, default=24, help="by synthetic voices (default: 24)")
    evaluate.add_argument("--sheet", type=Path, help="write a picture of the worst frames there")
    evaluate.add_argument("--threads", type=int, default=0, help="of onnxruntime (default: all cores)")
    evaluate.add_argument("--json", action="store_true", help="print JSON in place of the table")
    evaluate.set_defaults(run=run_demo_eval)


def run_demo_train(args: argparse.Namespace) -> int:
    """Train, or go on with a training that was interrupted."""
    from export.demo.evaluate import WEIGHTS
    from export.demo.train import TrainSettings, train

    base = TrainSettings(args.work, args.out or WEIGHTS, args.minutes, args.device, args.workers)
    seeded = {
        name: replace(getattr(base, name), seed=getattr(base, name).seed + args.seed)
        for name in ("corpus", "encoder", "pictures", "unet")
    }
    console = Console()
    with _progress(console) as bars:
        recipe = train(replace(base, **seeded), _Bars(bars))
    console.print_json(json.dumps(recipe["validation"]))
    return 0


def run_demo_eval(args: argparse.Namespace) -> int:
    """Print the figures; 1 where one falls short."""
    from export.demo.evaluate import (
        WEIGHTS,
        EvaluationSettings,
        Limits,
        Networks,
        WorstFrames,
        evaluate,
        report,
    )
    from export.demo.recordings import recordings

    console, limits = Console(), Limits()
    networks = Networks(args.weights or WEIGHTS, args.threads)
    worst = None if args.sheet is None else WorstFrames()
    with _progress(Console(stderr=True)) as bars:
        task = bars.add_task("utterances", total=args.utterances + sum(1 for _ in recordings()))
        settings = EvaluationSettings(args.utterances)
        figures = evaluate(networks, settings, lambda done: bars.update(task, completed=done), worst)
    if worst is not None:
        args.sheet.parent.mkdir(parents=True, exist_ok=True)
        worst.sheet().save(args.sheet)
    if args.json:
        console.print_json(json.dumps(report(figures, limits)))
    else:
        console.print(_table(figures, limits))
    shortfalls = figures.shortfalls(limits)
    for shortfall in shortfalls:
        Console(stderr=True).print(f"falls short: {shortfall}")
    return 1 if shortfalls else 0


class _Bars:
    """A progress bar for each stage of a training, added when the stage begins."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, Any] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=total)
        self._bars.update(self._tasks[stage], completed=done)


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TimeRemainingColumn(), console=console)


def _table(figures: Figures, limits: Limits) -> Table:
    title = f"The demo on voices and sentences not trained on ({figures.frames} frames)"
    table = Table("measured in the output's pixels", "figure", "limit", title=title)
    rows = [("correlation of the opening", f"{figures.correlation:.3f}", "")]
    for voice, value in figures.correlation_by_voice.items():
        rows.append((f"  {voice} voices", f"{value:.3f}", f">= {limits.correlation}"))
    closed, away = f"closed on p, b, m (of {figures.closures})", f"in {figures.outside_frames} frames"
    rows += [
        (
            "opening in pauses, mean share of the range",
            f"{figures.silence_mean:.2%}",
            f"<= {limits.silence:.0%}",
        ),
        ("opening in pauses, 95th percentile", f"{figures.silence_p95:.2%}", ""),
        (closed, f"{figures.closed_rate:.1%}", f">= {limits.closed:.0%}"),
        ("opening speed over the truth's", f"{figures.opening_speed:.2f}", ""),
        ("closing speed over the truth's", f"{figures.closing_speed:.2f}", ""),
        ("PSNR of the face box, mean of the frames", f"{figures.psnr_db:.2f} dB", f">= {limits.psnr_db} dB"),
        ("PSNR of the worst frame", f"{figures.worst_psnr_db:.2f} dB", f">= {limits.worst_psnr_db} dB"),
        ("largest error away from the mouth", f"{figures.outside:.1f} ({away})", f"<= {limits.outside:.0f}"),
        ("flicker where the truth is still", f"{figures.flicker:.2f}", ""),
    ]
    for row in rows:
        table.add_row(*row)
    return table
