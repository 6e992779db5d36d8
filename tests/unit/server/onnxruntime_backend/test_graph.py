from __future__ import annotations

from dataclasses import replace
from typing import Any

import onnxruntime
import pytest
from onnx import TensorProto

from server.errors import ModelLoadError
from server.onnxruntime_backend.config import ModelConfig, TensorConfig
from server.onnxruntime_backend.graph import ONNX_TYPES, Graph, check_graph, read_graph
from tests.support.onnx_models import Shape, doubling_graph, optional_input_graph, summing_graph

X = TensorConfig("X", "TYPE_FP32", (4,))
Y = TensorConfig("Y", "TYPE_FP32", (4,))
CONFIG = ModelConfig("tiny", 8, (X,), (Y,))
SUMS = ModelConfig(
    "sums",
    8,
    (TensorConfig("A", "TYPE_FP32", (2,)), TensorConfig("B", "TYPE_FP32", (2,))),
    (TensorConfig("SUM", "TYPE_FP32", (2,)), TensorConfig("DIFFERENCE", "TYPE_FP32", (2,))),
)


def graph_of(model: Any) -> Graph:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return read_graph(session)


@pytest.mark.parametrize(
    ("shape", "dims", "max_batch_size"),
    [
        (("batch", 4), (4,), 8),
        ((None, 4), (4,), 8),
        (("batch", "width"), (-1,), 8),
        ((2, 4), (2, 4), 0),
        (("rows", 4), (-1, 4), 0),
        ((), (1,), 0),
    ],
)
def test_a_config_that_fits_passes(shape: Shape, dims: tuple[int, ...], max_batch_size: int) -> None:
    config = ModelConfig(
        "tiny",
        max_batch_size,
        (TensorConfig("X", "TYPE_FP32", dims),),
        (TensorConfig("Y", "TYPE_FP32", dims),),
    )
    check_graph(config, graph_of(doubling_graph(shape)))


def test_outputs_may_be_left_out() -> None:
    check_graph(replace(SUMS, outputs=SUMS.outputs[:1]), graph_of(summing_graph()))


def test_an_input_may_fix_a_dimension_that_the_graph_leaves_open() -> None:
    graph = graph_of(summing_graph(("batch", "n"), ("batch", "n")))
    outputs = tuple(replace(tensor, dims=(-1,)) for tensor in SUMS.outputs)
    check_graph(replace(SUMS, outputs=outputs), graph)


@pytest.mark.parametrize(
    ("config", "shape", "words"),
    [
        (replace(CONFIG, inputs=(replace(X, name="Z"),)), ("batch", 4), "no input Z.*it has X"),
        (replace(CONFIG, outputs=(replace(Y, name="Z"),)), ("batch", 4), "no output Z.*it has Y"),
        (replace(CONFIG, inputs=()), ("batch", 4), "config has the inputs none, the graph has X"),
        (replace(CONFIG, inputs=(X, replace(X, name="W"))), ("batch", 4), "inputs X, W, the graph has X"),
        (
            replace(CONFIG, inputs=(replace(X, data_type="TYPE_UINT8"),)),
            ("batch", 4),
            r"input X is TYPE_UINT8 in the config, tensor\(float\) in the graph",
        ),
        (
            replace(CONFIG, outputs=(replace(Y, data_type="TYPE_FP16"),)),
            ("batch", 4),
            r"output Y is TYPE_FP16 in the config, tensor\(float\)",
        ),
        (
            replace(CONFIG, inputs=(replace(X, data_type="TYPE_STRING"),)),
            ("batch", 4),
            "TYPE_STRING.*not supp",
        ),
        (CONFIG, ("batch", 5), r"input X is \[-1, 4\] .*\[-1, 5\] in the graph"),
        (CONFIG, ("batch", 4, 1), r"input X is \[-1, 4\] .*\[-1, 4, 1\] in the graph"),
        (CONFIG, (8, 4), r"input X has shape \[8, 4\].*first dimension must be symbolic"),
        (CONFIG, (), r"input X has shape \[\].*symbolic"),
        (replace(CONFIG, inputs=(replace(X, dims=(-1,)),)), ("batch", 4), r"input X is \[-1, -1\]"),
        (CONFIG, ("batch", "n"), r"output Y is \[-1, 4\] .*\[-1, -1\] in the graph"),
        (replace(CONFIG, outputs=(replace(Y, dims=(-1,)),)), ("batch", 4), r"output Y is \[-1, -1\]"),
        (replace(CONFIG, max_batch_size=0), ("batch", 4), r"input X is \[4\] in the config, \[-1, 4\]"),
        (replace(CONFIG, max_batch_size=0), (), r"input X is \[4\] in the config, a scalar"),
        (replace(CONFIG, inputs=(replace(X, optional=True),)), ("batch", 4), "X is optional"),
    ],
)
def test_what_tritons_backend_refuses_is_refused(config: ModelConfig, shape: Shape, words: str) -> None:
    with pytest.raises(ModelLoadError, match=words) as caught:
        check_graph(config, graph_of(doubling_graph(shape)))
    assert str(caught.value).startswith("tiny: ")


def test_an_optional_input_needs_no_batching_and_a_default_in_the_graph() -> None:
    inputs = (
        TensorConfig("X", "TYPE_FP32", (2,)),
        TensorConfig("FACTOR", "TYPE_FP32", (1,), optional=True),
    )
    config = ModelConfig("tiny", 0, inputs, (TensorConfig("Y", "TYPE_FP32", (2,)),))
    check_graph(config, graph_of(optional_input_graph()))
    with pytest.raises(ModelLoadError, match="no input FACTOR"):
        check_graph(config, graph_of(doubling_graph((2,))))


@pytest.mark.parametrize(
    ("data_type", "onnx_type"),
    [
        ("TYPE_UINT8", TensorProto.UINT8),
        ("TYPE_INT16", TensorProto.INT16),
        ("TYPE_INT32", TensorProto.INT32),
        ("TYPE_INT64", TensorProto.INT64),
        ("TYPE_FP16", TensorProto.FLOAT16),
        ("TYPE_FP32", TensorProto.FLOAT),
        ("TYPE_FP64", TensorProto.DOUBLE),
        ("TYPE_BOOL", TensorProto.BOOL),
    ],
)
def test_each_data_type_is_told_from_every_other(data_type: str, onnx_type: int) -> None:
    graph = graph_of(_identity(onnx_type))
    for name in ONNX_TYPES:
        config = ModelConfig(
            "tiny", 8, (TensorConfig("X", name, (4,)),), (TensorConfig("Y", data_type, (4,)),)
        )
        if name == data_type:
            check_graph(config, graph)
        else:
            with pytest.raises(ModelLoadError, match=name):
                check_graph(config, graph)


def _identity(onnx_type: int) -> Any:
    model = doubling_graph(("batch", 4), onnx_type)
    model.graph.node[0].op_type = "Identity"
    del model.graph.node[0].input[1]
    return model
