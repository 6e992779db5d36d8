"""The demo's speech corpus: utterances of many synthetic voices, spoilt in many ways, with their true mouths.

On disk (all arrays memory-mapped, one row for each encoder window):

- ``windows.npy`` float16 [R, 80, 16]: mel windows, each utterance's ``frames + 15`` rows one after another;
- ``targets.npy`` float32 [R, 8]: what the encoder shall say of the window, see `encoder_targets`;
- ``mouths.npy`` float32 [R, 5]: the true mouth of frame k in row k of its utterance; the last 15 rows unused;
- ``utterances.json``: first row, frames, voice, split and closures of each utterance.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, fftconvolve, sosfilt

from compositor_backend.contract import SAMPLE_RATE_HZ, WINDOWS_PER_FRAME
from compositor_backend.windows import utterance_windows
from export.demo.phonemes import Phoneme
from export.demo.sentences import HELD_OUT, TEST, TRAINING
from export.demo.track import CHANNELS, OPEN, PRESS, TONGUE, TUCK, WIDTH, Track, mouth_track
from export.demo.voices import (
    EspeakSettings,
    FliteSettings,
    PiperSettings,
    Utterance,
    seed_piper,
    speak_espeak,
    speak_flite,
    speak_piper,
)

Floats = NDArray[np.float32]
Rng = np.random.Generator

TARGETS = 8
CENTRE_FRAME_OFFSET = 2
"""Window j is centred on the middle of frame j + 2: (3.2·j + 8) mel frames = (j + 2.5) / 25 s."""
FIRST_CENTRE_FRAME = -7
"""Frame at the centre of an utterance's first window: encoder frame -9, plus 2."""

_LANGUAGES = ("en-us", "en", "en-gb-scotland", "en-gb-x-rp", "en-029", "en-gb-x-gbclan", "en-us-nyc")
_VARIANTS = (
    "", "m1", "m2", "m3", "m4", "m5", "m6", "m7", "f1", "f2", "f3", "f4", "klatt", "klatt2", "klatt4",
    "Alex", "Annie", "Alicia", "Andy", "Denis", "Diogo", "Gene", "Henrique", "Hugo", "Jacky", "Lee", "Marco",
    "Mario", "Michael", "Mike", "Nguyen", "Reed", "adam", "anika", "antonio", "aunty", "belinda", "benjamin",
    "boris", "caleb", "david", "ed", "edward", "grandpa", "gustave", "ian", "iven", "john", "kaukovalta",
    "marcelo", "max", "michel", "miguel", "pablo", "paul", "pedro", "quincy", "rob", "sandro", "shelby",
    "steph", "travis", "victor", "zac",
)  # fmt: skip
FLITE_VOICES = (("slt", 170.0), ("rms", 100.0), ("kal16", 105.0))
"""flite's, with the pitch in Hz that each varies about."""
VALIDATION_FLITE = "awb"
VALIDATION_VOICES = (("en-us", "steph2"), ("en-gb-x-rp", "norbert"), ("en-us", "klatt6"))
TEST_VOICES = (
    ("en-gb-x-gbcwmd", "f5"), ("en-us", "m8"), ("en-us", "linda"), ("en-gb-x-gbcwmd", "robert"),
    ("en-us", "Andrea"), ("en", "klatt3"), ("en-gb-x-rp", "grandma"), ("en-029", "announcer"),
)  # fmt: skip
"""espeak-ng voices that only `demo-eval` hears."""
TRAINED_SHIFTS = ((0.80, 1.10), (1.24, 1.45))
TEST_SHIFT = 1.17
"""Factor of pitch and formants: joe speaks with the former in training and with the latter in the test."""
TEST_LENGTH_SCALE = 1.3
TRAINED_LENGTH_SCALES = (0.8, 1.2)


@dataclass(frozen=True)
class CorpusSettings:
    """How much to say; utterances last about four seconds."""

    natural: int = 640
    recorded: int = 660
    """By flite, whose voices are built from recordings."""
    robotic: int = 1200
    noise_only: int = 50
    validation: int = 36
    seed: int = 20


@dataclass(frozen=True)
class Sample:
    """A finished utterance: int16 samples at 16 kHz, its true mouth, who said it and for which split."""

    pcm: NDArray[np.int16]
    track: Track
    voice: str
    split: str


@dataclass(frozen=True)
class Entry:
    """An utterance of the stored corpus; `frames` video frames, `frames` + 15 rows from `first_row` on."""

    first_row: int
    frames: int
    voice: str
    split: str
    closures_s: tuple[float, ...]
    silent: tuple[int, ...]
    """Frames in pauses."""


# --- what is said ---
def training_samples(settings: CorpusSettings) -> Iterator[Sample]:
    """Training utterances of both families, noise without speech, then the validation split.

    Each has random numbers of its own, so that espeak-ng's flutter, which changes the length of an utterance
    by a few samples, changes nothing in the others.
    """
    rng = np.random.default_rng(settings.seed)
    seed_piper(settings.seed)
    jobs: list[Callable[[Rng], Sample]] = []
    jobs += [_natural_sample] * settings.natural + [_robotic_sample] * settings.robotic
    jobs += [_flite_sample] * settings.recorded
    jobs += [_noise_sample] * settings.noise_only
    for n in rng.permutation(len(jobs)):
        yield jobs[n](np.random.default_rng((settings.seed, 0, int(n))))
    for n in range(settings.validation):
        yield _validation_sample(n, np.random.default_rng((settings.seed, 1, n)))


def unseen_samples(count: int, seed: int) -> Iterator[Sample]:
    """Test sentences by voices that no network was trained on; every third one by the shifted joe.

    Half of them are clean, half have noise at 25 dB.
    """
    seed_piper(seed)
    texts = np.random.default_rng(seed).permutation(len(TEST))
    for n in range(count):
        rng = np.random.default_rng((seed, n))
        text = TEST[texts[n % len(texts)]]
        if n % 3 == 0:
            settings = PiperSettings(length_scale=TEST_LENGTH_SCALE)
            speech, voice = shift(speak_piper(text, settings), TEST_SHIFT), "joe-shifted"
        else:
            language, variant = TEST_VOICES[(n - n // 3 - 1) % len(TEST_VOICES)]
            speech = speak_espeak(
                text, EspeakSettings(language, variant, rate_wpm=int(rng.integers(140, 185)))
            )
            voice = f"espeak-{variant}"
        snr_db = 25.0 if n % 2 else None
        yield finish(pad(speech, 0.4, 0.5), voice, "test", 0.5, snr_db, rng)


def _natural_sample(rng: Rng, texts: tuple[str, ...] = TRAINING, split: str = "train") -> Sample:
    settings = PiperSettings(
        length_scale=float(rng.uniform(*TRAINED_LENGTH_SCALES)),
        noise_scale=float(rng.uniform(0.4, 0.9)),
        noise_w_scale=float(rng.uniform(0.4, 1.0)),
    )
    factor = 1.0
    if rng.random() < 0.75:
        factor = float(rng.uniform(*TRAINED_SHIFTS[int(rng.random() < 0.5)]))
    speech = shift(speak_piper(_text(texts, rng), settings), factor)
    return _spoil(speech, "joe", split, rng)


def _flite_sample(rng: Rng) -> Sample:
    voice, pitch_hz = FLITE_VOICES[rng.integers(len(FLITE_VOICES))]
    settings = FliteSettings(
        voice, stretch=float(rng.uniform(0.85, 1.3)), pitch_hz=pitch_hz * float(rng.uniform(0.85, 1.2))
    )
    speech = shift(speak_flite(_text(TRAINING, rng), settings), float(rng.uniform(0.85, 1.2)))
    return _spoil(speech, f"flite-{voice}", "train", rng)


def _robotic_sample(rng: Rng, texts: tuple[str, ...] = TRAINING, split: str = "train") -> Sample:
    language = _LANGUAGES[rng.integers(len(_LANGUAGES))]
    variant = _VARIANTS[rng.integers(len(_VARIANTS))]
    return _robotic(language, variant, texts, split, rng)


def _robotic(language: str, variant: str, texts: tuple[str, ...], split: str, rng: Rng) -> Sample:
    settings = EspeakSettings(
        language,
        variant,
        rate_wpm=int(rng.integers(115, 215)),
        pitch=int(rng.integers(20, 80)),
        pitch_range=int(rng.integers(20, 90)),
    )
    speech = shift(speak_espeak(_text(texts, rng), settings), float(rng.uniform(0.88, 1.15)))
    return _spoil(speech, f"espeak-{variant or language}", split, rng)


def _validation_sample(number: int, rng: Rng) -> Sample:
    if number % 3 == 0:
        return _natural_sample(rng, HELD_OUT, "validation")
    if number % 3 == 2:
        speech = speak_flite(_text(HELD_OUT, rng), FliteSettings(VALIDATION_FLITE))
        return _spoil(speech, f"flite-{VALIDATION_FLITE}", "validation", rng)
    language, variant = VALIDATION_VOICES[number // 3 % len(VALIDATION_VOICES)]
    return _robotic(language, variant, HELD_OUT, "validation", rng)


def _noise_sample(rng: Rng) -> Sample:
    silence = Utterance(np.zeros(3 * SAMPLE_RATE_HZ, np.float32), ())
    noise = coloured_noise(len(silence.pcm), float(rng.uniform(0, 2)), rng)
    level = 10 ** (rng.uniform(-75, -35) / 20)
    return Sample(to_int16(noise * level), mouth_track(silence), "noise", "train")


def _text(texts: tuple[str, ...], rng: Rng) -> str:
    """A sentence; one in five times two of them, which puts a pause in the middle."""
    count = 2 if rng.random() < 0.2 else 1
    return " ".join(texts[n] for n in rng.integers(len(texts), size=count))


# --- spoiling ---
def shift(utterance: Utterance, factor: float) -> Utterance:
    """Resample: pitch and formants go up by `factor`, and everything happens that much sooner."""
    import soxr

    if factor == 1.0:
        return utterance
    pcm = soxr.resample(utterance.pcm, SAMPLE_RATE_HZ * factor, SAMPLE_RATE_HZ)
    phonemes = (Phoneme(p.ipa, p.start_s / factor, p.end_s / factor) for p in utterance.phonemes)
    return Utterance(np.asarray(pcm, np.float32), tuple(phonemes))


def pad(utterance: Utterance, before_s: float, after_s: float) -> Utterance:
    """Put digital silence before and after."""
    before, after = round(before_s * SAMPLE_RATE_HZ), round(after_s * SAMPLE_RATE_HZ)
    lead_s = before / SAMPLE_RATE_HZ
    phonemes = (Phoneme(p.ipa, p.start_s + lead_s, p.end_s + lead_s) for p in utterance.phonemes)
    return Utterance(np.pad(utterance.pcm, (before, after)), tuple(phonemes))


def _spoil(speech: Utterance, voice: str, split: str, rng: Rng) -> Sample:
    """Pad, put into a room, band-limit, add noise, set the level: each of them in some utterances only."""
    speech = pad(speech, rng.uniform(0.05, 0.8), rng.uniform(0.1, 0.8))
    track = mouth_track(speech)
    pcm = speech.pcm
    if rng.random() < 0.3:
        pcm = reverberate(pcm, rng.uniform(0.12, 0.5), rng.uniform(6, 18), rng)
    if rng.random() < 0.3:
        pcm = _band_limit(pcm, rng)
    snr_db = float(rng.uniform(12, 40)) if rng.random() < 0.6 else None
    peak = float(10 ** (rng.uniform(-24, -1) / 20))
    return _mix(pcm, track, voice, split, peak, snr_db, rng)


def finish(speech: Utterance, voice: str, split: str, peak: float, snr_db: float | None, rng: Rng) -> Sample:
    """A sample of clean speech: peak level set, pink noise added if `snr_db` is given."""
    return _mix(speech.pcm, mouth_track(speech), voice, split, peak, snr_db, rng)


def _mix(
    pcm: Floats, track: Track, voice: str, split: str, peak: float, snr_db: float | None, rng: Rng
) -> Sample:
    pcm = pcm / (np.abs(pcm).max() + 1e-6) * peak
    if snr_db is not None:
        loud = pcm[np.abs(pcm) > 0.05 * peak]
        level = float(np.sqrt(np.mean(loud**2))) * 10 ** (-snr_db / 20)
        pcm = pcm + level * coloured_noise(len(pcm), float(rng.uniform(0, 1.5)), rng)
    return Sample(to_int16(pcm), track, voice, split)


def coloured_noise(samples: int, exponent: float, rng: Rng) -> Floats:
    """Noise of unit power whose power falls with frequency to the `exponent` (0 white, 1 pink, 2 brown)."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    frequency = np.maximum(np.arange(len(spectrum)), len(spectrum) * 60 / (SAMPLE_RATE_HZ / 2))
    noise = np.fft.irfft(spectrum * frequency ** (-exponent / 2), samples)
    return np.asarray(noise / np.sqrt(np.mean(noise**2)), np.float32)


def reverberate(pcm: Floats, rt60_s: float, direct_db: float, rng: Rng) -> Floats:
    """A small room: noise that decays by 60 dB in `rt60_s`, `direct_db` below the direct sound in energy."""
    times = np.arange(int(rt60_s * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    tail = rng.standard_normal(len(times)) * 10 ** (-3 * times / rt60_s)
    tail *= 10 ** (-direct_db / 20) / np.sqrt(np.sum(tail**2))
    tail[0] = 1.0
    return np.asarray(fftconvolve(pcm, tail)[: len(pcm)], np.float32)


def _band_limit(pcm: Floats, rng: Rng) -> Floats:
    edges = (rng.uniform(60, 300), rng.uniform(3300, 7500))
    sos = butter(2, edges, "bandpass", fs=SAMPLE_RATE_HZ, output="sos")
    return np.asarray(sosfilt(sos, pcm), np.float32)


def to_int16(pcm: Floats) -> NDArray[np.int16]:
    """Samples in -1…1 to int16, clipped."""
    samples: NDArray[np.int16] = np.round(np.clip(pcm, -1, 1) * 32767).astype(np.int16)
    return samples


# --- what the encoder learns ---
def encoder_targets(mouth: Floats) -> Floats:
    """What the windows of an utterance shall tell: float32 [frames + 15, 8], all in 0…1.

    For the frame at the window's centre: open, press, tuck, tongue, spread (width > 0), round (width < 0);
    then open one frame earlier and one later. Outside the utterance the mouth rests.
    """
    rows = len(mouth) + WINDOWS_PER_FRAME - 1
    rest = np.zeros((1 - FIRST_CENTRE_FRAME, CHANNELS), np.float32)
    padded = np.concatenate([rest, mouth, np.zeros((WINDOWS_PER_FRAME, CHANNELS), np.float32)])
    centre = padded[1 : rows + 1]
    columns = [centre[:, OPEN], centre[:, PRESS], centre[:, TUCK], centre[:, TONGUE]]
    columns += [np.maximum(centre[:, WIDTH], 0), np.maximum(-centre[:, WIDTH], 0)]
    columns += [padded[:rows, OPEN], padded[2 : rows + 2, OPEN]]
    return np.stack(columns, axis=1)


# --- storing ---
class Corpus:
    """A stored corpus, opened for reading."""

    def __init__(self, folder: Path) -> None:
        self.windows = np.load(folder / "windows.npy", mmap_mode="r")
        self.targets = np.load(folder / "targets.npy", mmap_mode="r")
        self.mouths = np.load(folder / "mouths.npy", mmap_mode="r")
        listed = json.loads((folder / "utterances.json").read_text())
        self.settings: dict[str, int] = listed["settings"]
        self.utterances = [
            Entry(**{**entry, "closures_s": tuple(entry["closures_s"]), "silent": tuple(entry["silent"])})
            for entry in listed["utterances"]
        ]

    def split(self, name: str) -> list[Entry]:
        """The utterances of a split, ``train`` or ``validation``."""
        return [entry for entry in self.utterances if entry.split == name]

    def rows(self, name: str) -> NDArray[np.int64]:
        """All rows of a split."""
        spans = [
            np.arange(e.first_row, e.first_row + e.frames + WINDOWS_PER_FRAME - 1) for e in self.split(name)
        ]
        return np.concatenate(spans)


def build_corpus(
    folder: Path, settings: CorpusSettings, progress: Callable[[int, int], None] = lambda done, total: None
) -> Corpus:
    """Say, spoil and store everything, or open what is stored already with the same settings."""
    if stored_settings(folder) == asdict(settings):
        return Corpus(folder)
    folder.mkdir(parents=True, exist_ok=True)
    total = sum(asdict(settings).values()) - settings.seed
    windows, targets, mouths, entries = [], [], [], []
    first_row = 0
    for done, sample in enumerate(training_samples(settings), 1):
        cut = utterance_windows(sample.pcm)[:, 0].astype(np.float16)
        windows.append(cut)
        targets.append(encoder_targets(sample.track.mouth))
        mouths.append(np.pad(sample.track.mouth, ((0, WINDOWS_PER_FRAME - 1), (0, 0))))
        entries.append(_entry(sample, first_row))
        first_row += len(cut)
        progress(done, total)
    np.save(folder / "windows.npy", np.concatenate(windows))
    np.save(folder / "targets.npy", np.concatenate(targets))
    np.save(folder / "mouths.npy", np.concatenate(mouths))
    listed = {"settings": asdict(settings), "utterances": [asdict(entry) for entry in entries]}
    (folder / "utterances.json").write_text(json.dumps(listed))
    return Corpus(folder)


def stored_settings(folder: Path) -> dict[str, int] | None:
    """Settings of the corpus in `folder`; None if there is none, or if it was not finished."""
    path = folder / "utterances.json"
    return json.loads(path.read_text())["settings"] if path.exists() else None


def _entry(sample: Sample, first_row: int) -> Entry:
    silent = tuple(int(n) for n in np.flatnonzero(sample.track.silent))
    frames = len(sample.track.mouth)
    return Entry(first_row, frames, sample.voice, sample.split, sample.track.closures_s, silent)
