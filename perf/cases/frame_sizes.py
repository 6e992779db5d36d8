"""Composite and encode against the size of the frame: Lipstream beside whole frames, on the same face box."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compositor_backend.blend import paste
from compositor_backend.compositor import compose
from compositor_backend.jpeg import JpegSettings, encode
from compositor_backend.pack import AvatarPack
from perf.allocation import keeping_freed_memory
from perf.bench import Bench
from perf.measured import cpu_figure, ratio_figure, spread_figure
from perf.results import Figure, Plot, Section, Series
from perf.side_by_side import Log, Settings
from perf.side_by_side import measure as measure_systems
from perf.subjects import SIZES, Pixels, decode, source_frames

BATCH = 25
"""Frames of a sample: those of a request."""
WHOLE, LIPSTREAM, COPY, REGION = "whole_frame", "lipstream", "copy", "region"
TEXT = f"""\
A sample is a request of {BATCH} frames with their mouths, as the network gives them, in one thread. *Whole frames*
are kept in memory as RGB, copied, pasted into by the same code, and encoded by the same encoder at the same settings
but for the restart markers. The face box is equally large in all sizes. The decoded pixels of both are compared. The
floor is the encoding of the face's own pixels and the copying of the bytes that go out: what no paste could undercut.
It is measured afterwards, so that it takes no part of the cache from the two.
"""


def measure(bench: Bench) -> Section:
    """Figures ``compose.<size>.…`` for every size of `SIZES`, and what they come to."""
    logs, floors, identical = {}, {}, []
    rounds = Settings(5, 0.5, 1) if bench.quick else Settings(30, 8.0, 2)
    for size in SIZES:
        bench.tell(f"compositing at {size}")
        with AvatarPack(bench.null_pack(size, BATCH)) as pack, keeping_freed_memory():
            subject = Subject.of(pack, source_frames(bench.avatars, size, BATCH))
            identical.append(subject.identical(3 if bench.quick else BATCH))
            logs[size] = measure_systems(subject.ways, rounds)
            floors[size] = measure_systems(subject.floor, rounds)
    figures = [figure for size in SIZES for figure in _size_figures(size, logs[size], floors[size])]
    figures.append(
        Figure("compose.identical", "frames whose pixels equal whole ones", float(np.mean(identical)), "")
    )
    figures.append(_growth(floors))
    return Section("frame_sizes", "Composite and encode", TEXT, tuple(figures), (_plot(logs),))


@dataclass(frozen=True, eq=False)
class Subject:
    """An avatar's pack, the RGB frames that it was made of, and mouths to paste into both."""

    pack: AvatarPack
    frames: list[Pixels]
    mouths: NDArray[np.uint8]

    @classmethod
    def of(cls, pack: AvatarPack, frames: list[Pixels]) -> Subject:
        """With the template's own mouths: what a network draws is as easy to encode."""
        mouths = np.ascontiguousarray(pack.faces.transpose(0, 2, 3, 1))
        return cls(pack, frames, mouths)

    @property
    def ways(self) -> dict[str, Callable[[int], object]]:
        """What is compared, by name; no more than the two, which leave each other that much more of the cache."""
        return {WHOLE: self.whole, LIPSTREAM: self.spliced}

    @property
    def floor(self) -> dict[str, Callable[[int], object]]:
        """Lipstream, and the parts of its work that no paste could undercut."""
        return {LIPSTREAM: self.spliced, COPY: self.copied, REGION: self.region}

    def spliced(self, sample: int) -> list[bytes]:
        """The way of the compositor."""
        template = self.template(sample)
        keys = np.full((len(template), 1), self.pack.manifest.network_key, np.int64)
        return compose(self.pack, template, self.mouths, keys)

    def whole(self, sample: int) -> list[bytes]:
        """The way of whole frames."""
        settings = JpegSettings(self.pack.manifest.quality, self.pack.manifest.subsampling)
        canvas = np.empty_like(self.frames[0])
        done = []
        for frame, mouth in zip(self.template(sample).tolist(), self.mouths, strict=True):
            canvas[:] = self.frames[frame]
            x1, y1, x2, y2 = self.pack.rects[frame].tolist()
            paste(canvas[y1:y2, x1:x2], mouth, self.pack.family, self.pack.manifest.blend)
            done.append(encode(canvas, settings))
        return done

    def copied(self, sample: int) -> list[bytes]:
        """The bytes that go out, and nothing else."""
        return [self.pack.frame_jpeg(frame) for frame in self.template(sample).tolist()]

    def region(self, sample: int) -> list[bytes]:
        """The face's own segments encoded, nothing pasted."""
        return [
            encode(self.pack.region_pixels(frame), self.pack.jpeg_settings)
            for frame in self.template(sample).tolist()
        ]

    def template(self, sample: int) -> NDArray[np.intp]:
        """Every frame once, beginning with another each time."""
        return np.roll(np.arange(self.pack.frames), -sample)

    def identical(self, count: int) -> float:
        """The share of `count` frames that decode to the pixels of whole ones."""
        pairs = list(zip(self.spliced(1), self.whole(1), strict=True))[:count]
        return float(np.mean([np.array_equal(decode(ours), decode(theirs)) for ours, theirs in pairs]))


def _size_figures(size: str, log: Log, floors: Log) -> list[Figure]:
    floor = (floors.cpu_ns[REGION] + floors.cpu_ns[COPY]) / BATCH / 1e6
    return [
        cpu_figure(log, WHOLE, f"compose.{size}.whole_frame_ms", f"{size}: whole frames", BATCH),
        cpu_figure(log, LIPSTREAM, f"compose.{size}.lipstream_ms", f"{size}: Lipstream", BATCH),
        spread_figure(floor, f"compose.{size}.floor_ms", f"{size}: floor", "ms/frame"),
        ratio_figure(log, WHOLE, LIPSTREAM, f"compose.{size}.ratio", f"{size}: whole frames over Lipstream"),
    ]


def _growth(logs: dict[str, Log]) -> Figure:
    """Cost at the largest size over that at the smallest, both without the copying of the bytes that go out."""
    small, large = (
        np.median(log.cpu_ns[LIPSTREAM] - log.cpu_ns[COPY]) for log in (logs["1280x720"], logs["3840x2160"])
    )
    label = "cost at 3840x2160 over that at 1280x720, bytes out aside"
    return Figure("compose.4k_to_720p", label, float(large / small), "x", "less")


def _plot(logs: dict[str, Log]) -> Plot:
    series = [
        Series(
            label, tuple((size, log.cpu_percentiles_ms(system, 50)[0] / BATCH) for size, log in logs.items())
        )
        for system, label in ((WHOLE, "whole frames"), (LIPSTREAM, "Lipstream"))
    ]
    return Plot(
        "frame_sizes", "Composite and encode a frame", "frame", "CPU ms a frame", "bars", tuple(series)
    )
