from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from export.demo.avatar import UNET_FILE, WEIGHTS
from export.onnx_export import write_unet
from perf.baselines.float_graph import INPUT, OUTPUT, BaselineError, float_graph
from perf.null_network import write_null_network
from tests.support.avatar_sources import network_graph
from tests.support.networks import random_unet
from tests.support.scenes import textured

SHA256 = "0123456789abcdef" * 4


def faces(count: int, side: int = 320) -> NDArray[np.uint8]:
    return np.stack([textured(side, side, seed).transpose(2, 0, 1) for seed in range(count)])


def audio(count: int, shape: tuple[int, ...] = (32, 16, 16)) -> NDArray[np.float32]:
    return np.random.default_rng(1).standard_normal((count, *shape), np.float32)


def visual(
    face: NDArray[np.uint8], mask: tuple[int, int, int, int] = (5, 5, 315, 310)
) -> NDArray[np.float32]:
    """What the facts on these networks say: the crop in 0…1, and the same with the mouth's area black."""
    x1, y1, x2, y2 = mask
    reference = face / np.float32(255)
    masked = reference.copy()
    masked[..., y1:y2, x1:x2] = 0
    return np.concatenate([reference, masked], axis=1)


def run(model: str | bytes, **inputs: NDArray[np.generic]) -> NDArray[np.generic]:
    """The first output of a graph."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, inputs)[0])


def assert_same_drawing(
    served: Path, face: NDArray[np.uint8], sound: NDArray[np.float32], **changes: tuple
) -> None:
    mouth = run(str(served), FACE=face, AUDIO=sound)
    drawn = run(float_graph(served).SerializeToString(), **{INPUT: visual(face, **changes), "AUDIO": sound})
    assert drawn.dtype == np.float32
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    assert mouth.std() > 10  # a picture, in which a fault would show
    difference = np.abs((drawn * 255).astype(np.uint8).transpose(0, 2, 3, 1).astype(int) - mouth)
    # A value that lies on the border between two steps may fall to either side.
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.001


def test_the_demos_network_draws_the_same_from_floats() -> None:
    assert_same_drawing(WEIGHTS / UNET_FILE, faces(2), audio(2))


@pytest.mark.parametrize(
    ("family", "mode", "side", "mask", "shape"),
    [
        ("328", "ave", 320, (5, 5, 315, 310), (32, 16, 16)),
        ("160", "hubert", 160, (5, 5, 155, 150), (16, 32, 32)),
    ],
)
def test_an_exported_network_of_either_family_draws_the_same_from_floats(
    tmp_path: Path, family: str, mode: str, side: int, mask: tuple, shape: tuple
) -> None:
    served = tmp_path / "served.onnx"
    write_unet(random_unet(family, mode), SHA256, served)
    assert_same_drawing(served, faces(2, side), audio(2, shape), mask=mask)


def test_nothing_of_what_serving_added_is_left_in_the_graph() -> None:
    graph = float_graph(WEIGHTS / UNET_FILE).graph
    assert [tensor.name for tensor in graph.input] == [INPUT, "AUDIO"]
    assert [tensor.name for tensor in graph.output] == [OUTPUT]
    weights = {tensor.name for tensor in graph.initializer}
    used = {name for node in graph.node for name in node.input}
    assert weights <= used
    # The mask, the key and the way from and to bytes would be work that the baseline does not have.
    served = onnx.load(str(WEIGHTS / UNET_FILE)).graph
    kinds = [[node.op_type for node in each.node] for each in (graph, served)]
    assert kinds[0].count("Conv") == kinds[1].count("Conv")
    assert kinds[0].count("Transpose") == kinds[0].count("Expand") == 0
    casts = {attribute.i for node in graph.node if node.op_type == "Cast" for attribute in node.attribute}
    assert casts == {onnx.TensorProto.FLOAT}  # of weights that are stored as halves


def test_the_null_networks_floats_are_its_inputs_first_three_channels(tmp_path: Path) -> None:
    served = write_null_network(tmp_path / "null.onnx")
    face = faces(3)
    drawn = run(float_graph(served).SerializeToString(), **{INPUT: visual(face), "AUDIO": audio(3)})
    np.testing.assert_array_equal(drawn, face / np.float32(255))


def test_a_graph_of_another_form_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.onnx"
    onnx.save(network_graph(), str(path))
    with pytest.raises(BaselineError, match=r"other\.onnx has 0 nodes Concat at face; one is wanted"):
        float_graph(path)
