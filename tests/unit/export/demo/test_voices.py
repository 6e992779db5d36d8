import shutil

import numpy as np
import pytest

from export.demo.voices import (
    EspeakSettings,
    FliteSettings,
    PiperSettings,
    VoiceError,
    seed_piper,
    speak_espeak,
    speak_flite,
    speak_piper,
)

TEXT = "Hello, big maps."


def level_db(pcm):
    return 10 * np.log10(np.mean(np.square(pcm, dtype=np.float64)) + 1e-10)


def spoken(utterance, ipa):
    """Samples of all sounds named so, one after another."""
    spans = [p for p in utterance.phonemes if ipa in p.ipa]
    assert spans
    return np.concatenate([utterance.pcm[int(p.start_s * 16000) : int(p.end_s * 16000)] for p in spans])


@pytest.fixture(scope="module", params=["espeak", "flite", "piper"])
def utterance(request):
    if request.param == "flite":
        if shutil.which("flite") is None:
            pytest.skip("there is no flite")
        return speak_flite(TEXT, FliteSettings("rms", stretch=1.1, pitch_hz=110))
    if request.param == "espeak":
        return speak_espeak(TEXT, EspeakSettings("en-us", "m3"))
    return speak_piper(TEXT, PiperSettings())


def test_sounds_follow_one_another_to_the_end_of_the_speech(utterance):
    ends = [p.end_s for p in utterance.phonemes]
    starts = [p.start_s for p in utterance.phonemes]
    assert starts[1:] == pytest.approx(ends[:-1], abs=1e-6)
    assert ends[-1] == pytest.approx(len(utterance.pcm) / 16000, abs=0.003)
    assert all(start <= end for start, end in zip(starts, ends, strict=True))


def test_every_sound_of_the_text_is_there(utterance):
    said = "".join(p.ipa for p in utterance.phonemes)
    positions = [said.find(ipa) for ipa in "hlbɡmps"]
    assert -1 not in positions
    assert positions == sorted(positions)


def test_vowels_are_loud_where_they_are_said_to_be_and_silence_is_silent(utterance):
    vowel = level_db(spoken(utterance, "æ"))
    pause = min(level_db(utterance.pcm[n : n + 160]) for n in range(0, len(utterance.pcm) - 160, 160))
    assert vowel > level_db(utterance.pcm) - 2
    assert vowel > pause + 30


def test_hissing_is_where_the_s_is(utterance):
    def share_above_3_khz(pcm):
        power = np.abs(np.fft.rfft(pcm * np.hanning(len(pcm)))) ** 2
        return power[len(power) * 3 // 8 :].sum() / power.sum()

    assert share_above_3_khz(spoken(utterance, "s")) > 10 * share_above_3_khz(spoken(utterance, "æ"))


def test_the_natural_voice_repeats_itself_from_a_seed():
    said = []
    for seed in (9, 9, 10):
        seed_piper(seed)
        said.append([speak_piper("Bob.").pcm, speak_piper("Bob.").pcm])
    np.testing.assert_array_equal(said[0][0], said[1][0])
    np.testing.assert_array_equal(said[0][1], said[1][1])
    assert len(said[0][0]) != len(said[2][0]) or not np.allclose(said[0][0], said[2][0])


def test_rate_and_pitch_are_heeded():
    slow, fast = (speak_espeak(TEXT, EspeakSettings(rate_wpm=wpm)) for wpm in (110, 220))
    assert len(slow.pcm) > 1.4 * len(fast.pcm)
    slow, fast = (speak_piper(TEXT, PiperSettings(length_scale=scale)) for scale in (1.4, 0.8))
    assert len(slow.pcm) > 1.3 * len(fast.pcm)


def test_an_unknown_voice_is_refused_by_name():
    with pytest.raises(VoiceError, match="xx-nobody"):
        speak_espeak("Hello.", EspeakSettings("xx-nobody"))
