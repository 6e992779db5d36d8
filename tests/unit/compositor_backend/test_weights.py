from __future__ import annotations

import gc
import hashlib
import weakref
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from compositor_backend.errors import NetworkError
from compositor_backend.graph_file import GraphFile
from compositor_backend.onnx_runtime import ROWS, Network
from compositor_backend.weights import ALIGNMENT_BYTES, split_weights
from export.onnx_export import write_unet
from tests.support.graphs import adding_graph, endless_graph, write_graph
from tests.support.networks import random_unet
from tests.support.runtimes import cpu_runtime


@pytest.fixture(scope="module")
def unets(tmp_path_factory: pytest.TempPathFactory) -> list[GraphFile]:
    """Three U-Nets, the last of another architecture."""
    folder = tmp_path_factory.mktemp("unets")
    found = []
    for seed, audio in enumerate(("hubert", "hubert", "wenet")):
        path = folder / f"{seed}.onnx"
        write_unet(random_unet("160", audio, seed=seed), f"{seed:064x}", path)
        found.append(write_graph(path, onnx.load(str(path))))
    return found


def draw(network: Network, rows: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    shapes = {tensor.name: tensor.shape[1:] for tensor in network._sessions[1].get_inputs()}
    random = np.random.default_rng(rows)
    size = shapes["FACE"][-1]
    inputs = {
        "FACE": random.integers(0, 256, (rows, *shapes["FACE"]), np.uint8),
        "AUDIO": random.standard_normal((rows, *shapes["AUDIO"]), np.float32),
    }
    mouth, keys = np.empty((rows, size, size, 3), np.uint8), np.empty((rows, 1), np.int64)
    network.run(inputs, {"MOUTH": mouth, "AVATAR_KEY": keys})
    return mouth, keys


def test_networks_of_one_architecture_share_a_session_and_draw_their_own_pictures(
    unets: list[GraphFile], tmp_path: Path
) -> None:
    shared, alone = cpu_runtime(tmp_path, share_sessions=True), cpu_runtime(tmp_path, share_sessions=False)
    networks = [shared.open(graph) for graph in unets]
    assert networks[0]._sessions == networks[1]._sessions
    assert networks[0]._sessions[1] is not networks[2]._sessions[1]
    for network, graph in [*zip(networks, unets, strict=True), (networks[0], unets[0])]:
        mouth, keys = draw(network, 3)
        wanted_mouth, wanted_keys = draw(alone.open(graph), 3)
        # onnxruntime lays out constant weights for the processor, and so adds in another order.
        assert np.abs(mouth.astype(int) - wanted_mouth).max() <= 1
        assert mouth.std() > 10
        assert (keys == wanted_keys).all()


def test_rows_beyond_those_of_a_run_are_left_out(
    unets: list[GraphFile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ROWS, "CPU", (1, 5))
    network = cpu_runtime(tmp_path, share_sessions=True).open(unets[0])
    assert network.rows == 5
    mouth, keys = draw(network, 3)
    monkeypatch.undo()
    wanted_mouth, wanted_keys = draw(cpu_runtime(tmp_path, share_sessions=False).open(unets[0]), 3)
    assert np.abs(mouth.astype(int) - wanted_mouth).max() <= 1
    assert (keys == wanted_keys).all()


def test_a_network_keeps_nothing_of_a_request(unets: list[GraphFile], tmp_path: Path) -> None:
    network = cpu_runtime(tmp_path, share_sessions=True).open(unets[0])
    shapes = {tensor.name: tensor.shape[1:] for tensor in network._sessions[1].get_inputs()}
    size = shapes["FACE"][-1]
    face = np.zeros((1, *shapes["FACE"]), np.uint8)
    gone = weakref.ref(face)
    outputs = {"MOUTH": np.empty((1, size, size, 3), np.uint8), "AVATAR_KEY": np.empty((1, 1), np.int64)}
    network.run({"FACE": face, "AUDIO": np.zeros((1, *shapes["AUDIO"]), np.float32)}, outputs)
    del face
    gc.collect()
    assert gone() is None


def test_a_network_that_goes_leaves_the_others_their_session(unets: list[GraphFile], tmp_path: Path) -> None:
    shared = cpu_runtime(tmp_path, share_sessions=True)
    first = shared.open(unets[0])
    sessions = first._sessions
    del first
    assert shared.open(unets[1])._sessions == sessions


def test_equal_architectures_are_the_same_bytes(unets: list[GraphFile]) -> None:
    first, second, other = (split_weights(graph.path.read_bytes()) for graph in unets)
    assert first.model == second.model
    assert first.sha256 == second.sha256 != other.sha256
    assert not np.array_equal(first.buffer, second.buffer)
    assert not onnx.load_model_from_string(first.model).graph.initializer


def test_weights_lie_where_they_are_said_to(unets: list[GraphFile]) -> None:
    data = unets[0].path.read_bytes()
    split = split_weights(data)
    stored = {tensor.name: tensor for tensor in onnx.load_model_from_string(data).graph.initializer}
    found = 0
    for name, tensor in split.tensors.items():
        assert tensor.offset % ALIGNMENT_BYTES == 0
        if name in stored:
            array = numpy_helper.to_array(stored[name])
            there = split.buffer[tensor.offset : tensor.offset + array.nbytes].view(array.dtype)
            assert there.tobytes() == array.tobytes()
            found += 1
    assert found


def test_stored_halves_are_cast_once(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["half"], ["full"], to=TensorProto.FLOAT),
        helper.make_node("Identity", ["full"], ["same"]),
        helper.make_node("Mul", ["X", "same"], ["Y"]),
    ]
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in "XY"]
    half = numpy_helper.from_array(np.arange(4, dtype=np.float16), "half")
    graph = helper.make_graph(nodes, "casts", value[:1], value[1:], [half])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    split = split_weights(model.SerializeToString())
    assert [node.op_type for node in onnx.load_model_from_string(split.model).graph.node] == ["Mul"]
    assert split.tensors["same"].dtype == np.float32
    network = cpu_runtime(tmp_path, share_sessions=True).open(write_graph(tmp_path / "casts.onnx", model))
    out = np.empty((7, 4), np.float32)
    network.run({"X": np.full((7, 4), 2, np.float32)}, {"Y": out})
    assert out.tolist() == [[0, 2, 4, 6]] * 7


def test_what_a_loop_reads_stays_where_it_is() -> None:
    model = endless_graph()
    split = split_weights(model.SerializeToString())
    assert {tensor.name for tensor in onnx.load_model_from_string(split.model).graph.initializer} == {
        tensor.name for tensor in model.graph.initializer
    }


def test_constants_that_are_no_weights_stay(tmp_path: Path) -> None:
    split = split_weights(adding_graph(2).SerializeToString())
    assert list(split.tensors) == ["value"]
    assert split.sha256 == split_weights(adding_graph(3).SerializeToString()).sha256
    shared = cpu_runtime(tmp_path, share_sessions=True)
    out = np.empty((2, 4), np.float32)
    for value in (2, 3, 2):
        network = shared.open(write_graph(tmp_path / f"{value}.onnx", adding_graph(value)))
        network.run({"X": np.ones((2, 4), np.float32)}, {"Y": out})
        assert out.tolist() == [[1.0 + value] * 4] * 2


@pytest.mark.parametrize("damage", [b"no graph", b"\x08"])
def test_what_is_no_graph_is_refused(tmp_path: Path, damage: bytes) -> None:
    with pytest.raises(NetworkError):
        split_weights(damage)
    path = tmp_path / "b.onnx"
    path.write_bytes(damage)
    graph = GraphFile(path, hashlib.sha256(damage).hexdigest(), len(damage), 1000)
    with pytest.raises(NetworkError):
        cpu_runtime(tmp_path, share_sessions=True).open(graph)
