"""The stages of a frame on the CPU, each beside other ways of doing it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor

from compositor_backend.blend import BLENDS, paste, paste_area, resize_mouth
from compositor_backend.compositor import compose, region_segments
from compositor_backend.contract import pcm_samples
from compositor_backend.jpeg import JpegSettings, encode
from compositor_backend.mel import mel_spectrogram
from compositor_backend.pack import AvatarPack
from compositor_backend.splice import splice
from compositor_backend.windows import network_audio, request_windows, window_count
from perf.allocation import keeping_freed_memory
from perf.bench import Bench
from perf.measured import cpu_figure
from perf.results import Plot, Section, Series
from perf.side_by_side import Log, null_system
from perf.side_by_side import measure as measure_systems
from perf.subjects import Pixels, source_frames

BATCH = 25
"""Frames of a sample: those of a request."""
SIZE = "1280x720"
CHAIN = ("gather", "paste", "encode", "splice", "response")
"""The stages of a frame's way through the server's Python, in order; `features` and `mel` come before, with speech."""
TEXT = f"""\
CPU time of one thread, a sample being a request of {BATCH} frames at {SIZE}; every stage and its alternatives in turns.
What Lipstream does stands first in each stage. `gather`: what the network sees of each frame; `paste`: the mouth
resampled to its size in the frame and laid over it; `encode`: the face's segments; `splice`: their place among the
frame's others; `response`: Triton's form of the JPEGs and back, by the client library's own functions; `mel` and
`features`: from speech to the audio encoder's windows, and from embeddings to the network's input. OpenCV's resizing
is without antialiasing (`INTER_LINEAR`) or slow (`INTER_AREA`); Pillow's is what the compiled paste is measured by.
"""

System = Callable[[int], object]


@dataclass(frozen=True)
class Way:
    """A way of doing a stage; the first of a stage is Lipstream's."""

    stage: str
    name: str
    label: str
    run: System


def measure(bench: Bench) -> Section:
    """Figures ``stage.<stage>.<way>`` in ms a frame."""
    with AvatarPack(bench.null_pack(SIZE, BATCH)) as pack, keeping_freed_memory():
        frames = source_frames(bench.avatars, SIZE, BATCH)
        bench.tell("stages of a frame")
        ways = [
            *_picture_ways(pack, frames),
            *_sound_ways(),
            Way("harness", "null", "the harness", null_system),
        ]
        log = measure_systems({f"{way.stage}.{way.name}": way.run for way in ways}, bench.settings)
    figures = [
        cpu_figure(log, n := f"{w.stage}.{w.name}", f"stage.{n}", f"{w.stage}: {w.label}", BATCH)
        for w in ways
    ]
    return Section(
        "stages", "Stages of a frame", TEXT, tuple(figures), (_waterfall(log, ways), _bars(log, ways))
    )


# --- pictures ---
def _picture_ways(pack: AvatarPack, frames: list[Pixels]) -> list[Way]:
    template = np.arange(pack.frames)
    mouths = np.ascontiguousarray(pack.faces.transpose(0, 2, 3, 1))
    stages = (_gather_ways(pack, template, mouths), _paste_ways(pack, mouths), _encode_ways(pack, frames))
    return [way for stage in (*stages, _join_ways(pack, template, mouths)) for way in stage]


def _gather_ways(pack: AvatarPack, template: NDArray[np.intp], mouths: NDArray[np.uint8]) -> list[Way]:
    back = template[::-1].copy()
    return [
        Way(
            "gather",
            "mapped",
            "where it is mapped, and one copy",
            lambda _: pack.faces[template[0] : template[-1] + 1].copy(),
        ),
        Way("gather", "back", "the same, time running backwards", lambda _: pack.faces[back]),
        Way("gather", "transpose", "from interleaved crops", lambda _: mouths.transpose(0, 3, 1, 2).copy()),
    ]


def _paste_ways(pack: AvatarPack, mouths: NDArray[np.uint8]) -> list[Way]:
    boxes = [np.zeros((y2 - y1, x2 - x1, 3), np.uint8) for x1, y1, x2, y2 in pack.rects.tolist()]
    areas = [paste_area(box.shape[1], box.shape[0], pack.family) for box in boxes]
    inner = [box[area.rows, area.columns] for box, area in zip(boxes, areas, strict=True)]

    def each(one: Callable[[int], object]) -> System:
        return lambda _: [one(number) for number in range(len(boxes))]

    def kernel(blend: str) -> System:
        return each(lambda n: paste(boxes[n], mouths[n], pack.family, blend))

    def pillow(blend: str) -> System:
        return each(lambda n: BLENDS[blend](inner[n], resize_mouth(mouths[n], areas[n])))

    def opencv(interpolation: int) -> System:
        def one(n: int) -> None:
            height, width = inner[n].shape[:2]
            inner[n][:] = cv2.resize(mouths[n], (width, height), interpolation=interpolation)

        return each(one)

    cv2.setNumThreads(1)
    return [
        Way("paste", "hard", "compiled, hard", kernel("hard")),
        Way("paste", "feather", "compiled, feather", kernel("feather")),
        Way("paste", "pillow_hard", "Pillow, hard", pillow("hard")),
        Way("paste", "pillow_feather", "Pillow, feather", pillow("feather")),
        Way("paste", "opencv_linear", "OpenCV INTER_LINEAR, hard", opencv(cv2.INTER_LINEAR)),
        Way("paste", "opencv_area", "OpenCV INTER_AREA, hard", opencv(cv2.INTER_AREA)),
    ]


def _encode_ways(pack: AvatarPack, frames: list[Pixels]) -> list[Way]:
    regions = [pack.region_pixels(number).copy() for number in range(pack.frames)]
    stacks = [np.concatenate(regions[n : n + 8]) for n in range(0, len(regions), 8)]
    whole = JpegSettings(pack.manifest.quality, pack.manifest.subsampling)
    quality = [cv2.IMWRITE_JPEG_QUALITY, pack.manifest.quality]

    def every(pictures: list[Pixels], settings: JpegSettings) -> System:
        return lambda _: [encode(picture, settings) for picture in pictures]

    return [
        Way("encode", "stacked", "the faces of eight frames at once", every(stacks, pack.jpeg_settings)),
        Way("encode", "region", "each face alone", every(regions, pack.jpeg_settings)),
        Way("encode", "whole", "whole frames", every(frames, whole)),
        Way(
            "encode",
            "opencv_whole",
            "whole frames by OpenCV",
            lambda _: [cv2.imencode(".jpg", f, quality) for f in frames],
        ),
    ]


def _join_ways(pack: AvatarPack, template: NDArray[np.intp], mouths: NDArray[np.uint8]) -> list[Way]:
    segments = [region_segments(pack, [frame], mouths[frame : frame + 1]) for frame in template.tolist()]
    keys = np.full((len(template), 1), pack.manifest.network_key, np.int64)
    jpegs = compose(pack, template, mouths, keys)
    array = np.empty(len(jpegs), object)
    array[:] = jpegs

    def spliced(_: int) -> list[bytes]:
        return [
            splice(pack.header, pack.grid, pack.scan, pack.scan_offsets[n], pack.regions[n], segments[n])
            for n in range(pack.frames)
        ]

    return [
        Way("splice", "lipstream", "joined where they are mapped", spliced),
        Way(
            "splice",
            "copy",
            "the floor: the bytes copied",
            lambda _: [bytes(memoryview(jpeg)[1:]) for jpeg in jpegs],
        ),
        Way(
            "response",
            "bytes",
            "as BYTES, and back",
            lambda _: deserialize_bytes_tensor(serialize_byte_tensor(array).item()),
        ),
    ]


# --- sound ---
def _sound_ways() -> list[Way]:
    random = np.random.default_rng(0)
    pcm = random.integers(-3000, 3000, pcm_samples(BATCH), np.int16)
    embeddings = random.standard_normal((window_count(BATCH), 512), np.float32)
    return [
        Way("mel", "windows", "mel and its windows", lambda _: request_windows(pcm)),
        Way("mel", "mel", "mel alone", lambda _: mel_spectrogram(pcm)),
        Way(
            "features", "windows", "windows of embeddings", lambda _: network_audio(embeddings, (32, 16, 16))
        ),
    ]


# --- pictures of it ---
def _waterfall(log: Log, ways: list[Way]) -> Plot:
    """One frame, stage by stage, with all that came before below it; and the whole-frame way's beside it."""
    ours = {stage: next(w for w in ways if w.stage == stage) for stage in CHAIN}
    theirs: Mapping[str, str] = {"gather": "transpose", "paste": "pillow_hard", "encode": "whole"}
    series = [
        Series(
            stage,
            (
                ("Lipstream", _ms(log, f"{stage}.{way.name}")),
                ("whole frames", _ms(log, f"{stage}.{theirs[stage]}") if stage in theirs else 0.0),
            ),
        )
        for stage, way in ours.items()
    ]
    return Plot("waterfall", "A frame's way, stage by stage", "", "CPU ms a frame", "stacked", tuple(series))


def _bars(log: Log, ways: list[Way]) -> Plot:
    points = tuple(
        (f"{w.stage}: {w.label}", _ms(log, f"{w.stage}.{w.name}")) for w in ways if w.name != "null"
    )
    return Plot(
        "stages", "Stages and their alternatives", "", "CPU ms a frame", "bars", (Series("CPU", points),)
    )


def _ms(log: Log, system: str) -> float:
    return log.cpu_percentiles_ms(system, 50)[0] / BATCH
