"""Stored speech to judge the demo's networks with, people's and a little of espeak-ng's; nothing is trained on it.

``speech/recordings/`` holds it as FLAC (16 kHz mono) with ``recordings.json``: voice, text, and the sounds with their
times. Those of people's speech were found by forced alignment (`align`), once; judging needs the files only.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compositor_backend.contract import SAMPLE_RATE_HZ
from export.demo.arpabet import ipa_of
from export.demo.phonemes import Phoneme
from export.demo.voices import Utterance, VoiceError

FOLDER = Path(__file__).parent / "speech" / "recordings"
LIST_NAME = "recordings.json"
_ALIGNMENT_HZ = 100
"""Frames of pocketsphinx a second."""


def recordings(
    names: Collection[str] | None = None, folder: Path = FOLDER
) -> Iterator[tuple[str, Utterance]]:
    """Voice and speech of the recordings of those names, None for all, in the list's order."""
    import soundfile

    for entry in json.loads((folder / LIST_NAME).read_text(encoding="utf-8")):
        if names is not None and Path(entry["file"]).stem not in names:
            continue
        pcm, rate_hz = soundfile.read(folder / entry["file"], dtype="float32")
        if rate_hz != SAMPLE_RATE_HZ or pcm.ndim != 1:
            raise VoiceError(
                f"{entry['file']}: expected 16 kHz mono, got {rate_hz} Hz, {pcm.ndim} dimensions"
            )
        sounds = tuple(Phoneme(ipa, start_s, end_s) for ipa, start_s, end_s in entry["sounds"])
        yield entry["voice"], Utterance(pcm, sounds)


def align(pcm: NDArray[np.int16], text: str) -> list[tuple[str, float, float]]:
    """IPA, start and end in seconds of each sound of `text` (lower-case words) in 16 kHz speech.

    Needs the package pocketsphinx, whose wheel holds an acoustic model and CMU's dictionary; `VoiceError` if the words
    are not found in the speech.
    """
    decoder = importlib.import_module("pocketsphinx").Decoder(loglevel="FATAL", lm=None)
    decoder.set_align_text(text)
    _decode(decoder, pcm)
    if decoder.hyp() is None:
        raise VoiceError(f"the words {text!r} are not found in the recording")
    decoder.set_alignment()
    _decode(decoder, pcm)
    alignment = decoder.get_alignment()
    phones = [(phone.name, phone.start, phone.duration) for word in alignment for phone in word]
    return [
        (ipa_of(name), start / _ALIGNMENT_HZ, (start + length) / _ALIGNMENT_HZ)
        for name, start, length in phones
    ]


def _decode(decoder: Any, pcm: NDArray[np.int16]) -> None:
    decoder.start_utt()
    decoder.process_raw(pcm.tobytes(), full_utt=True)
    decoder.end_utt()


def write_recordings(sources: Sequence[tuple[str, str, str, Utterance]], folder: Path) -> None:
    """Store speech, each a name, a voice, a text, and samples with sounds."""
    import soundfile

    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for name, voice, text, speech in sources:
        soundfile.write(folder / f"{name}.flac", speech.pcm, SAMPLE_RATE_HZ, subtype="PCM_16")
        sounds = [[p.ipa, round(p.start_s, 4), round(p.end_s, 4)] for p in speech.phonemes]
        entries.append({"file": f"{name}.flac", "voice": voice, "text": text, "sounds": sounds})
    lines = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries)
    (folder / LIST_NAME).write_text(f"[\n{lines}\n]\n", encoding="utf-8")
