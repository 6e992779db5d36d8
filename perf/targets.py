"""The numbers that this project set out to reach, held against a report."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from perf.machine import NO_GPU
from perf.markdown import measured
from perf.results import Figure, Report

Verdict = Literal["met", "missed", "not measured", "not in a quick run", "not run on a GPU"]

_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    ">=": operator.ge,
}
_SIGNS = {"<=": "≤", ">=": "≥", "==": "="}


@dataclass(frozen=True)
class Target:
    """`figure` is to be `relation` ("<", "<=", "==" or ">=") `bound`; `show` numbers the claim that it is of."""

    show: int
    figure: str
    text: str
    relation: str
    bound: float
    unit: str
    gpu: bool = False

    @property
    def wanted(self) -> str:
        """The relation and the bound as a person writes them: "≤ 1.2 ms/frame"."""
        bound = f"{self.bound:,g}"
        sign = _SIGNS.get(self.relation, self.relation)
        return f"{sign} {bound}×" if self.unit == "x" else f"{sign} {bound} {self.unit}".rstrip()


TARGETS = (
    Target(1, "compose.1280x720.ratio", "CPU of whole frames over Lipstream's, 1280×720", ">=", 8, "x"),
    Target(1, "compose.1920x1080.ratio", "CPU of whole frames over Lipstream's, 1920×1080", ">=", 15, "x"),
    Target(1, "compose.3840x2160.ratio", "CPU of whole frames over Lipstream's, 3840×2160", ">=", 50, "x"),
    Target(1, "compose.identical", "share of frames with a whole frame's pixels", "==", 1, ""),
    Target(1, "compose.4k_to_720p", "cost at 3840×2160 over that at 1280×720, same box", "<=", 1.3, "x"),
    Target(2, "serving.lipstream.cpu_ms", "a frame but for the U-Net, all processes", "<=", 0.5, "ms/frame"),
    Target(2, "serving.cpu_ratio", "the separated baseline's over Lipstream's", ">=", 12, "x"),
    Target(3, "memory.pack_gb", "avatar of 523 frames at 1280×720", "<=", 0.30, "GB"),
    Target(3, "memory.compositor_instance_mb", "memory that another compositor adds", "<", 40, "MB"),
    Target(3, "residents.avatar_mb", "memory that another resident avatar adds", "<=", 20, "MB"),
    Target(4, "first_frame.saved_later_ms", "an avatar not in memory, graph saved: later", "<=", 80, "ms"),
    Target(4, "first_frame.unsaved_later_ms", "the same, never seen before", "<=", 250, "ms"),
    Target(5, "streams.demo.fps", "the demo end to end", ">=", 25, "frames/s"),
    Target(5, "streams.demo.first_frame_ms", "time to first frame in chunks of 5", "<=", 250, "ms"),
    Target(6, "idle.fps", "idle frames", ">=", 1500, "frames/s"),
    Target(6, "idle.20_streams_cores", "20 idle streams", "<=", 1, "core"),
    Target(7, "streams.saturation_drop_pct", "throughput lost from 1 to 16 clients", "<", 10, "%"),
    Target(7, "streams.lost_or_disordered", "frames lost or out of order", "==", 0, "frames"),
    Target(7, "streams.p99_to_p50", "p99 over p50 of latency at 80 % load", "<=", 3, "x"),
    Target(8, "catalogue.wrong_frames", "11,000 avatars: frames of another", "==", 0, "frames"),
    Target(8, "catalogue.lost_frames", "11,000 avatars: frames lost", "==", 0, "frames"),
    Target(8, "catalogue.hit_rate_below_pct", "hit rate below a simulated LRU's", "<=", 1, "%"),
    Target(8, "catalogue.start_later_s", "starting with 11,000 avatars: later", "<=", 0.2, "s"),
    Target(8, "catalogue.memory_growth_pct", "memory at the end over that early on", "<=", 5, "%"),
    Target(9, "regions.bytes_share", "bytes of a region over those of the frame", "<=", 0.12, ""),
    Target(9, "regions.cpu_ratio", "CPU of a region over that of the frame", "<", 1, "x"),
    Target(10, "gpu.fps", "full-width network end to end on a GPU", ">=", 2000, "frames/s", gpu=True),
)


@dataclass(frozen=True)
class Result:
    """A target and what the report says of it; `fails` if the run as a whole falls short by it."""

    target: Target
    figure: Figure | None
    verdict: Verdict
    fails: bool

    @property
    def line(self) -> str:
        """Number, text, target, measured value and verdict, in columns."""
        target = self.target
        return f"{target.show}  {target.text:<50} {target.wanted:<16}  {measured(self.figure):>15}  {self.verdict}"


def judge(report: Report) -> Iterator[Result]:
    """Every target in order. One not measured fails only a full run, and one of a GPU only where there is one."""
    on_gpu = report.machine.get("GPU", NO_GPU) != NO_GPU
    for target in TARGETS:
        figure = report.find(target.figure)
        if figure is not None:
            met = _COMPARE[target.relation](figure.value, target.bound)
            yield Result(target, figure, "met" if met else "missed", not met)
        elif target.gpu and not on_gpu:
            yield Result(target, None, "not run on a GPU", False)
        elif report.scale != "full":
            yield Result(target, None, "not in a quick run", False)
        else:
            yield Result(target, None, "not measured", True)
