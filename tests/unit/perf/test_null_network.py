from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime

from export.served_graph import inspect_network
from perf.null_network import KEY, write_null_network


def test_it_keeps_the_contract_and_gives_the_face_back(tmp_path: Path) -> None:
    path = write_null_network(tmp_path / "new" / "null.onnx")
    network = inspect_network(path)
    assert (network.family, network.audio_shape, network.key) == ("328", (32, 16, 16), KEY)
    face = np.random.default_rng(0).integers(0, 256, (3, 3, 320, 320), np.uint8)
    feed = {"FACE": face, "AUDIO": np.zeros((3, 32, 16, 16), np.float32)}
    mouth, key = onnxruntime.InferenceSession(str(path)).run(["MOUTH", "AVATAR_KEY"], feed)
    np.testing.assert_array_equal(mouth, face.transpose(0, 2, 3, 1))
    assert key.tolist() == [[KEY]] * 3
