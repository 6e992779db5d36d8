from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.errors import ExportError
from export.graph_memory import CPU_CHANNELS, read_memory, row_bytes

PIXELS = 16 * 16
FLOAT = 4


def save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    constants: dict[str, NDArray[Any]],
    out: int = 4,
    batch: int | str = "batch",
) -> Path:
    """A graph from X float32 [B,4,16,16] to Y float32 [B,out,16,16]."""
    infos = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, channels, 16, 16])
        for name, channels in (("X", 4), ("Y", out))
    ]
    weights = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(list(nodes), "graph", infos[:1], infos[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def convolution(source: str, result: str, weights: str) -> onnx.NodeProto:
    return helper.make_node("Conv", [source, weights], [result], kernel_shape=[1, 1])


def weights(out: int, channels: int) -> NDArray[np.float32]:
    return np.zeros((out, channels, 1, 1), np.float32)


def test_what_lives_at_a_time_counts_and_not_the_callers_tensors(tmp_path: Path) -> None:
    nodes = [convolution("X", "a", "v"), convolution("a", "b", "w"), convolution("b", "Y", "u")]
    constants = {"v": weights(8, 4), "w": weights(16, 8), "u": weights(4, 16)}
    path = save(tmp_path / "g.onnx", nodes, constants)
    assert row_bytes(path) == FLOAT * PIXELS * (8 + 16)
    assert read_memory(path).weights == 8 * 4 + 16 * 8 + 4 * 16
    assert read_memory(path).halved().row_bytes == row_bytes(path) // 2


@pytest.mark.parametrize("operation", ["Relu", "Sigmoid"])
def test_an_activation_works_where_its_input_lies(tmp_path: Path, operation: str) -> None:
    nodes = [
        convolution("X", "a", "v"),
        helper.make_node(operation, ["a"], ["b"]),
        convolution("b", "Y", "w"),
    ]
    path = save(tmp_path / "g.onnx", nodes, {"v": weights(8, 4), "w": weights(4, 8)})
    assert row_bytes(path) == FLOAT * PIXELS * 8


def test_an_addition_behind_a_convolution_is_part_of_it(tmp_path: Path) -> None:
    nodes = [
        convolution("X", "a", "v"),
        convolution("X", "b", "w"),
        helper.make_node("Add", ["a", "b"], ["c"]),
        convolution("c", "Y", "u"),
    ]
    constants = {"v": weights(8, 4), "w": weights(8, 4), "u": weights(4, 8)}
    # `b` is never there: the convolution adds to `a`.
    assert row_bytes(save(tmp_path / "g.onnx", nodes, constants)) == FLOAT * PIXELS * 8


def test_what_constants_come_to_takes_nothing(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Mul", ["v", "v"], ["squared"]),
        convolution("X", "a", "squared"),
        convolution("a", "Y", "w"),
    ]
    path = save(tmp_path / "g.onnx", nodes, {"v": weights(8, 4), "w": weights(4, 8)})
    assert row_bytes(path) == FLOAT * PIXELS * 8


def test_on_a_cpu_channels_come_in_blocks(tmp_path: Path) -> None:
    nodes = [convolution("X", "a", "v"), convolution("a", "Y", "w")]
    path = save(tmp_path / "g.onnx", nodes, {"v": weights(5, 4), "w": weights(4, 5)})
    assert read_memory(path, CPU_CHANNELS).row_bytes == FLOAT * PIXELS * 16


def test_a_fixed_batch_is_a_row_of_its_own(tmp_path: Path) -> None:
    nodes = [convolution("X", "a", "v"), convolution("a", "Y", "w")]
    path = save(tmp_path / "g.onnx", nodes, {"v": weights(8, 4), "w": weights(4, 8)}, batch=1)
    assert row_bytes(path) == FLOAT * PIXELS * 8


@pytest.mark.parametrize("content", [b"no graph", b"\x00" * 100])
def test_a_file_that_is_no_graph_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "g.onnx"
    path.write_bytes(content)
    with pytest.raises(ExportError, match=r"g\.onnx"):
        row_bytes(path)
