import pytest

from export.demo.phonemes import (
    VISEMES,
    Phoneme,
    base_symbols,
    closes_lips,
    is_mark,
    split_symbols,
    viseme,
)
from export.demo.sentences import ALL, HELD_OUT, TEST, TRAINING
from export.demo.voices import EspeakSettings, speak_espeak

SILENCES = {"", " ", ",", ".", "?", "!", ";", ":"}


def test_stress_and_length_marks_have_no_shape():
    assert base_symbols("ˈeɪ") == "eɪ"
    assert base_symbols("ˈɑː") == "ɑ"
    assert base_symbols(" ") == ""
    assert is_mark("ː")
    assert not is_mark("")
    assert not is_mark("a")


def test_a_diphthong_becomes_two_sounds_that_share_its_time():
    first, second = split_symbols(Phoneme("ˈaɪ", 1.0, 1.2))
    assert (first.ipa, second.ipa) == ("a", "ɪ")
    assert first.start_s == 1.0
    assert first.end_s == second.start_s == pytest.approx(1.1)
    assert second.end_s == pytest.approx(1.2)


def test_silence_stays_one_sound_at_rest():
    (silence,) = split_symbols(Phoneme(",", 0.0, 0.5))
    assert silence == Phoneme("", 0.0, 0.5)
    assert viseme(silence.ipa).open == 0


def test_lips_meet_for_p_b_m_only():
    assert {ipa for ipa in VISEMES if closes_lips(ipa)} == {"p", "b", "m"}


def test_the_table_orders_shapes_as_phonetics_does():
    assert viseme("ɑ").open > viseme("ɛ").open > viseme("i").open > viseme("p").open == 0
    assert viseme("i").width > 0 > viseme("u").width
    assert viseme("f").tuck == viseme("v").tuck == 1
    assert viseme("θ").tongue > viseme("t").tongue > viseme("k").tongue


@pytest.mark.parametrize("shape", VISEMES.values())
def test_targets_stay_in_the_channels_ranges(shape):
    assert 0 <= shape.open <= 1
    assert -1 <= shape.width <= 1
    assert 0 <= shape.tuck <= 1
    assert 0 <= shape.tongue <= 1


def test_every_sound_of_the_sentences_has_a_shape():
    said = [p.ipa for text in ALL[::9] for p in speak_espeak(text, EspeakSettings("en-us")).phonemes]
    shapeless = {ipa for ipa in said if not base_symbols(ipa) and not is_mark(ipa)}
    assert shapeless <= SILENCES


def test_sentences_are_many_and_none_is_both_trained_on_and_held_out():
    assert len(ALL) == len(set(ALL)) >= 350
    assert not set(TRAINING) & set(HELD_OUT)
    assert len(TRAINING) + len(HELD_OUT) == len(ALL)
    assert not set(TEST) & set(ALL)
