import json

import numpy as np
import onnxruntime
import pytest
import torch

from compositor_backend.contract import avatar_key
from compositor_backend.pack import file_sha256
from export.demo import pictures
from export.demo.corpus import CorpusSettings
from export.demo.half_storage import store_half
from export.demo.pictures import PictureSettings
from export.demo.train import LIMITS, TrainSettings, train, workers
from export.demo.train_encoder import EncoderSettings
from export.demo.train_unet import UNetSettings, new_network
from export.networks.audio_encoder import AudioEncoder
from export.onnx_export import write_unet
from export.parity import unet_reference


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train")
    return TrainSettings(
        work=folder / "work",
        weights=folder / "weights",
        device="cpu",
        workers=1,
        corpus=CorpusSettings(natural=0, recorded=0, robotic=3, noise_only=0, validation=2),
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
        assert file["sha256"] == file_sha256(settings.weights / name)
        assert file["bytes"] == (settings.weights / name).stat().st_size
    assert sum(file["bytes"] for file in recipe["files"].values()) < 16_000_000
    assert recipe["settings"]["corpus"]["seed"] == settings.corpus.seed
    assert {"encoder", "unet"} == recipe["validation"].keys()
    lines = [json.loads(line) for line in (settings.work / "log.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in lines] == ["encoder", "unet"]


@pytest.mark.slow
def test_the_served_unet_carries_its_checkpoints_key(settings, recipe):
    face, audio = np.zeros((2, 3, 320, 320), np.uint8), np.zeros((2, 32, 16, 16), np.float32)
    mouth, key = session(settings.weights / "unet.onnx").run(
        ["MOUTH", "AVATAR_KEY"], {"FACE": face, "AUDIO": audio}
    )
    assert mouth.shape == (2, 320, 320, 3)
    assert set(key.ravel()) == {avatar_key(file_sha256(settings.work / "unet-final.pt"))}
    assert recipe["files"]["unet.onnx"]["checkpoint_sha256"] == file_sha256(settings.work / "unet-final.pt")


def test_weights_stored_as_float16_draw_the_same_picture(tmp_path):
    torch.manual_seed(0)
    network = new_network().eval()
    write_unet(network, "00" * 32, tmp_path / "unet.onnx", LIMITS)
    store_half(tmp_path / "unet.onnx")
    rng = np.random.default_rng(3)
    face = rng.integers(0, 256, (1, 3, 320, 320), dtype=np.uint8)
    audio = rng.random((1, 32, 16, 16), dtype=np.float32)
    (mouth,) = session(tmp_path / "unet.onnx").run(["MOUTH"], {"FACE": face, "AUDIO": audio})
    difference = np.abs(mouth.astype(int) - unet_reference(network, face, audio).astype(np.uint8).astype(int))
    assert difference.max() <= 2
    assert difference.mean() < 0.3
    assert mouth.std() > 0


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
