"""Judges the demo's networks as they are served: do the lips in the output's pixels follow the speech?

Voices and sentences are those that no network was trained on (`corpus.unseen_samples`). The speech goes the whole
way: samples, mel, windows, encoder, U-Net, paste into the face box; onnxruntime runs the committed files. Truth
is the renderer's picture of the true mouth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from compositor_backend.contract import FRAME_RATE_HZ
from compositor_backend.timeline import template_frames
from compositor_backend.windows import network_audio, utterance_windows
from export.demo.corpus import Sample, unseen_samples
from export.demo.mouth import REST
from export.demo.pictures import inner_crop, pasted, shape
from export.demo.presenter import N_FRAMES, measure_opening, render_box

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]

WEIGHTS = Path(__file__).parent / "weights"
AUDIO_SHAPE = (32, 16, 16)


@dataclass(frozen=True)
class Limits:
    """What is good enough."""

    correlation: float = 0.8
    silence: float = 0.05
    """Mean opening in pauses, as a share of the true range."""
    closed: float = 0.9
    """Share of p, b and m at which the lips are seen to meet."""
    psnr_db: float = 30.0


@dataclass(frozen=True)
class EvaluationSettings:
    """How many test utterances of about four seconds, and the `threads` of onnxruntime, 0 for all."""

    utterances: int = 24
    seed: int = 4242
    threads: int = 0
    batch: int = 8


@dataclass(frozen=True)
class Judged:
    """An utterance's frames as measured: openings in px of the face box, squared errors of the mouth area."""

    voice: str
    measured: Floats
    true: Floats
    silent: NDArray[np.bool_]
    closures: tuple[int, ...]
    """Frames in whose middle lips are shut for p, b or m."""
    errors: Floats


@dataclass(frozen=True)
class Figures:
    """The result; openings as shares of the true range, PSNR of the mouth area in dB."""

    frames: int
    range_px: float
    correlation: float
    correlation_by_voice: dict[str, float]
    silence_mean: float
    silence_p95: float
    closed_rate: float
    closures: int
    psnr_db: float
    psnr_mean_of_frames_db: float

    def shortfalls(self, limits: Limits) -> list[str]:
        """A sentence for each limit that is not kept."""
        checks = [
            (
                self.correlation >= limits.correlation,
                f"correlation {self.correlation:.3f} < {limits.correlation}",
            ),
            (
                self.silence_mean <= limits.silence,
                f"opening in pauses {self.silence_mean:.3f} > {limits.silence}",
            ),
            (
                self.closed_rate >= limits.closed,
                f"closed on p, b, m {self.closed_rate:.3f} < {limits.closed}",
            ),
            (self.psnr_db >= limits.psnr_db, f"PSNR {self.psnr_db:.2f} dB < {limits.psnr_db} dB"),
        ]
        low = [
            f"correlation of {voice} {value:.3f} < {limits.correlation}"
            for voice, value in self.correlation_by_voice.items()
            if value < limits.correlation
        ]
        return [text for kept, text in checks if not kept] + low


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


def evaluate(
    networks: Networks,
    settings: EvaluationSettings = EvaluationSettings(),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Figures:
    """Let the presenter say the test utterances and measure."""
    area = mouth_area()
    judged = []
    for n, sample in enumerate(unseen_samples(settings.utterances, settings.seed)):
        judged.append(judge(networks, sample, n * 37, area))
        progress(n + 1, settings.utterances)
    return summarise(judged)


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


def judge(networks: Networks, sample: Sample, first: int, area: tuple[slice, slice]) -> Judged:
    """Let the presenter say one utterance, on the template timeline from frame `first` on."""
    mouths = sample.track.mouth
    timeline = np.arange(first, first + len(mouths), dtype=np.int32)
    templates = [int(template) for template in template_frames(timeline, N_FRAMES)]
    boxes = [render_box(template, REST) for template in templates]
    measured, true, errors = [], [], []
    for template, box, said, mouth in zip(
        templates, boxes, networks.speak(sample.pcm, boxes), mouths, strict=True
    ):
        shown, truth = pasted(box, said), render_box(template, shape(mouth))
        measured.append(measure_opening(shown, template))
        true.append(measure_opening(truth, template))
        errors.append(np.square(shown[area].astype(np.float32) - truth[area]).mean())
    closures = tuple(min(int(at * FRAME_RATE_HZ), len(mouths) - 1) for at in sample.track.closures_s)
    numbers = [np.asarray(values, np.float32) for values in (measured, true, errors)]
    return Judged(sample.voice, numbers[0], numbers[1], sample.track.silent, closures, numbers[2])


def summarise(judged: Sequence[Judged], closed_share: float = 0.1) -> Figures:
    """Figures over all utterances.

    The range is that of the true openings. Lips count as closed on a p, b or m if the opening is at most
    `closed_share` of the range in the closure's frame or a neighbour.
    """
    measured, true = (np.concatenate([getattr(j, name) for j in judged]) for name in ("measured", "true"))
    range_px = float(true.max() - true.min())
    silent = np.concatenate([j.measured[j.silent] for j in judged]) / range_px
    seen = [
        j.measured[max(0, at - 1) : at + 2].min() <= closed_share * range_px
        for j in judged
        for at in j.closures
    ]
    errors = np.concatenate([j.errors for j in judged])
    return Figures(
        frames=len(true),
        range_px=range_px,
        correlation=_correlation(measured, true),
        correlation_by_voice=_by_family(judged),
        silence_mean=float(silent.mean()),
        silence_p95=float(np.percentile(silent, 95)),
        closed_rate=float(np.mean(seen)),
        closures=len(seen),
        psnr_db=float(_psnr_db(errors.mean())),
        psnr_mean_of_frames_db=float(_psnr_db(np.maximum(errors, 0.05)).mean()),
    )


def _by_family(judged: Sequence[Judged]) -> dict[str, float]:
    families: dict[str, list[Judged]] = {}
    for j in judged:
        families.setdefault("natural" if j.voice.startswith("joe") else "robotic", []).append(j)
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
