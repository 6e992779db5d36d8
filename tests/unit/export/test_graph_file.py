from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import pytest

from export.graph_file import save_graph


def graph(*sizes: int) -> onnx.ModelProto:
    """A model with an initializer of each of so many values, and what else a model has."""
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch"])
    other = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch"])
    tensors = [
        onnx.numpy_helper.from_array(np.arange(size, dtype=np.float32), f"weights.{number}")
        for number, size in enumerate(sizes)
    ]
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [value], [other], tensors))
    onnx.helper.set_model_props(model, {"lipstream.family": "328"})
    return model


# With its name and type, the second takes 126 to 128 bytes, where a length gets a second byte; the fourth a third.
@pytest.mark.parametrize(
    "sizes", [(), (0,), *((1, n, 2) for n in range(24, 30)), (4090, 4093, 4096), (600_000,)]
)
def test_it_reads_as_what_was_given(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    save_graph(graph(*sizes), tmp_path / "g.onnx")
    assert onnx.load(str(tmp_path / "g.onnx")) == graph(*sizes)
    onnx.checker.check_model(str(tmp_path / "g.onnx"))


def test_it_takes_the_memory_of_one_tensor(tmp_path: Path) -> None:
    model = graph(*[500_000] * 8)  # 2 MB each
    tracemalloc.start()
    save_graph(model, tmp_path / "g.onnx")
    _now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5e6
