import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from export.demo.corpus import CorpusSettings, build_corpus, encoder_targets
from export.demo.progress import TrainingLog
from export.demo.train_encoder import (
    MISSED_PRESS_WEIGHT,
    PRESS_TARGET,
    PRESSED_SHARE,
    EncoderSettings,
    Rows,
    augment,
    embed,
    embedding_targets,
    read_embeddings,
    told_loss,
    told_mouths,
    train_encoder,
)

CPU = torch.device("cpu")
QUICK = EncoderSettings(cycles=(4,), peak_rates=(2e-3,), batch=8, validate_every=4, save_every=2)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    settings = CorpusSettings(natural=0, recorded=0, robotic=4, noise_only=0, validation=2)
    return build_corpus(tmp_path_factory.mktemp("corpus"), settings)


def test_an_embedding_tells_its_eight_numbers_everywhere_in_the_map():
    targets = torch.rand(3, 8)
    embedding = embedding_targets(targets)
    assert embedding.shape == (3, 512)
    np.testing.assert_allclose(read_embeddings(embedding.numpy()), targets, atol=1e-6)
    maps = embedding.reshape(3, 2, 16, 16)
    np.testing.assert_array_equal(maps[..., :2, :2], maps[..., 6:8, 12:14])
    assert len(torch.unique(maps[0, :, :2, :2])) == 8


def test_the_ideal_encoder_tells_the_true_mouths_with_presses_made_firm():
    rng = np.random.default_rng(0)
    mouth = rng.uniform([0, -1, 0, 0, 0], 1, (30, 5)).astype(np.float32)
    embeddings = embedding_targets(torch.from_numpy(encoder_targets(mouth))).numpy()
    told = told_mouths(embeddings, np.arange(30))
    np.testing.assert_allclose(told[:, :4], mouth[:, :4], atol=1e-5)
    assert (told[mouth[:, 4] < 0.2, 4] == 0).all()
    assert (told[mouth[:, 4] > 0.8, 4] == 1).all()


def test_a_press_that_is_missed_costs_more_than_one_too_many():
    targets = torch.full((1, 8), 0.5)
    wanted = embedding_targets(targets)

    def loss(change, target):
        told = targets.clone()
        told[0, target] += change
        return float(told_loss(embedding_targets(told), wanted))

    assert loss(-0.2, PRESS_TARGET) == pytest.approx(MISSED_PRESS_WEIGHT * loss(0.2, PRESS_TARGET))
    assert loss(-0.2, 0) == pytest.approx(loss(0.2, 0))


def test_a_share_of_a_batch_is_of_pressed_lips():
    rows = Rows(np.arange(1000), np.arange(0, 1000, 10))
    first, again = (rows.batch(40, np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert len(first) == 40
    assert (first[:-1] <= first[1:]).all()
    assert (first % 10 == 0).sum() >= int(PRESSED_SHARE * 40) > 0
    assert len(Rows(np.arange(50), np.arange(2)).batch(40, np.random.default_rng(3))) == 40


def test_augmentation_keeps_digital_silence_and_the_range():
    windows = torch.full((5, 80, 16), -4.0)
    windows[:, 30:, 4:] = torch.rand(5, 50, 12) * 4 - 2
    varied = augment(windows, torch.Generator().manual_seed(1))
    assert (varied[windows == -4] == -4).all()
    assert varied.min() >= -4
    assert varied.max() <= 4
    assert not torch.equal(varied, windows)
    assert torch.equal(varied, augment(windows, torch.Generator().manual_seed(1)))


def test_an_interrupted_training_ends_as_one_that_was_not(corpus, tmp_path):
    log = TrainingLog(tmp_path / "log.jsonl", "encoder")
    whole = train_encoder(corpus, tmp_path / "whole", QUICK, log, CPU)

    class CutShortError(Exception):
        pass

    def interrupt(done, total):
        if done == 2:
            raise CutShortError

    with pytest.raises(CutShortError):
        train_encoder(corpus, tmp_path / "cut", QUICK, log, CPU, interrupt)
    resumed = train_encoder(corpus, tmp_path / "cut", QUICK, log, CPU)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_training_learns_and_logs_its_figures(corpus, tmp_path):
    settings = replace(QUICK, cycles=(60,), batch=16, validate_every=60)
    torch.manual_seed(settings.seed)
    network = train_encoder(corpus, tmp_path, settings, TrainingLog(tmp_path / "log.jsonl", "encoder"), CPU)
    (line,) = map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
    assert line["step"] == 60
    assert {"loss", "correlation", "silence_opening", "closed_rate"} <= line.keys()
    rows = corpus.rows("train")
    told = read_embeddings(embed(network, corpus.windows[rows], CPU))
    targets = corpus.targets[rows]
    assert np.square(told - targets).mean() < np.square(0.3 - targets).mean()
