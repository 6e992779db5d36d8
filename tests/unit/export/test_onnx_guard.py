from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from export import onnx_guard
from export.errors import ExportError
from export.onnx_guard import refuse_foreign_files
from export.served_graph import open_session
from tests.support.avatar_sources import encoder_graph, network_graph


def outside(location: str = "secret.bin", length: int = 4) -> TensorProto:
    """One float32, kept in another file."""
    tensor = TensorProto(name="weight", data_type=TensorProto.FLOAT, dims=[1])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
    return tensor


def in_initializer(model: onnx.ModelProto, tensor: TensorProto) -> None:
    model.graph.initializer.append(tensor)


def in_constant(model: onnx.ModelProto, tensor: TensorProto) -> None:
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))


def in_branch(model: onnx.ModelProto, tensor: TensorProto) -> None:
    inner = helper.make_graph([], "inner", [], [], [tensor])
    model.graph.node.append(helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner))


def in_sparse(model: onnx.ModelProto, tensor: TensorProto) -> None:
    indices = numpy_helper.from_array(np.array([0]), "indices")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(tensor, indices, [4]))


def in_function(model: onnx.ModelProto, tensor: TensorProto) -> None:
    node = helper.make_node("Constant", [], ["c"], value=tensor)
    model.functions.append(helper.make_function("own", "F", [], ["c"], [node], model.opset_import))


def in_training(model: onnx.ModelProto, tensor: TensorProto) -> None:
    model.training_info.add().algorithm.initializer.append(tensor)


PLACES = (in_initializer, in_constant, in_branch, in_sparse, in_function, in_training)


@pytest.mark.parametrize("put", PLACES, ids=lambda put: put.__name__)
def test_weights_in_other_files_are_found_wherever_a_graph_may_hold_weights(
    tmp_path: Path, put: Callable[[onnx.ModelProto, TensorProto], None]
) -> None:
    path = tmp_path / "n.onnx"
    model = network_graph()
    path.write_bytes(model.SerializeToString())
    refuse_foreign_files(path)
    put(model, outside())
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ExportError, match=r"n\.onnx keeps its weights in other files"):
        refuse_foreign_files(path)


def test_a_place_is_refused_though_the_tensor_does_not_say_that_it_is_kept_there(tmp_path: Path) -> None:
    tensor = outside()
    tensor.data_location = TensorProto.DEFAULT
    model = network_graph()
    model.graph.initializer.append(tensor)
    path = tmp_path / "n.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ExportError, match="keeps its weights in other files"):
        refuse_foreign_files(path)


def test_a_second_graph_message_is_merged_by_protobuf_and_so_looked_at(tmp_path: Path) -> None:
    hostile = onnx.ModelProto()
    hostile.graph.initializer.append(outside())
    path = tmp_path / "n.onnx"
    path.write_bytes(network_graph().SerializeToString() + hostile.SerializeToString())
    assert any(
        t.data_location == TensorProto.EXTERNAL
        for t in onnx.load(path, load_external_data=False).graph.initializer
    )
    with pytest.raises(ExportError, match="keeps its weights in other files"):
        refuse_foreign_files(path)


def test_onnxruntime_never_sees_a_file_that_names_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(*_arguments: object, **_named: object) -> None:
        raise AssertionError("onnxruntime was asked")

    monkeypatch.setattr(onnxruntime, "InferenceSession", opened)
    model = network_graph()
    model.graph.initializer.append(outside())
    path = tmp_path / "n.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ExportError, match="upload keeps its weights in other files"):
        open_session(path, Path("upload"))


def test_every_cut_off_graph_is_refused_or_left_to_onnxruntime_in_peace(tmp_path: Path) -> None:
    """Wherever it is cut: the walk itself never fails in another way."""
    data = encoder_graph().SerializeToString()
    path, refused = tmp_path / "n.onnx", 0
    for length in range(1, len(data)):
        path.write_bytes(data[:length])
        try:
            refuse_foreign_files(path)
        except ExportError:
            refused += 1
    assert refused > 0.9 * len(data)


def test_bytes_at_random_are_refused_or_passed_over(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path, refused = tmp_path / "n.onnx", 0
    for _ in range(500):
        path.write_bytes(rng.bytes(200))
        try:
            refuse_foreign_files(path)
        except ExportError:
            refused += 1
    assert refused > 400


@pytest.mark.parametrize("dims", [[2**40], [2**20, 2**20], [2**62, 2**62], [5]])
def test_a_tensor_that_claims_more_numbers_than_it_brings(tmp_path: Path, dims: list[int]) -> None:
    model = network_graph()
    model.graph.initializer.append(
        TensorProto(name="w", data_type=TensorProto.INT8, dims=dims, raw_data=b"\0")
    )
    path = tmp_path / "n.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ExportError, match="numbers in 2 bytes; it is cut off or damaged"):
        refuse_foreign_files(path)


@pytest.mark.parametrize(
    "tensor",
    [
        helper.make_tensor("w", TensorProto.FLOAT, [3], [1.0, 2.0, 3.0]),
        helper.make_tensor("w", TensorProto.INT64, [3], [0, 0, 0]),
        helper.make_tensor("w", TensorProto.STRING, [3], ["", "", ""]),
        helper.make_tensor("w", TensorProto.FLOAT16, [2, 2], [1.0, 2.0, 3.0, 4.0]),
        helper.make_tensor("w", TensorProto.DOUBLE, [0], []),
        helper.make_tensor("w", TensorProto.FLOAT, [], [1.0]),
        helper.make_tensor("w", TensorProto.INT4, [4], [1, 2, 3, 4]),
        numpy_helper.from_array(np.zeros((4, 5), np.uint8), "w"),
        numpy_helper.from_array(np.zeros((4, 0), np.float32), "w"),
    ],
    ids=lambda tensor: f"{TensorProto.DataType.Name(tensor.data_type)}{list(tensor.dims)}",
)
def test_honest_tensors_of_every_kind_pass(tmp_path: Path, tensor: TensorProto) -> None:
    model = network_graph()
    model.graph.initializer.append(tensor)
    path = tmp_path / "n.onnx"
    path.write_bytes(model.SerializeToString())
    refuse_foreign_files(path)


def test_a_compiled_engine_is_no_network(tmp_path: Path) -> None:
    """Its attributes may name a file with the engine, which the TensorRT provider would open."""
    model = network_graph()
    model.graph.node.append(
        helper.make_node(
            "EPContext", ["x"], ["y"], domain="com.microsoft", embed_mode=0, ep_cache_context="/etc/x"
        )
    )
    path = tmp_path / "n.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ExportError, match=r"holds a compiled engine \(EPContext\)"):
        refuse_foreign_files(path)


def test_onnxruntimes_own_format_is_refused_whatever_the_file_is_called(tmp_path: Path) -> None:
    path = tmp_path / "n.onnx"
    path.write_bytes(b"\x10\0\0\0ORTM" + bytes(100))
    with pytest.raises(ExportError, match="is in onnxruntime's own format"):
        refuse_foreign_files(path)


def test_graphs_within_graphs_without_end(tmp_path: Path) -> None:
    data = b""
    for _ in range(200):
        # attribute.g within node.attribute within graph.node
        for tag in (0x32, 0x2A, 0x0A):
            data = bytes([tag]) + varint(len(data)) + data
    path = tmp_path / "n.onnx"
    path.write_bytes(b"\x3a" + varint(len(data)) + data)
    with pytest.raises(ExportError, match="has graphs within graphs, 100 deep"):
        refuse_foreign_files(path)


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def test_a_file_of_countless_parts_or_of_any_size_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "n.onnx"
    path.write_bytes(b"\x08\x01" * 2000)
    refuse_foreign_files(path)
    monkeypatch.setattr(onnx_guard, "MAX_FIELDS", 1000)
    with pytest.raises(ExportError, match="has more than 1000 parts"):
        refuse_foreign_files(path)
    with path.open("r+b") as file:
        file.truncate(2**40)
    with pytest.raises(ExportError, match=r"is 1099511627776 bytes long; 1073741824 at most"):
        refuse_foreign_files(path)


def test_a_file_that_is_empty_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "n.onnx"
    with pytest.raises(ExportError, match=r"n\.onnx cannot be read: No such file"):
        refuse_foreign_files(path)
    path.touch()
    with pytest.raises(ExportError, match="is empty"):
        refuse_foreign_files(path)
