import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.demo.half_storage import store_half


def save_product(path, weights):
    """A graph that multiplies its input with `weights`."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", weights.shape[0]])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", weights.shape[1]])
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = helper.make_graph([node], "product", [x], [y], [numpy_helper.from_array(weights, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"lipstream.family": "328"})
    onnx.save(model, str(path))


def run(path, x):
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


def test_the_file_halves_and_computes_with_rounded_weights_in_float32(tmp_path):
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((200, 300)).astype(np.float32)
    x = rng.standard_normal((4, 200)).astype(np.float32)
    path = tmp_path / "model.onnx"
    save_product(path, weights)
    before = path.stat().st_size
    store_half(path)
    assert path.stat().st_size < 0.51 * before
    y = run(path, x)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, x @ weights.astype(np.float16).astype(np.float32), rtol=1e-4, atol=1e-4)
    assert onnx.load(str(path)).metadata_props[0].value == "328"


def test_small_weights_stay_exact(tmp_path):
    weights = np.full((2, 3), 1 / 3, np.float32)
    save_product(tmp_path / "model.onnx", weights)
    store_half(tmp_path / "model.onnx")
    np.testing.assert_array_equal(run(tmp_path / "model.onnx", np.eye(2, dtype=np.float32)), weights)


def test_weights_too_large_for_float16_are_refused_and_the_file_stays(tmp_path):
    path = tmp_path / "model.onnx"
    save_product(path, np.full((20, 20), 1e5, np.float32))
    before = path.read_bytes()
    with pytest.raises(ValueError, match="weight w holds 100000"):
        store_half(path)
    assert path.read_bytes() == before
