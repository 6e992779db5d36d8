from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from server.onnxruntime_backend.config import ModelConfig, TensorConfig
from server.onnxruntime_backend.pieces import INPUT_BYTES_PER_THREAD, PieceRunner, rows_at_a_time
from server.onnxruntime_backend.providers import Device
from server.onnxruntime_backend.session import ORT_ERRORS
from tests.support.onnx_models import lookup_graph, summing_graph

CPU = Device("CPU", 0)


def config(
    inputs: list[tuple[str, str, tuple[int, ...]]],
    outputs: list[tuple[str, str, tuple[int, ...]]],
    max_batch: int = 32,
) -> ModelConfig:
    return ModelConfig(
        "net",
        max_batch,
        tuple(TensorConfig(*entry) for entry in inputs),
        tuple(TensorConfig(*entry) for entry in outputs),
    )


SUMMING = config(
    [("A", "TYPE_FP32", (2,)), ("B", "TYPE_FP32", (2,))],
    [("SUM", "TYPE_FP32", (2,)), ("DIFFERENCE", "TYPE_FP32", (2,))],
)


class Spy:
    """A session that remembers how many rows it was given."""

    def __init__(self, graph: onnx.ModelProto) -> None:
        self.session = onnxruntime.InferenceSession(graph.SerializeToString())
        self.rows: list[int] = []

    def run(self, names: list[str], inputs: dict[str, Any]) -> Any:
        self.rows.append(len(next(iter(inputs.values()))))
        return self.session.run(names, inputs)

    def io_binding(self) -> Any:
        binding = self.session.io_binding()
        bind: Callable[[str, Any], None] = binding.bind_cpu_input
        first: list[str] = []

        def noting(name: str, tensor: Any) -> None:
            if not first:
                self.rows.append(len(tensor))
                first.append(name)
            bind(name, tensor)

        binding.bind_cpu_input = noting
        return binding

    def run_with_iobinding(self, binding: Any) -> None:
        self.session.run_with_iobinding(binding)


@pytest.mark.parametrize(
    ("rows", "at_a_time", "runs"), [(7, 3, [3, 3, 1]), (3, 3, [3]), (4, 1, [1] * 4), (9, None, [9])]
)
def test_pieces_give_what_the_whole_gives(rows: int, at_a_time: int | None, runs: list[int]) -> None:
    spy = Spy(summing_graph())
    rng = np.random.default_rng(0)
    a, b = rng.random((rows, 2), np.float32), rng.random((rows, 2), np.float32)
    found = PieceRunner(spy, SUMMING, at_a_time)({"SUM", "DIFFERENCE"}, {"A": a, "B": b})
    np.testing.assert_array_equal(found["SUM"], a + b)
    np.testing.assert_array_equal(found["DIFFERENCE"], a - b)
    assert spy.rows == runs


def test_only_what_is_wanted_is_given_and_inputs_need_not_be_contiguous() -> None:
    a = np.asfortranarray(np.arange(10, dtype=np.float32).reshape(5, 2))
    b = np.ones((2, 5), np.float32).T
    found = PieceRunner(Spy(summing_graph()), SUMMING, 2)({"DIFFERENCE"}, {"A": a, "B": b})
    assert found.keys() == {"DIFFERENCE"}
    np.testing.assert_array_equal(found["DIFFERENCE"], a - 1)


def test_every_dtype_of_the_contract_passes() -> None:
    nodes = [
        helper.make_node("Transpose", ["FACE"], ["MOUTH"], perm=[0, 2, 1]),
        helper.make_node("Identity", ["KEY"], ["AVATAR_KEY"]),
    ]
    tensors = [
        helper.make_tensor_value_info(name, kind, shape)
        for name, kind, shape in (
            ("FACE", TensorProto.UINT8, ("n", 2, 3)),
            ("KEY", TensorProto.INT64, ("n", 1)),
            ("MOUTH", TensorProto.UINT8, ("n", 3, 2)),
            ("AVATAR_KEY", TensorProto.INT64, ("n", 1)),
        )
    ]
    graph = helper.make_graph(nodes, "graph", tensors[:2], tensors[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    face = np.random.default_rng(0).integers(0, 256, (5, 2, 3), np.uint8)
    key = np.array([[-(2**63)], [1], [2], [3], [2**63 - 1]])
    wanted = config(
        [("FACE", "TYPE_UINT8", (2, 3)), ("KEY", "TYPE_INT64", (1,))],
        [("MOUTH", "TYPE_UINT8", (3, 2)), ("AVATAR_KEY", "TYPE_INT64", (1,))],
    )
    found = PieceRunner(Spy(model), wanted, 2)({"MOUTH", "AVATAR_KEY"}, {"FACE": face, "KEY": key})
    np.testing.assert_array_equal(found["MOUTH"], face.transpose(0, 2, 1))
    np.testing.assert_array_equal(found["AVATAR_KEY"], key)


def test_what_the_network_cannot_compute_is_an_error_of_onnxruntime() -> None:
    wanted = config([("I", "TYPE_INT64", (1,))], [("Y", "TYPE_FP32", (1,))])
    with pytest.raises(ORT_ERRORS):
        PieceRunner(Spy(lookup_graph()), wanted, 1)({"Y"}, {"I": np.array([[0], [99]])})


def test_a_row_of_a_lipsync_network_runs_alone_and_an_encoders_together() -> None:
    faces = [("FACE", "TYPE_UINT8", (3, 320, 320)), ("AUDIO", "TYPE_FP32", (32, 16, 16))]
    lipsync = config(faces, [("MOUTH", "TYPE_UINT8", (320, 320, 3)), ("AVATAR_KEY", "TYPE_INT64", (1,))])
    encoder = config([("MEL", "TYPE_FP32", (1, 80, 16))], [("EMBEDDING", "TYPE_FP32", (512,))], 64)
    assert rows_at_a_time(lipsync, CPU, 2) == 1
    assert rows_at_a_time(lipsync, CPU, 1) == 1
    assert rows_at_a_time(lipsync, CPU, 16) == 16 * INPUT_BYTES_PER_THREAD // (3 * 320 * 320 + 4 * 8192)
    assert (rows_at_a_time(encoder, CPU, 2) or 0) >= 64


def test_whole_batches_on_a_gpu_without_batching_and_where_sizes_are_not_known() -> None:
    assert rows_at_a_time(SUMMING, Device("GPU", 0), 1) is None
    assert rows_at_a_time(config([("X", "TYPE_FP32", (4,))], [("Y", "TYPE_FP32", (4,))], 0), CPU, 1) is None
    assert rows_at_a_time(config([("X", "TYPE_FP32", (4,))], [("Y", "TYPE_FP32", (-1,))]), CPU, 1) is None
