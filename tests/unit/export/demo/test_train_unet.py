from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from export.demo import pictures
from export.demo.corpus import CorpusSettings, build_corpus, encoder_targets
from export.demo.pictures import Pictures, PictureSettings, assign_mouths, draw, prepare
from export.demo.progress import load_checkpoint
from export.demo.train_encoder import embedding_targets
from export.demo.train_unet import (
    CoachedUNet,
    UNetJob,
    UNetSettings,
    audible_rows,
    batch_numbers,
    mouth_area,
    network_audio,
    network_input,
    network_target,
    new_network,
    picture_loss,
    pixel_weights,
    planned_rows,
    predict,
    train_unet,
    worst_pixels,
)
from export.parity import unet_reference

CPU = torch.device("cpu")
QUICK = UNetSettings(steps=2, batch=2, audio_steps=2, audio_batch=4, validate_every=2, save_every=1)
PICTURES = PictureSettings(training=8, validation=2, seed=1)

SPEECH = CorpusSettings(natural=0, recorded=0, robotic=3, noise_only=0, validation=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A work folder with a corpus, ten pictures of two templates, and the ideal encoder's embeddings."""
    folder = tmp_path_factory.mktemp("work")
    corpus = build_corpus(folder / "corpus", SPEECH)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "N_FRAMES", 2)
        prepare(folder / "pictures", corpus, PICTURES)
        plan = np.load(folder / "pictures" / "plan.npy")
        assign_mouths(folder / "pictures", np.asarray(corpus.mouths[plan[:, 1]]))
        draw(folder / "pictures")
    ideal = embedding_targets(torch.from_numpy(np.array(corpus.targets))).numpy()
    np.save(folder / "embeddings.npy", ideal.astype(np.float16))
    return folder


@pytest.fixture
def job(folder, tmp_path):
    """A job that shares the module's material and has a folder of its own for the results."""
    for name in ("corpus", "pictures", "embeddings.npy"):
        (tmp_path / name).symlink_to(folder / name)
    return UNetJob(tmp_path, QUICK, PICTURES)


def test_the_network_is_fed_and_read_as_the_served_graph_is():
    torch.manual_seed(0)
    network = new_network().eval()
    rng = np.random.default_rng(0)
    crops = rng.integers(0, 256, (1, 320, 320, 3), dtype=np.uint8)
    audio = rng.random((1, 32, 16, 16), dtype=np.float32)
    reference = unet_reference(network, np.ascontiguousarray(crops.transpose(0, 3, 1, 2)), audio)
    predicted = predict(network, crops, torch.from_numpy(audio), CPU)
    assert np.abs(predicted.astype(int) - reference).max() <= 1


def test_the_mask_covers_the_face_and_leaves_its_rim():
    visual = network_input(torch.full((1, 320, 320, 3), 255, dtype=torch.uint8))
    assert (visual[:, :3] == 1).all()
    assert not visual[:, 3:, 5:310, 5:315].any()
    assert visual[:, 3:].sum() == 3 * (320 * 320 - 305 * 310)


def test_colours_are_blue_first():
    red = torch.zeros((1, 320, 320, 3), dtype=torch.uint8)
    red[..., 0] = 255
    assert network_target(red)[0, :, 0, 0].tolist() == [0, 0, 1]
    assert network_input(red)[0, :3, 0, 0].tolist() == [0, 0, 1]


def test_audio_is_sixteen_rows_one_after_another():
    embeddings = np.arange(20 * 512, dtype=np.float16).reshape(20, 512)
    audio = network_audio(embeddings, np.array([3]))
    assert audio.shape == (1, 32, 16, 16)
    np.testing.assert_array_equal(audio.reshape(16, 512), embeddings[3:19])


def test_frame_zero_of_an_utterance_finds_its_own_mouth_in_the_middle_of_its_rows():
    mouth = np.random.default_rng(0).random((3, 5), dtype=np.float32)
    embeddings = embedding_targets(torch.from_numpy(encoder_targets(mouth))).numpy().astype(np.float16)
    audio = network_audio(embeddings, np.array([1]))
    assert float(audio[0, 14, 0, 0]) == pytest.approx(mouth[1, 0], abs=1e-3)


def test_an_epoch_shows_each_training_picture_once(folder):
    material = Pictures(folder / "pictures", PICTURES)
    for epoch in (0, 1, 5):
        shown = np.concatenate([batch_numbers(material, QUICK, epoch * 4 + n) for n in range(4)])
        assert sorted(shown) == list(range(2, 10))
    assert not np.array_equal(batch_numbers(material, QUICK, 4), batch_numbers(material, QUICK, 0))


def test_the_loss_weighs_the_mouth_most(folder):
    material = Pictures(folder / "pictures", PICTURES)
    weights = pixel_weights(material, 8.0)
    rows, columns = mouth_area(material)
    assert weights.min() == pytest.approx(1)
    assert weights.max() == pytest.approx(9)
    assert weights[rows, columns].mean() > 2 * weights[:80].mean()
    truth = torch.full((1, 3, 320, 320), 0.5)
    wrong_mouth, wrong_corner = truth.clone(), truth.clone()
    y, x = np.unravel_index(weights.argmax(), weights.shape)
    wrong_mouth[:, :, y, x] += 0.2
    wrong_corner[:, :, 2, 2] += 0.2
    losses = [picture_loss(p, truth, torch.from_numpy(weights)) for p in (truth, wrong_corner, wrong_mouth)]
    assert losses[0] == 0
    assert losses[2] > losses[1] > 0


def test_a_blotch_costs_more_than_the_same_error_spread_over_the_face():
    truth, flat = torch.full((2, 3, 320, 320), 0.5), torch.ones(320, 320)
    blotch, veil = truth.clone(), truth.clone()
    blotch[0, :, 40:72, 40:72] += 0.2  # a hundredth of the picture
    veil[0] += 0.02
    worst = [float(worst_pixels(picture - truth)) for picture in (blotch, veil)]
    assert worst[0] == pytest.approx(0.2**2 / 2, rel=0.01)
    assert worst[1] == pytest.approx(0.02**2 / 2, rel=0.01)
    assert picture_loss(blotch, truth, flat) > 1.5 * picture_loss(veil, truth, flat)


def test_the_readers_leave_the_networks_picture_alone():
    torch.manual_seed(1)
    coached = CoachedUNet(new_network()).eval()
    visual, audio = torch.rand(1, 6, 320, 320), torch.rand(1, 32, 16, 16)
    with torch.inference_mode():
        picture, heard, fused = coached(visual, audio)
        np.testing.assert_allclose(picture, coached.network(visual, audio), atol=1e-6)
        np.testing.assert_allclose(heard, coached.hear(audio), atol=1e-5)
    assert fused.shape == (1, 5, 10, 10)


def test_the_audio_branch_hears_every_frame_whose_windows_are_embedded(folder):
    corpus = build_corpus(folder / "corpus", SPEECH)
    plan = np.load(folder / "pictures" / "plan.npy")
    audible, stored = audible_rows(corpus, plan), set(planned_rows(plan))
    assert set(plan[2:, 1]) <= set(audible)
    assert all(set(range(row, row + 16)) <= stored for row in audible)
    assert set(audible) <= set(corpus.rows("train"))


def final_weights(folder: Path):
    weights = load_checkpoint(folder / "unet-final.pt")
    assert weights is not None
    return weights


@pytest.mark.slow
def test_an_interrupted_training_ends_as_one_that_was_not(job, folder, tmp_path):
    class CutShortError(Exception):
        pass

    def interrupt(done, total):
        if done == 1:
            raise CutShortError

    train_unet(job)
    whole = final_weights(job.folder)
    other = replace(job, folder=tmp_path / "cut")
    other.folder.mkdir()
    for name in ("corpus", "pictures", "embeddings.npy"):
        (other.folder / name).symlink_to(folder / name)
    with pytest.raises(CutShortError):
        train_unet(other, interrupt)
    train_unet(other)
    resumed = final_weights(other.folder)
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    assert (job.folder / "strip-00002.png").exists()


@pytest.mark.slow
def test_two_workers_take_the_same_steps_and_a_used_up_budget_ends_them(job):
    train_unet(replace(job, workers=2, settings=replace(QUICK, steps=50, save_every=50), budget_s=0.01))
    state = load_checkpoint(job.folder / "unet.pt")
    assert state is not None
    assert 1 <= state["step"] < 50
    assert all(torch.isfinite(value).all() for value in final_weights(job.folder).values())
