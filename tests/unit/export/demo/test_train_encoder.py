import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from export.demo.corpus import CorpusSettings, build_corpus, encoder_targets
from export.demo.progress import TrainingLog
from export.demo.train_encoder import (
    EncoderSettings,
    augment,
    embed,
    embedding_targets,
    favour_closure,
    read_embeddings,
    told_mouths,
    train_encoder,
)
from export.networks.audio_encoder import AudioEncoder

CPU = torch.device("cpu")
QUICK = EncoderSettings(cycles=(4,), peak_rates=(2e-3,), batch=8, validate_every=4, save_every=2)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    settings = CorpusSettings(natural=0, robotic=4, noise_only=0, validation=4)
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


def test_favouring_closure_scales_the_press_and_nothing_else():
    torch.manual_seed(0)
    network = AudioEncoder().eval()
    torch.nn.init.constant_(network[-1].conv_block[1].bias, 0.2)
    windows = np.random.default_rng(0).uniform(-4, 4, (4, 80, 16)).astype(np.float32)
    before = read_embeddings(embed(network, windows, CPU))
    favour_closure(network, 2.0)
    after = read_embeddings(embed(network, windows, CPU))
    np.testing.assert_allclose(after[:, 1], 2 * before[:, 1], rtol=1e-4)
    np.testing.assert_array_equal(np.delete(after, 1, axis=1), np.delete(before, 1, axis=1))
    assert before[:, 1].min() > 0


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
