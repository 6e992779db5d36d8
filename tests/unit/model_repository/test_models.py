from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compositor_backend.contract import PYTHON_MODELS
from compositor_backend.windows import request_windows
from tests.support import pb_utils

REPOSITORY = Path(__file__).parents[3] / "model_repository"


def load_model(name: str) -> Any:
    """An initialised model, as Triton's stub makes it."""
    pb_utils.import_bridge()
    spec = importlib.util.spec_from_file_location(f"{name}_model", REPOSITORY / name / "1" / "model.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.TritonPythonModel()
    model.initialize(
        {
            "model_config": json.dumps({"name": name, "instance_group": [{"count": 1}]}),
            "model_repository": str(REPOSITORY / name),
            "model_name": name,
            "model_instance_name": f"{name}_0_0",
            "model_instance_kind": "CPU",
            "model_instance_device_id": "0",
        }
    )
    return model


@pytest.fixture(autouse=True)
def clean_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No avatars; and no ``__pycache__`` left in the repository: a running Triton would see a change."""
    monkeypatch.setenv("LIPSTREAM_AVATARS", str(tmp_path))
    monkeypatch.setenv("LIPSTREAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)


def test_audio_features_answers_every_request() -> None:
    pcm = (np.random.default_rng(0).standard_normal(27 * 640) * 1000).astype(np.int16)
    frames, avatar = np.arange(5, dtype=np.int32), np.array([b"may"], object)
    good = pb_utils.Request({"AVATAR": avatar, "PCM": pcm, "FRAME_INDEX": frames}, ("MEL",))
    bad = pb_utils.Request({"AVATAR": avatar, "PCM": pcm[1:], "FRAME_INDEX": frames}, ("MEL",))
    first, second, third = load_model("audio_features").execute([good, bad, good])
    np.testing.assert_array_equal(first.arrays["MEL"], request_windows(pcm))
    np.testing.assert_array_equal(third.arrays["MEL"], request_windows(pcm))
    assert second.error.message().startswith("PCM has shape [17279]")


@pytest.mark.parametrize(
    "name", ["audio_encoder", "audio_windows", "catalog", "compositor", "idle_frames", "lipsync"]
)
def test_a_model_starts_without_avatars_and_names_the_one_it_lacks(name: str) -> None:
    batched = name in ("audio_encoder", "lipsync")
    rows = {"AVATAR": np.array([[b"bob"]], object), "FRAME_INDEX": np.zeros((1, 1), np.int32)}
    inputs = {
        **({key: value if batched else value[:, 0] for key, value in rows.items()}),
        "MEL": np.zeros((1, 1, 80, 16), np.float32),
        "AUDIO": np.zeros((1, 32, 16, 16), np.float32),
        "EMBEDDING": np.zeros((16, 512), np.float32),
        "MOUTH": np.zeros((1, 320, 320, 3), np.uint8),
        "AVATAR_KEY": np.zeros((1, 1), np.int64),
    }
    contract = next(model for model in PYTHON_MODELS if model.name == name)
    wanted = {tensor.name: inputs[tensor.name] for tensor in contract.inputs if tensor.name in inputs}
    (response,) = load_model(name).execute(
        [pb_utils.Request(wanted, tuple(output.name for output in contract.outputs))]
    )
    assert "'bob'" in response.error.message()
    assert response.error.code() == pb_utils.TritonError.INVALID_ARG
