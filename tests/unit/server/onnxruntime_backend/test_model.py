"""The whole stand-in, from Triton's arguments to its responses, on real ONNX graphs."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from server.command import BACKENDS
from server.errors import ModelLoadError
from server.settings import ROOT
from tests.support import pb_utils
from tests.support.onnx_models import constant_output_graph, doubling_graph, lookup_graph, summing_graph


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Any:
    """An instance of the backend's `TritonPythonModel`, not initialised."""
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", pb_utils)
    path = BACKENDS / "onnxruntime" / "model.py"
    spec = importlib.util.spec_from_file_location("onnxruntime_backend_under_test", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.TritonPythonModel()


def arguments(folder: Path, graph: onnx.ModelProto, inputs: str, outputs: str) -> dict[str, str]:
    """What Triton hands to `initialize`; tensors are written ``NAME TYPE dim dim, …``."""
    (folder / "1").mkdir()
    onnx.save(graph, folder / "1" / "model.onnx")
    config = {
        "name": "net",
        "max_batch_size": 8,
        "input": [_tensor(entry) for entry in inputs.split(", ")],
        "output": [_tensor(entry) for entry in outputs.split(", ")],
        "instance_group": [{"kind": "KIND_CPU", "count": 1}],
    }
    return {
        "model_config": json.dumps(config),
        "model_instance_kind": "CPU",
        "model_instance_device_id": "0",
        "model_repository": str(folder),
        "model_version": "1",
    }


def _tensor(entry: str) -> dict[str, Any]:
    name, data_type, *dims = entry.split()
    return {"name": name, "data_type": data_type, "dims": [int(dim) for dim in dims]}


def test_joined_requests_get_their_own_answers(backend: Any, tmp_path: Path) -> None:
    backend.initialize(
        arguments(
            tmp_path,
            summing_graph(),
            "A TYPE_FP32 2, B TYPE_FP32 2",
            "SUM TYPE_FP32 2, DIFFERENCE TYPE_FP32 2",
        )
    )
    rng = np.random.default_rng(0)
    pairs = [(rng.random((n, 2), np.float32), rng.random((n, 2), np.float32)) for n in (1, 3, 2)]
    responses = backend.execute([pb_utils.Request({"A": a, "B": b}, ("DIFFERENCE",)) for a, b in pairs])
    for (a, b), response in zip(pairs, responses, strict=True):
        assert set(response.arrays) == {"DIFFERENCE"}
        np.testing.assert_array_equal(response.arrays["DIFFERENCE"], a - b)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32])
def test_dtypes_pass_unchanged(backend: Any, tmp_path: Path, dtype: type[np.generic]) -> None:
    onnx_type = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    triton_type = {np.uint8: "TYPE_UINT8", np.int64: "TYPE_INT64", np.float32: "TYPE_FP32"}[dtype]
    graph = doubling_graph(("n", 4), onnx_type)
    if dtype == np.uint8:
        graph.graph.node[0].op_type = "BitwiseAnd"  # a & a = a; uint8 has no Add in onnxruntime
        graph.opset_import[0].version = 18
    backend.initialize(arguments(tmp_path, graph, f"X {triton_type} 4", f"Y {triton_type} 4"))
    x = np.array([[0, 1, 127, 100]], dtype=dtype)
    (response,) = backend.execute([pb_utils.Request({"X": x}, ("Y",))])
    assert response.arrays["Y"].dtype == dtype
    np.testing.assert_array_equal(response.arrays["Y"], x if dtype == np.uint8 else x + x)


def test_a_request_that_the_network_cannot_compute_fails_alone(backend: Any, tmp_path: Path) -> None:
    backend.initialize(arguments(tmp_path, lookup_graph(), "I TYPE_INT64 1", "Y TYPE_FP32 1"))
    indices = [np.array([[0], [2]]), np.array([[99]]), np.array([[1]])]
    responses = backend.execute([pb_utils.Request({"I": index}, ("Y",)) for index in indices])
    assert responses[0].arrays["Y"].tolist() == [[10.0], [30.0]]
    assert responses[1].error.message().startswith("net failed; see ")
    assert responses[2].arrays["Y"].tolist() == [[20.0]]


def test_a_constant_that_is_not_expanded_to_the_batch_is_refused_at_load(
    backend: Any, tmp_path: Path
) -> None:
    # Its true shape is [1,1]: onnxruntime infers it, and as in Triton's own backend it cannot be batched.
    args = arguments(tmp_path, constant_output_graph(), "X TYPE_FP32 4", "Y TYPE_FP32 4, KEY TYPE_INT64 1")
    with pytest.raises(ModelLoadError, match="KEY"):
        backend.initialize(args)


def test_a_config_that_contradicts_the_graph_is_refused(backend: Any, tmp_path: Path) -> None:
    args = arguments(tmp_path, doubling_graph(), "X TYPE_FP32 5", "Y TYPE_FP32 4")
    with pytest.raises(ModelLoadError, match=r"net: input X is \[-1, 5\]"):
        backend.initialize(args)


def test_neither_backend_nor_launcher_imports_torch() -> None:
    code = (
        "import sys, server.cli, server.onnxruntime_backend.model; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'pytriton', 'tritonclient')))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
