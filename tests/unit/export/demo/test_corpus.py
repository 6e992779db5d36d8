from dataclasses import replace

import numpy as np
import pytest

from compositor_backend.windows import utterance_windows, window_starts
from export.demo.corpus import (
    _LANGUAGES,
    _VARIANTS,
    CENTRE_FRAME_OFFSET,
    FIRST_CENTRE_FRAME,
    TEST_LENGTH_SCALE,
    TEST_SHIFT,
    TEST_VOICES,
    TRAINED_LENGTH_SCALES,
    TRAINED_SHIFTS,
    VALIDATION_VOICES,
    CorpusSettings,
    build_corpus,
    coloured_noise,
    encoder_targets,
    pad,
    reverberate,
    shift,
    stored_settings,
    to_int16,
    training_samples,
    unseen_samples,
)
from export.demo.phonemes import Phoneme
from export.demo.track import OPEN, PRESS, WIDTH
from export.demo.voices import Utterance

TINY = CorpusSettings(natural=2, recorded=0, robotic=3, noise_only=1, validation=2)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return build_corpus(tmp_path_factory.mktemp("corpus"), TINY)


def click(at_s, seconds=1.0):
    pcm = np.zeros(round(seconds * 16000), np.float32)
    pcm[round(at_s * 16000)] = 1
    return Utterance(pcm, (Phoneme("p", at_s, at_s + 0.01),))


def test_test_voices_and_settings_are_none_that_are_trained_on():
    trained = {(language, variant) for language in _LANGUAGES for variant in _VARIANTS}
    assert not trained & set(TEST_VOICES)
    assert not {variant for _, variant in TEST_VOICES} & {*_VARIANTS, *(v for _, v in VALIDATION_VOICES)}
    assert not any(low <= TEST_SHIFT <= high for low, high in TRAINED_SHIFTS)
    assert not TRAINED_LENGTH_SCALES[0] <= TEST_LENGTH_SCALE <= TRAINED_LENGTH_SCALES[1]


@pytest.mark.parametrize("factor", [0.8, 1.17])
def test_shifted_sounds_stay_where_they_are_heard(factor):
    shifted = shift(click(0.5), factor)
    heard_s = np.abs(shifted.pcm).argmax() / 16000
    assert heard_s == pytest.approx(0.5 / factor, abs=0.001)
    assert shifted.phonemes[0].start_s == pytest.approx(heard_s, abs=0.001)


def test_shifting_raises_the_pitch_by_the_factor():
    tone = np.sin(2 * np.pi * 440 * np.arange(16000) / 16000).astype(np.float32)
    shifted = shift(Utterance(tone, ()), 1.25).pcm
    peak_hz = np.abs(np.fft.rfft(shifted)).argmax() * 16000 / len(shifted)
    assert peak_hz == pytest.approx(550, abs=3)


def test_padding_moves_the_sounds_along():
    padded = pad(click(0.5), 0.25, 0.5)
    assert len(padded.pcm) == 28000
    assert padded.phonemes[0].start_s == pytest.approx(np.abs(padded.pcm).argmax() / 16000)


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
def test_noise_has_unit_power_and_falls_with_frequency(exponent):
    noise = coloured_noise(160_000, exponent, np.random.default_rng(0))
    assert np.mean(noise**2) == pytest.approx(1, abs=1e-3)
    power = np.abs(np.fft.rfft(noise)) ** 2
    low, high = power[4000:6000].mean(), power[40_000:60_000].mean()
    assert low / high == pytest.approx(10**exponent, rel=0.2)


def test_a_room_keeps_the_direct_sound_and_adds_a_decaying_tail():
    heard = reverberate(click(0.2).pcm, 0.3, 10.0, np.random.default_rng(0))
    assert np.abs(heard).argmax() == 3200
    assert not heard[:3100].round(5).any()
    early, late = np.sum(heard[3201:5600] ** 2), np.sum(heard[5600:8000] ** 2)
    assert early + late == pytest.approx(0.1, rel=0.1)
    assert late < 0.01 * early


def test_samples_are_clipped_to_int16():
    np.testing.assert_array_equal(to_int16(np.float32([-2, -1, 0, 1, 2])), [-32767, -32767, 0, 32767, 32767])


def test_a_window_is_centred_on_the_frame_that_its_target_speaks_of():
    starts = window_starts(10)  # counted in mel frames from 10 frames before the utterance
    encoder_frames = np.arange(len(starts)) - 9
    centre_s = (starts + 8) / 80 - 0.4
    frame_middle_s = (encoder_frames + CENTRE_FRAME_OFFSET + 0.5) / 25
    np.testing.assert_allclose(centre_s, frame_middle_s, atol=0.0101)  # window starts are rounded to 12.5 ms
    assert encoder_frames[0] + CENTRE_FRAME_OFFSET == FIRST_CENTRE_FRAME


def test_targets_are_the_mouth_at_the_centre_and_rest_outside():
    rng = np.random.default_rng(0)
    mouth = rng.uniform(-1, 1, (20, 5)).astype(np.float32)
    targets = encoder_targets(mouth)
    assert targets.shape == (35, 8)
    for frame in (0, 7, 19):
        told = targets[frame - FIRST_CENTRE_FRAME]
        assert told[0] == mouth[frame, OPEN]
        assert told[1] == mouth[frame, PRESS]
        assert told[4] - told[5] == mouth[frame, WIDTH]
        assert told[6] == (mouth[frame - 1, OPEN] if frame else 0)
        assert told[7] == (mouth[frame + 1, OPEN] if frame < 19 else 0)
    assert not targets[:6].any()
    assert not targets[29:].any()


def test_the_corpus_stores_each_utterances_windows_and_mouths(corpus):
    assert len(corpus.utterances) == 8
    assert sum(e.frames + 15 for e in corpus.utterances) == len(corpus.windows) == len(corpus.mouths)
    sample, entry = next(training_samples(TINY)), corpus.utterances[0]
    rows = slice(entry.first_row, entry.first_row + entry.frames)
    np.testing.assert_array_equal(corpus.mouths[rows], sample.track.mouth)
    windows = utterance_windows(sample.pcm)[:, 0]
    np.testing.assert_allclose(corpus.windows[: len(windows)], windows, atol=2e-3)


def test_the_splits_share_no_row(corpus):
    training, validation = corpus.rows("train"), corpus.rows("validation")
    assert not np.intersect1d(training, validation).size
    assert len(training) + len(validation) == len(corpus.windows)


def test_a_stored_corpus_is_opened_again_and_other_settings_make_another(corpus, tmp_path):
    build_corpus(tmp_path, replace(TINY, natural=0, recorded=0, robotic=1))
    written = (tmp_path / "windows.npy").stat().st_mtime_ns
    build_corpus(tmp_path, replace(TINY, natural=0, recorded=0, robotic=1))
    assert (tmp_path / "windows.npy").stat().st_mtime_ns == written
    build_corpus(tmp_path, replace(TINY, natural=0, recorded=0, robotic=2))
    assert stored_settings(tmp_path)["robotic"] == 2
    assert (tmp_path / "windows.npy").stat().st_mtime_ns != written


def test_held_out_speech_mixes_natural_and_robotic_voices():
    samples = list(unseen_samples(4, 7))
    assert [s.voice for s in samples][::3] == ["joe-shifted", "joe-shifted"]
    assert all(s.voice.startswith("espeak-") for s in samples[1:3])
    assert all(s.split == "test" for s in samples)


def test_a_seed_says_the_same_again():
    first, again, other = (list(unseen_samples(4, seed)) for seed in (7, 7, 8))
    for n in (0, 3):  # the natural voice's; espeak-ng adds a flutter that no seed reaches
        np.testing.assert_array_equal(first[n].pcm, again[n].pcm)
        np.testing.assert_array_equal(first[n].track.mouth, again[n].track.mouth)
    for n in (1, 2):
        assert len(first[n].pcm) == pytest.approx(len(again[n].pcm), abs=80)
        assert first[n].voice == again[n].voice
    assert [len(s.pcm) for s in first] != [len(s.pcm) for s in other]
