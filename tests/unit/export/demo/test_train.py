import json

import numpy as np
import onnxruntime
import pytest
import torch

from compositor_backend.contract import avatar_key
from export.demo import pictures
from export.demo.corpus import CorpusSettings
from export.demo.pictures import PictureSettings
from export.demo.train import TrainSettings, sha256, train, workers
from export.demo.train_encoder import EncoderSettings
from export.demo.train_unet import UNetSettings, new_network
from export.networks.audio_encoder import AudioEncoder
from export.parity import unet_reference


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train")
    return TrainSettings(
        work=folder / "work",
        weights=folder / "weights",
        device="cpu",
        workers=1,
        corpus=CorpusSettings(natural=0, robotic=3, noise_only=0, validation=2),
        encoder=EncoderSettings(cycles=(2,), peak_rates=(1e-3,), batch=8, validate_every=2, save_every=2),
        pictures=PictureSettings(training=4, validation=2, seed=1),
        unet=UNetSettings(steps=1, batch=2, audio_steps=1, audio_batch=2, validate_every=1, save_every=1),
    )


@pytest.fixture(scope="module")
def recipe(settings):
    stages: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "N_FRAMES", 2)
        recipe = train(settings, lambda stage, done, total: stages.append(stage))
    assert list(dict.fromkeys(stages)) == ["speech", "audio encoder", "embeddings", "U-Net"]
    return recipe


def session(path):
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.mark.slow
def test_the_recipe_names_the_files_and_what_made_them(settings, recipe):
    assert json.loads((settings.weights / "recipe.json").read_text()) == json.loads(json.dumps(recipe))
    for name, file in recipe["files"].items():
        assert file["sha256"] == sha256(settings.weights / name)
        assert file["bytes"] == (settings.weights / name).stat().st_size
    assert sum(file["bytes"] for file in recipe["files"].values()) < 16_000_000
    assert recipe["settings"]["corpus"]["seed"] == settings.corpus.seed
    assert {"encoder", "unet"} == recipe["validation"].keys()
    lines = [json.loads(line) for line in (settings.work / "log.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in lines] == ["encoder", "unet"]


@pytest.mark.slow
def test_the_served_unet_draws_what_the_trained_one_draws(settings, recipe):
    network = new_network()
    network.load_state_dict(torch.load(settings.work / "unet-final.pt", weights_only=True))
    crops = np.load(settings.work / "pictures" / "crops.npy")
    face = np.ascontiguousarray(crops[:1].transpose(0, 3, 1, 2))
    audio = np.random.default_rng(3).random((1, 32, 16, 16), dtype=np.float32)
    mouth, key = session(settings.weights / "unet.onnx").run(
        ["MOUTH", "AVATAR_KEY"], {"FACE": face, "AUDIO": audio}
    )
    difference = np.abs(mouth.astype(int) - unet_reference(network, face, audio))
    # Weights rounded to float16. One step leaves logits of hundreds, so a pixel at an edge may flip altogether.
    assert difference.mean() < 1
    assert (difference <= 2).mean() > 0.99
    assert key.item() == avatar_key(recipe["files"]["unet.onnx"]["checkpoint_sha256"])


@pytest.mark.slow
def test_the_served_encoder_says_what_the_trained_one_says(settings, recipe):
    encoder = AudioEncoder().eval()
    encoder.load_state_dict(torch.load(settings.work / "encoder.pt", weights_only=True)["model"])
    mel = np.random.default_rng(4).uniform(-4, 4, (3, 1, 80, 16)).astype(np.float32)
    (served,) = session(settings.weights / "audio_encoder.onnx").run(None, {"MEL": mel})
    with torch.inference_mode():
        trained = encoder(torch.from_numpy(mel)).numpy()
    np.testing.assert_allclose(served, trained, atol=0.01 * np.abs(trained).max())


def test_a_gpu_has_one_worker(settings):
    assert workers(settings, torch.device("cuda")) == 1
    assert workers(settings, torch.device("cpu")) == settings.workers
