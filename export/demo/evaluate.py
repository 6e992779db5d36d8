"""Judges the demo's networks as they are served, by what a viewer sees: every frame, the whole face box.

Voices and sentences are those that no network was trained on: people's recordings (`recordings`) and synthetic voices
(`corpus.unseen_samples`). The speech goes the whole way: samples, mel, windows, encoder, U-Net, paste into the face
box; onnxruntime runs the committed files. Truth is the renderer's picture of the true mouth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.ndimage import uniform_filter

from compositor_backend.contract import FRAME_RATE_HZ
from compositor_backend.timeline import template_frames
from compositor_backend.windows import network_audio, utterance_windows
from export.demo.corpus import Sample, finish, pad, unseen_samples
from export.demo.mouth import REST
from export.demo.pictures import inner_crop, pasted, shape
from export.demo.presenter import BOX_SIDE_PX, N_FRAMES, measure_opening, render_box
from export.demo.recordings import recordings

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]

WEIGHTS = Path(__file__).parent / "weights"
AUDIO_SHAPE = (32, 16, 16)
NEIGHBOURHOOD_PX = 8
_TITLE_PX = 14


STILL_PX = 0.3
"""A true mouth whose opening changes by less from one frame to the next is still."""


@dataclass(frozen=True)
class Limits:
    """What is good enough."""

    correlation: float = 0.88
    """Of the opening, for natural voices and for robotic ones."""
    silence: float = 0.01
    """Mean opening in pauses, as a share of the true range."""
    closed: float = 0.93
    """Share of p, b and m at which the lips are seen to meet."""
    psnr_db: float = 33.0
    """Mean over the frames, of the face box."""
    worst_psnr_db: float = 26.0
    """Of any frame."""
    outside: float = 24.0
    """Largest error of any pixel away from the mouth in any frame, after a small blur, in steps of 8 bits."""


@dataclass(frozen=True)
class EvaluationSettings:
    """How many synthetic utterances of about four seconds, and onnxruntime's `threads`, 0 for all cores."""

    utterances: int = 24
    recordings: tuple[str, ...] | None = None
    """Names of the stored ones, None for all."""
    seed: int = 4242
    stride: int = 37
    """Utterance n starts at this many times n of the template's frames; with 0 fewer of them have to be drawn."""
    threads: int = 0
    batch: int = 8


@dataclass(frozen=True)
class Judged:
    """An utterance's frames as measured: openings in px of the face box, and errors of its pixels.

    `template` are the frames' template frames, `errors` mean squared errors of the face box, `outside` the largest
    error away from the mouth, `flicker` the mean change of the error from the frame before, in steps of 8 bits, NaN
    where the true mouth moves.
    """

    voice: str
    measured: Floats
    true: Floats
    silent: NDArray[np.bool_]
    closures: tuple[int, ...]
    """Frames in whose middle lips are shut for p, b or m."""
    errors: Floats
    outside: Floats
    flicker: Floats

    @property
    def is_natural(self) -> bool:
        """Whether it is a person's voice, or made of one."""
        return not self.voice.startswith("espeak")


@dataclass(frozen=True)
class Figures:
    """The result; openings as shares of the true range, PSNR of the face box in dB.

    `opening_speed` and `closing_speed` are those of the fastest twentieth of all movements over the truth's.
    """

    frames: int
    range_px: float
    correlation: float
    correlation_by_voice: dict[str, float]
    silence_mean: float
    silence_p95: float
    closed_rate: float
    closures: int
    psnr_db: float
    worst_psnr_db: float
    outside: float
    outside_frames: int
    """Frames above the limit."""
    flicker: float
    opening_speed: float
    closing_speed: float

    def shortfalls(self, limits: Limits) -> list[str]:
        """A sentence for each limit that is not kept."""
        least = [
            *(
                (f"correlation of {voice}", value, limits.correlation)
                for voice, value in self.correlation_by_voice.items()
            ),
            ("closed on p, b, m", self.closed_rate, limits.closed),
            ("mean PSNR", self.psnr_db, limits.psnr_db),
            ("PSNR of the worst frame", self.worst_psnr_db, limits.worst_psnr_db),
        ]
        most = [
            ("opening in pauses", self.silence_mean, limits.silence),
            ("error away from the mouth", self.outside, limits.outside),
        ]
        return [f"{name} {value:.3f} < {limit}" for name, value, limit in least if value < limit] + [
            f"{name} {value:.3f} > {limit}" for name, value, limit in most if value > limit
        ]


class Networks:
    """The committed encoder and U-Net on onnxruntime."""

    def __init__(self, weights: Path = WEIGHTS, threads: int = 0, batch: int = 8) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        providers = ["CPUExecutionProvider"]
        encoder, unet = weights / "audio_encoder.onnx", weights / "unet.onnx"
        self._encoder = onnxruntime.InferenceSession(str(encoder), options, providers=providers)
        self._unet = onnxruntime.InferenceSession(str(unet), options, providers=providers)
        self._batch = batch

    def embed(self, pcm: NDArray[np.int16]) -> Floats:
        """Embeddings float32 [frames + 15, 512] of an utterance, int16 at 16 kHz."""
        (embedding,) = self._encoder.run(["EMBEDDING"], {"MEL": utterance_windows(pcm)})
        return np.asarray(embedding, np.float32)

    def speak(self, pcm: NDArray[np.int16], boxes: Sequence[Pixels]) -> list[Pixels]:
        """The network's pictures uint8 [320, 320, 3] for the frames of an utterance, of these face boxes."""
        audio = network_audio(self.embed(pcm), AUDIO_SHAPE)
        pictures: list[Pixels] = []
        for n in range(0, len(boxes), self._batch):
            inner = np.stack([inner_crop(box) for box in boxes[n : n + self._batch]])
            feed = {
                "FACE": np.ascontiguousarray(inner.transpose(0, 3, 1, 2)),
                "AUDIO": audio[n : n + self._batch],
            }
            (mouth,) = self._unet.run(["MOUTH"], feed)
            pictures += list(mouth)
        return pictures


@dataclass(frozen=True)
class Seen:
    """A frame worth looking at: what was shown and what should have been, uint8 [side, side, 3], and why."""

    title: str
    badness: float
    shown: Pixels
    truth: Pixels


def unseen_speech(settings: EvaluationSettings) -> Iterator[Sample]:
    """The recordings, then the synthetic voices."""
    for n, (voice, speech) in enumerate(recordings(settings.recordings)):
        rng = np.random.default_rng((settings.seed, 1, n))
        yield finish(pad(speech, 0.4, 0.5), voice, "test", 0.5, None, rng)
    yield from unseen_samples(settings.utterances, settings.seed)


def evaluate(
    networks: Networks,
    settings: EvaluationSettings = EvaluationSettings(),
    progress: Callable[[int], None] = lambda done: None,
    worst: WorstFrames | None = None,
) -> Figures:
    """Let the presenter say the test utterances and measure; `worst` collects the frames least like the truth."""
    neighbourhood = mouth_neighbourhood()
    judged = []
    for n, sample in enumerate(unseen_speech(settings)):
        judged.append(judge(networks, sample, n * settings.stride, neighbourhood, worst))
        progress(n + 1)
    return summarise(judged)


def mouth_neighbourhood() -> NDArray[np.bool_]:
    """Pixels that the mouth's movement may change, bool [side, side]: `mouth_area` and a few around it."""
    rows, columns = mouth_area()
    near = np.zeros((BOX_SIDE_PX, BOX_SIDE_PX), bool)
    near[
        max(0, rows.start - NEIGHBOURHOOD_PX) : rows.stop + NEIGHBOURHOOD_PX,
        max(0, columns.start - NEIGHBOURHOOD_PX) : columns.stop + NEIGHBOURHOOD_PX,
    ] = True
    return near


def mouth_area(threshold: float = 2.0) -> tuple[slice, slice]:
    """Rows and columns of the face box around all pixels that opening the mouth changes much.

    The rectangle of the pixels that differ by more than `threshold` grey levels on average between the mouth
    at rest and six mouths of all kinds, in the first template frame and the middle one.
    """
    mouths = ((0.4, 0, 0, 0, 0), (0.9, 0, 0, 0, 0), (0.5, 1, 0, 0, 0), (0.4, -1, 0, 0, 0), (0.2, 0, 1, 0, 0),
              (0.4, 0, 0, 1, 0))  # fmt: skip
    changes = [
        np.abs(render_box(n, shape(np.array(mouth, np.float32))).astype(np.int16) - render_box(n, REST)).mean(
            axis=2
        )
        for n in (0, N_FRAMES // 2)
        for mouth in mouths
    ]
    changed = np.mean(changes, axis=0) > threshold
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


class WorstFrames:
    """The frames with the lowest PSNR, and those with the largest error away from the mouth, `count` of each."""

    def __init__(self, count: int = 6) -> None:
        self._count = count
        self._kinds: dict[str, list[Seen]] = {}

    def add(self, kind: str, seen: Seen) -> None:
        """Keep it if it is among the worst of its kind."""
        kept = sorted([*self._kinds.get(kind, []), seen], key=lambda one: -one.badness)
        self._kinds[kind] = kept[: self._count]

    def sheet(self) -> Image.Image:
        """Truth, what was shown, and four times the difference, one below the other; a column for each frame."""
        every = [seen for kind in sorted(self._kinds) for seen in self._kinds[kind]]
        tall = 3 * BOX_SIDE_PX + _TITLE_PX
        sheet = Image.new("RGB", (max(1, len(every)) * BOX_SIDE_PX, tall), "white")
        pen = ImageDraw.Draw(sheet)
        for n, seen in enumerate(every):
            difference = np.abs(seen.shown.astype(np.int16) - seen.truth) * 4
            pictures = (seen.truth, seen.shown, np.minimum(difference, 255).astype(np.uint8))
            left = n * BOX_SIDE_PX
            pen.text((left + 2, 2), seen.title, fill="black")
            for row, picture in enumerate(pictures):
                sheet.paste(Image.fromarray(picture), (left, _TITLE_PX + row * BOX_SIDE_PX))
        return sheet


def judge(
    networks: Networks,
    sample: Sample,
    first: int,
    neighbourhood: NDArray[np.bool_],
    worst: WorstFrames | None = None,
) -> Judged:
    """Let the presenter say one utterance, on the template timeline from frame `first` on."""
    mouths = sample.track.mouth
    timeline = np.arange(first, first + len(mouths), dtype=np.int32)
    templates = [int(template) for template in template_frames(timeline, N_FRAMES)]
    boxes = [render_box(template, REST) for template in templates]
    measured, true, errors, outside, flicker = [], [], [], [], []
    before = np.zeros(0, np.float32)
    for n, (template, box, said, mouth) in enumerate(
        zip(templates, boxes, networks.speak(sample.pcm, boxes), mouths, strict=True)
    ):
        shown, truth = pasted(box, said), render_box(template, shape(mouth))
        measured.append(measure_opening(shown, template))
        true.append(measure_opening(truth, template))
        error = shown.astype(np.float32) - truth
        errors.append(np.square(error).mean())
        outside.append(error_away(error, neighbourhood))
        still = n > 0 and abs(true[-1] - true[-2]) < STILL_PX
        flicker.append(np.abs(error - before)[neighbourhood].mean() if still else np.nan)
        before = error
        if worst is not None:
            title = f"{sample.voice} {n}"
            psnr = float(_psnr_db(max(errors[-1], 1e-3)))
            worst.add("PSNR", Seen(f"{title}: {psnr:.1f} dB", -psnr, shown, truth))
            worst.add("outside", Seen(f"{title}: {outside[-1]:.0f} away", outside[-1], shown, truth))
    closures = tuple(min(int(at * FRAME_RATE_HZ), len(mouths) - 1) for at in sample.track.closures_s)
    columns = (measured, true, errors, outside, flicker)
    opened, truly, squared, away, flickered = (np.asarray(values, np.float32) for values in columns)
    return Judged(sample.voice, opened, truly, sample.track.silent, closures, squared, away, flickered)


def error_away(error: Floats, neighbourhood: NDArray[np.bool_]) -> float:
    """The largest error of a pixel away from the mouth, [side, side, 3] in steps of 8 bits, after a mean of 3 x 3."""
    blurred = uniform_filter(error, (3, 3, 1))
    return float(np.abs(blurred)[~neighbourhood].max())


def summarise(
    judged: Sequence[Judged], closed_share: float = 0.1, outside_limit: float = Limits.outside
) -> Figures:
    """Figures over all utterances.

    The range is that of the true openings. Lips count as closed on a p, b or m if the opening is at most
    `closed_share` of the range in the closure's frame or a neighbour.
    """

    def pooled(name: str) -> Floats:
        return np.concatenate([getattr(j, name) for j in judged])

    measured, true, errors, outside = (pooled(name) for name in ("measured", "true", "errors", "outside"))
    range_px = float(true.max() - true.min())
    silent = np.concatenate([j.measured[j.silent] for j in judged]) / range_px
    seen = [
        j.measured[max(0, at - 1) : at + 2].min() <= closed_share * range_px
        for j in judged
        for at in j.closures
    ]
    psnr_db = _psnr_db(np.maximum(errors, 0.05))
    moved = [np.concatenate([np.diff(getattr(j, name)) for j in judged]) for name in ("measured", "true")]
    return Figures(
        frames=len(true),
        range_px=range_px,
        correlation=_correlation(measured, true),
        correlation_by_voice=_by_family(judged),
        silence_mean=float(silent.mean()),
        silence_p95=float(np.percentile(silent, 95)),
        closed_rate=float(np.mean(seen)),
        closures=len(seen),
        psnr_db=float(psnr_db.mean()),
        worst_psnr_db=float(psnr_db.min()),
        outside=float(outside.max()),
        outside_frames=int((outside > outside_limit).sum()),
        flicker=float(np.nan_to_num(np.nanmean(pooled("flicker")))),
        opening_speed=_speed(moved[0]) / _speed(moved[1]),
        closing_speed=_speed(-moved[0]) / _speed(-moved[1]),
    )


def _speed(moved: Floats) -> float:
    """Of the fastest twentieth of all movements in one direction, in px a frame."""
    return max(1e-3, float(np.percentile(np.maximum(moved, 0), 95)))


def _by_family(judged: Sequence[Judged]) -> dict[str, float]:
    families: dict[str, list[Judged]] = {}
    for j in judged:
        families.setdefault("natural" if j.is_natural else "robotic", []).append(j)
    return {
        name: _correlation(np.concatenate([j.measured for j in js]), np.concatenate([j.true for j in js]))
        for name, js in sorted(families.items())
    }


def _correlation(measured: Floats, true: Floats) -> float:
    return float(np.corrcoef(measured, true)[0, 1])


def _psnr_db(error: Any) -> Any:
    return 10 * np.log10(255**2 / error)


def report(figures: Figures, limits: Limits) -> dict[str, Any]:
    """Figures, limits and what falls short, for JSON."""
    return {**asdict(figures), "limits": asdict(limits), "shortfalls": figures.shortfalls(limits)}
