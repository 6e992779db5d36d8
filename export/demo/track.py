"""From sounds with times to the true mouth of every frame: coarticulation.

Each sound pulls the mouth towards its target with a dominance that is flat while the sound lasts and decays
exponentially before and after it (the model of Cohen and Massaro, 1993); the weighted mean of all targets is
then smoothed. Lips that must meet do meet: p, b and m close the mouth for at least one frame, whatever
surrounds them.

Frame i shows the mouth at the middle of the time it is on the screen, (i + 0.5) / 25 seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d, uniform_filter1d
from scipy.signal import butter, sosfiltfilt

from compositor_backend.contract import FRAME_RATE_HZ, SAMPLE_RATE_HZ, SAMPLES_PER_FRAME
from export.demo.phonemes import Phoneme, base_symbols, closes_lips, split_symbols, viseme
from export.demo.voices import Utterance

Floats = NDArray[np.float32]

OPEN, WIDTH, TUCK, TONGUE, PRESS = range(5)
"""Columns of a track, the order of `export.demo.mouth.MOUTH_CHANNELS`."""
CHANNELS = 5
GRID_HZ = 200
OPEN_GAIN = 1.2
"""Smoothing takes this much off the peaks of vowels in running speech; the gain gives it back."""
PAUSE_MIN_S = 0.12
"""A shorter gap between words is no pause: the neighbours' sounds run on through it."""
ONSET_LEAD_S = 0.10
"""The mouth leaves its rest this long before the first sound."""
RELEASE_S = 0.04
OPEN_DECAY_S = 0.035
WIDTH_DECAY_S = 0.07
"""Rounding and spreading reach further into the neighbours than opening does."""
SMOOTHING_SIGMA_S = 0.025  # 59 ms full width at half maximum
CLOSURE_HALF_S = 0.024
"""Half the time for which lips stay shut, at least; more than half a frame, so a frame always falls into it."""
CLOSURE_FLANK_S = 0.045
CLOSURE_SEARCH_S = 0.07


@dataclass(frozen=True)
class Track:
    """`mouth` float32 [frames, 5] in the columns above; `closures_s` the times at which p, b and m are shut."""

    mouth: Floats
    closures_s: tuple[float, ...]
    silent: NDArray[np.bool_]
    """bool [frames]: the frame lies in a pause, and no sound is near enough to move the mouth."""


def frame_count(samples: int) -> int:
    """Frames that cover `samples` samples of 16 kHz speech."""
    return -(-samples // SAMPLES_PER_FRAME)


def mouth_track(utterance: Utterance) -> Track:
    """The true mouth of every frame of an utterance; its speech should be clean, noise is added later."""
    frames = frame_count(len(utterance.pcm))
    closures_s = find_closures(utterance)
    grid = _grid(frames / FRAME_RATE_HZ, join_pauses(utterance), closures_s)
    at = np.round((np.arange(frames) + 0.5) * GRID_HZ / FRAME_RATE_HZ).astype(int)
    silent = np.asarray([grid[max(0, n - 3) : n + 4, OPEN].max() < 0.01 for n in at])
    shut_by_lips = np.asarray([grid[n, PRESS] > 0.01 for n in at])
    return Track(grid[at].astype(np.float32), closures_s, silent & ~shut_by_lips)


def join_pauses(utterance: Utterance) -> list[Phoneme]:
    """The sounds with base symbols only; pauses as ``""``, gaps too short for one given to the neighbours."""
    end_s = len(utterance.pcm) / SAMPLE_RATE_HZ
    joined: list[Phoneme] = []
    for sound in _fill_gaps(utterance.phonemes, end_s):
        if not sound.ipa and joined and not joined[-1].ipa:
            joined[-1] = Phoneme("", joined[-1].start_s, sound.end_s)
        else:
            joined.append(sound)
    return _spread_short_gaps(joined)


def _fill_gaps(phonemes: Sequence[Phoneme], end_s: float) -> list[Phoneme]:
    sounds: list[Phoneme] = []
    at_s = 0.0
    for phoneme in phonemes:
        if phoneme.start_s > at_s + 1e-4:
            sounds.append(Phoneme("", at_s, phoneme.start_s))
        sounds += split_symbols(phoneme) if phoneme.end_s > phoneme.start_s else []
        at_s = max(at_s, phoneme.end_s)
    return [*sounds, Phoneme("", at_s, end_s)] if end_s > at_s + 1e-4 else sounds


def _spread_short_gaps(sounds: list[Phoneme]) -> list[Phoneme]:
    """Split each gap shorter than a pause between the sounds on its two sides."""
    spread: list[Phoneme] = []
    lead_s = 0.0
    for n, sound in enumerate(sounds):
        inner = 0 < n < len(sounds) - 1
        if not sound.ipa and inner and sound.end_s - sound.start_s < PAUSE_MIN_S:
            middle_s = sound.centre_s
            last = spread[-1]
            spread[-1] = Phoneme(last.ipa, last.start_s, middle_s)
            lead_s = sound.end_s - middle_s
        else:
            spread.append(Phoneme(sound.ipa, sound.start_s - lead_s, sound.end_s))
            lead_s = 0.0
    return spread


def _grid(duration_s: float, sounds: list[Phoneme], closures_s: Sequence[float]) -> NDArray[np.float64]:
    """The track on a grid of 200 Hz, float64 [points, 5]."""
    times = np.arange(int(np.ceil(duration_s * GRID_HZ)) + GRID_HZ // FRAME_RATE_HZ + 1) / GRID_HZ
    grid = np.zeros((len(times), CHANNELS))
    sounds = _anticipate(sounds)
    shapes = [viseme(sound.ipa) for sound in sounds]
    openness = np.array([shape.open_weight for shape in shapes])
    grid[:, OPEN] = _blend(times, sounds, [s.open for s in shapes], openness, OPEN_DECAY_S)
    widths = np.array([shape.width_weight for shape in shapes])
    grid[:, WIDTH] = _blend(times, sounds, [s.width for s in shapes], widths, WIDTH_DECAY_S)
    grid[:, TUCK] = _blend(times, sounds, [s.tuck for s in shapes], openness, OPEN_DECAY_S)
    grid[:, TONGUE] = _blend(times, sounds, [s.tongue for s in shapes], openness, OPEN_DECAY_S)
    grid = gaussian_filter1d(grid, SMOOTHING_SIGMA_S * GRID_HZ, axis=0, mode="nearest")
    grid[:, OPEN] = np.minimum(grid[:, OPEN] * OPEN_GAIN, 1.0)
    grid = _rest_in_pauses(grid, times, sounds)
    return _close(grid, times, closures_s)


def _anticipate(sounds: list[Phoneme]) -> list[Phoneme]:
    """Shorten the pauses: the mouth opens before the first sound and shuts a little after the last."""
    moved = list(sounds)
    for n, sound in enumerate(sounds):
        if sound.ipa:
            continue
        room_s = sound.end_s - sound.start_s
        release_s = min(RELEASE_S, 0.25 * room_s) if n else 0.0
        lead_s = min(ONSET_LEAD_S, 0.5 * room_s) if n + 1 < len(sounds) else 0.0
        moved[n] = Phoneme("", sound.start_s + release_s, sound.end_s - lead_s)
        if n:
            moved[n - 1] = Phoneme(moved[n - 1].ipa, moved[n - 1].start_s, sound.start_s + release_s)
        if n + 1 < len(sounds):
            moved[n + 1] = Phoneme(sounds[n + 1].ipa, sound.end_s - lead_s, sounds[n + 1].end_s)
    return moved


def _blend(
    times: NDArray[np.float64],
    sounds: list[Phoneme],
    targets: list[float],
    weights: NDArray[np.float64],
    decay_s: float,
) -> NDArray[np.float64]:
    """The mean of the targets at each time, weighted with the sounds' dominance."""
    starts = np.array([sound.start_s for sound in sounds])
    ends = np.array([sound.end_s for sound in sounds])
    outside_s = np.maximum(0, np.maximum(starts - times[:, None], times[:, None] - ends))
    dominance = weights * np.exp(-outside_s / decay_s) + 1e-9
    blended: NDArray[np.float64] = dominance @ np.asarray(targets) / dominance.sum(axis=1)
    return blended


def _rest_in_pauses(
    grid: NDArray[np.float64], times: NDArray[np.float64], sounds: list[Phoneme]
) -> NDArray[np.float64]:
    """Fade to rest inside pauses, so that no dominance of a distant sound keeps the mouth ajar."""
    rest = np.zeros(len(times))
    for sound in sounds:
        if not sound.ipa:
            rest = np.maximum(rest, _plateau(times, sound.start_s + 0.02, sound.end_s - 0.02, 0.06))
    return grid * (1 - rest)[:, None]


def _close(
    grid: NDArray[np.float64], times: NDArray[np.float64], closures_s: Sequence[float]
) -> NDArray[np.float64]:
    """Shut the lips at the closures: opening, tuck and tongue fade to 0 there, press rises to 1."""
    shut = np.zeros(len(times))
    for centre_s in closures_s:
        edge = (centre_s - CLOSURE_HALF_S, centre_s + CLOSURE_HALF_S)
        shut = np.maximum(shut, _plateau(times, *edge, CLOSURE_FLANK_S))
    for channel in (OPEN, TUCK, TONGUE):
        grid[:, channel] *= 1 - shut
    grid[:, PRESS] = shut
    return grid


def _plateau(times: NDArray[np.float64], start_s: float, end_s: float, flank_s: float) -> NDArray[np.float64]:
    """1 from start to end, falling to 0 within the flanks along a raised cosine."""
    outside = np.maximum(0, np.maximum(start_s - times, times - end_s)) / flank_s
    shape: NDArray[np.float64] = 0.5 + 0.5 * np.cos(np.pi * np.minimum(outside, 1))
    return shape


def find_closures(utterance: Utterance) -> tuple[float, ...]:
    """When the lips are shut for each p, b and m, in seconds.

    Synthesisers label a stop from its burst; its closure lies before, mostly in the time given to the sound
    before it. The quietest moment above 500 Hz near the label's start is the closure, for nasals too.
    """
    envelope = _high_band_level_db(utterance.pcm)
    closures: list[float] = []
    for phoneme in utterance.phonemes:
        if any(closes_lips(symbol) for symbol in base_symbols(phoneme.ipa)):
            closures.append(_quietest(envelope, phoneme))
    return tuple(closures)


def _high_band_level_db(pcm: Floats) -> NDArray[np.float64]:
    """Level above 500 Hz in 30 ms, on the grid of 200 Hz."""
    padded = np.pad(pcm.astype(np.float64), SAMPLE_RATE_HZ // 10)
    high = sosfiltfilt(butter(2, 500, "high", fs=SAMPLE_RATE_HZ, output="sos"), padded)
    power = uniform_filter1d(high**2, int(0.03 * SAMPLE_RATE_HZ))[SAMPLE_RATE_HZ // 10 :]
    level: NDArray[np.float64] = 10 * np.log10(power[:: SAMPLE_RATE_HZ // GRID_HZ] + 1e-6)
    return level


def _quietest(envelope_db: NDArray[np.float64], phoneme: Phoneme) -> float:
    """The quietest time between 70 ms before the sound and its end, with a mild pull to the sound's start."""
    first = max(0, round((phoneme.start_s - CLOSURE_SEARCH_S) * GRID_HZ))
    last = min(len(envelope_db), max(first + 1, round(phoneme.end_s * GRID_HZ)))
    times = np.arange(first, last) / GRID_HZ
    if not len(times):
        return phoneme.start_s
    pull_db = 80 * np.abs(times - (phoneme.start_s - 0.01))
    return float(times[np.argmin(envelope_db[first:last] + pull_db)])
