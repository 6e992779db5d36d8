import numpy as np
import pytest

from export.demo.corpus import TEST_VOICES
from export.demo.phonemes import Phoneme, closes_lips
from export.demo.recordings import recordings, write_recordings
from export.demo.track import mouth_track
from export.demo.voices import Utterance, VoiceError


def test_recordings_are_of_several_people_and_have_sounds_in_order():
    every = list(recordings())
    assert {"austen", "cards", "commands"} < {voice for voice, _ in every}
    assert {voice for voice, _ in every if voice.startswith("espeak")} <= {
        f"espeak-{v}" for _, v in TEST_VOICES
    }
    for _, speech in every:
        starts = [sound.start_s for sound in speech.phonemes]
        assert starts == sorted(starts)
        assert 0 <= starts[0] < speech.phonemes[-1].end_s <= len(speech.pcm) / 16000 + 0.05
    assert sum(closes_lips(sound.ipa) for _, speech in every for sound in speech.phonemes) > 40


VOWELS = ("ɑ", "æ", "eɪ", "aɪ", "ʌ", "ɔ", "oʊ")


def power(speech: Utterance, sounds: list[Phoneme]) -> float:
    spans = [speech.pcm[int(p.start_s * 16000) : int(p.end_s * 16000)] for p in sounds]
    return float(np.square(np.concatenate(spans)).mean())


def test_vowels_of_the_recordings_are_loud_where_they_are_said_to_be():
    for _, speech in recordings():
        vowels = [p for p in speech.phonemes if p.ipa in VOWELS]
        pauses = [p for p in speech.phonemes if not p.ipa]
        if vowels and pauses:
            assert power(speech, vowels) > 3 * power(speech, pauses)
        assert mouth_track(speech).mouth[:, 0].max() > 0.3


def test_recordings_are_read_by_name():
    assert [voice for voice, _ in recordings(("goforward",))] == ["commands"]


def test_what_is_written_is_read_again_and_another_rate_is_refused(tmp_path):
    speech = Utterance(np.zeros(1600, np.float32), (Phoneme("p", 0.0, 0.05), Phoneme("", 0.05, 0.1)))
    write_recordings([("a", "ann", "up", speech)], tmp_path)
    ((voice, read),) = recordings(folder=tmp_path)
    assert voice == "ann"
    assert read.phonemes == speech.phonemes
    import soundfile

    soundfile.write(tmp_path / "a.flac", np.zeros(800, np.float32), 8000)
    with pytest.raises(VoiceError, match="8000"):
        list(recordings(folder=tmp_path))
