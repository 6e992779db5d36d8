import numpy as np
import pytest

from export.demo.mouth import lip_openings
from export.demo.phonemes import Phoneme
from export.demo.track import OPEN, PRESS, TUCK, WIDTH, find_closures, frame_count, join_pauses, mouth_track
from export.demo.voices import EspeakSettings, PiperSettings, Utterance, speak_espeak, speak_piper

PLOSIVES = "Papa may bump by Bob. My pup, Pam, may jump up."


def utterance(*sounds, lead_s=0.4, tail_s=0.4):
    """A silent-sounding utterance of (ipa, seconds) pairs between two pauses."""
    at_s, phonemes = lead_s, []
    for ipa, seconds in sounds:
        phonemes.append(Phoneme(ipa, at_s, at_s + seconds))
        at_s += seconds
    rng = np.random.default_rng(1)
    pcm = 0.1 * rng.standard_normal(round((at_s + tail_s) * 16000)).astype(np.float32)
    return Utterance(pcm, tuple(phonemes))


def frame_at(seconds):
    """The frame that is on the screen at that time."""
    return int(seconds * 25)


def test_a_track_covers_the_speech_and_stays_in_range():
    said = speak_espeak("Five fast foxes moved.", EspeakSettings())
    mouth = mouth_track(said).mouth
    assert len(mouth) == frame_count(len(said.pcm)) == -(-len(said.pcm) // 640)
    assert mouth.dtype == np.float32
    assert mouth.min(axis=0) == pytest.approx(np.clip(mouth.min(axis=0), [0, -1, 0, 0, 0], 1))
    assert mouth.max() <= 1


@pytest.mark.parametrize("rate_wpm", [120, 170, 210])
def test_lips_meet_on_every_p_b_and_m(rate_wpm):
    track = mouth_track(speak_espeak(PLOSIVES, EspeakSettings("en-us", "f3", rate_wpm)))
    assert len(track.closures_s) == 18
    openings = lip_openings(track.mouth)
    assert all(openings[frame_at(at)] < 0.02 for at in track.closures_s)


def test_lips_meet_in_natural_speech_and_open_in_between():
    track = mouth_track(speak_piper(PLOSIVES, PiperSettings()))
    openings = lip_openings(track.mouth)
    assert all(openings[frame_at(at)] < 0.02 for at in track.closures_s)
    between = [
        openings[frame_at(a) : frame_at(b) + 1].max()
        for a, b in zip(track.closures_s, track.closures_s[1:], strict=False)
        if b - a > 0.2
    ]
    assert np.median(between) > 0.3


def test_a_closure_is_found_in_the_gap_before_the_burst():
    rng = np.random.default_rng(0)
    pcm = 0.2 * rng.standard_normal(16000).astype(np.float32)
    pcm[7200:8000] *= 0.001  # 450 to 500 ms
    labelled_late = Utterance(pcm, (Phoneme("ɑ", 0, 0.5), Phoneme("p", 0.5, 0.54), Phoneme("ɑ", 0.54, 1)))
    assert find_closures(labelled_late) == pytest.approx([0.475], abs=0.015)


def test_the_mouth_rests_in_pauses_and_opens_before_the_first_sound():
    track = mouth_track(utterance(("ɑ", 0.3), lead_s=1.0, tail_s=1.0))
    openings = lip_openings(track.mouth)
    assert openings[: frame_at(0.8)].max() < 0.01
    assert 0.02 < openings[frame_at(0.90)] < openings[frame_at(1.15)]
    assert openings[frame_at(1.15)] > 0.8
    assert openings[frame_at(1.5) :].max() < 0.01
    assert track.silent[: frame_at(0.7)].all()
    assert not track.silent[frame_at(1.0) : frame_at(1.3)].any()


def test_rounding_spreads_further_ahead_than_opening():
    track = mouth_track(utterance(("s", 0.2), ("t", 0.1), ("u", 0.25)))
    before_vowel = track.mouth[frame_at(0.62), WIDTH]
    assert before_vowel < 0.2
    assert track.mouth[frame_at(0.8), WIDTH] < -0.6


def test_f_tucks_the_lip_and_a_bilabial_presses():
    track = mouth_track(utterance(("ɑ", 0.2), ("f", 0.12), ("ɑ", 0.2), ("m", 0.1), ("ɑ", 0.2)))
    assert track.mouth[frame_at(0.66), TUCK] > 0.6
    assert track.mouth[:, PRESS].max() == pytest.approx(1, abs=0.01)
    assert track.mouth[frame_at(0.5), OPEN] > 0.6


def test_a_short_gap_between_words_is_no_pause():
    sounds = join_pauses(utterance(("ɑ", 0.2), (" ", 0.06), ("i", 0.2), (" ", 0.3), ("u", 0.2)))
    assert [sound.ipa for sound in sounds] == ["", "ɑ", "i", "", "u", ""]
    ends = [sound.end_s for sound in sounds]
    assert [sound.start_s for sound in sounds][1:] == pytest.approx(ends[:-1])


def test_noise_without_sounds_is_one_pause():
    track = mouth_track(Utterance(np.zeros(16000, np.float32), ()))
    assert track.silent.all()
    assert not track.mouth.any()
