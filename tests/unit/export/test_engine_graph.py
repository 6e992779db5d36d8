from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto

from export.engine_graph import engine_graph, face_as_numbers
from export.errors import ExportError
from export.onnx_export import write_unet
from export.picture_parity import trial_inputs
from export.precision import half_model
from tests.support.engines import AUDIO, SIDE_PX, convolving_graph
from tests.support.networks import even_unet


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    path = tmp_path_factory.mktemp("exported") / "u.onnx"
    write_unet(even_unet(), "ab" * 32, path)
    return onnx.load(str(path))


def through_half(model: onnx.ModelProto) -> onnx.ModelProto:
    return half_model(model)


@pytest.mark.parametrize("convert", [lambda model: model, through_half], ids=["fp32", "fp16"])
def test_the_graph_draws_the_same_and_has_bytes_at_its_edges_only(
    exported: onnx.ModelProto, convert: Callable[[onnx.ModelProto], onnx.ModelProto]
) -> None:
    for source in (convert(exported), convert(convolving_graph())):
        prepared = engine_graph("u.onnx", source)
        kinds = {
            i.name: i.type.tensor_type.elem_type
            for i in onnx.shape_inference.infer_shapes(prepared).graph.value_info
        }
        assert TensorProto.UINT8 not in kinds.values()
        for node in prepared.graph.node:
            assert "FACE" not in node.input or node.op_type == "Cast"
            assert "MOUTH" not in node.output or node.op_type == "Cast"
        sessions = [onnxruntime.InferenceSession(m.SerializeToString()) for m in (source, prepared)]
        for inputs in trial_inputs(SIDE_PX, AUDIO, (1, 3)):
            before, after = (session.run(["MOUTH", "AVATAR_KEY"], inputs) for session in sessions)
            assert np.array_equal(before[0], after[0])
            assert np.array_equal(before[1], after[1])


def test_the_source_is_left_as_it_was(exported: onnx.ModelProto) -> None:
    before = exported.SerializeToString()
    engine_graph("u.onnx", exported)
    assert exported.SerializeToString() == before


def test_the_face_after_its_cast_is_named(exported: onnx.ModelProto) -> None:
    name = face_as_numbers(exported)
    (cast,) = [node for node in exported.graph.node if name in node.output]
    assert (cast.op_type, list(cast.input)) == ("Cast", ["FACE"])


def transposing_first() -> onnx.ModelProto:
    model = convolving_graph()
    cast = model.graph.node[0]
    cast.input[0] = "moved"
    transpose = onnx.helper.make_node("Transpose", ["FACE"], ["moved"], perm=[0, 1, 3, 2])
    model.graph.node.insert(0, transpose)
    return model


def identity_last() -> onnx.ModelProto:
    model = convolving_graph()
    next(node for node in model.graph.node if "MOUTH" in node.output).output[0] = "mouth"
    model.graph.node.append(onnx.helper.make_node("Identity", ["mouth"], ["MOUTH"]))
    return model


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (transposing_first(), "u.onnx hands FACE to Transpose; TensorRT wants a Cast first"),
        (identity_last(), "u.onnx makes MOUTH by Identity; TensorRT wants a Cast last"),
    ],
)
def test_other_uses_of_bytes_are_refused(model: onnx.ModelProto, words: str) -> None:
    with pytest.raises(ExportError, match=words):
        engine_graph("u.onnx", model)


def test_a_face_that_nothing_casts(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no Cast reads FACE"):
        face_as_numbers(transposing_first())
