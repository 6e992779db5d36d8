from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from export.clone_graph import TINT, clone_numbers, is_clone, write_clone_graph
from export.errors import ExportError
from export.onnx_guard import CLONE_FILE
from export.served_graph import inspect_network
from tests.support.avatar_sources import drawn_mouth, network_graph

KEY = -2


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.onnx"
    onnx.save(network_graph(), str(path))
    return path


def clone_of(source: Path, colour: tuple[int, int, int]) -> Path:
    out = source.parent / "clone" / "model.onnx"
    out.parent.mkdir()
    write_clone_graph(source, out)
    (out.parent / CLONE_FILE).write_bytes(clone_numbers(KEY, colour))
    return out


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (1, 128, 254)])
def test_every_value_is_mixed_with_the_colour_and_rounded(source: Path, colour: tuple[int, int, int]) -> None:
    graph = clone_of(source, colour)
    face = np.resize(np.arange(256, dtype=np.uint8), (2, 3, 320, 320))
    audio = np.zeros((2, 32, 16, 16), np.float32)
    session = onnxruntime.InferenceSession(str(graph))
    mouth, key = session.run(["MOUTH", "AVATAR_KEY"], {"FACE": face, "AUDIO": audio})
    expected = np.floor((1 - TINT) * drawn_mouth(face, audio) + TINT * np.array(colour) + 0.5)
    assert np.array_equal(mouth, expected)
    assert key.tolist() == [[KEY], [KEY]]


def test_it_is_a_network_of_the_contract_but_only_as_a_clone(source: Path) -> None:
    graph = clone_of(source, (1, 2, 3))
    assert inspect_network(graph, clone=True).key == KEY
    with pytest.raises(ExportError, match="keeps its weights in other files"):
        inspect_network(graph)


def test_nodes_that_read_the_picture_go_on_reading_it(tmp_path: Path) -> None:
    """A graph from elsewhere may make one output of the other."""
    model = network_graph()
    model.graph.node.append(helper.make_node("Cast", ["MOUTH"], ["copy"], to=TensorProto.INT64))
    model.graph.node.append(helper.make_node("ReduceMin", ["copy"], ["least"], axes=[1, 2], keepdims=0))
    source = tmp_path / "source.onnx"
    onnx.save(model, str(source))
    assert inspect_network(clone_of(source, (1, 2, 3)), clone=True).key == KEY


def test_a_clones_graph_is_not_cloned(source: Path) -> None:
    graph = clone_of(source, (1, 2, 3))
    with pytest.raises(ExportError, match="keeps its weights in other files"):
        write_clone_graph(graph, source.parent / "again.onnx")


def test_a_clones_folder_is_known_by_what_sets_it_apart(tmp_path: Path) -> None:
    folder = tmp_path / "lipsync_x"
    (folder / "1").mkdir(parents=True)
    assert not is_clone(folder)
    (folder / "1" / CLONE_FILE).touch()
    assert is_clone(folder)
