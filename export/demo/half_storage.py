"""Stores an ONNX graph's float32 weights as float16 and casts them back when the graph is loaded.

The file is half as large; onnxruntime folds the casts away, so the graph computes in float32 as before, with
weights rounded to 11 bits.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SMALLEST = 64
"""Weights of fewer numbers stay as they are: scale factors and the like, where precision costs nothing."""


def store_half(path: Path) -> None:
    """Rewrite an ONNX file in place, its larger float32 weights stored as float16.

    `ValueError` if a weight is too large for float16.
    """
    model = onnx.load(str(path))
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and int(np.prod(tensor.dims)) >= SMALLEST:
            name = tensor.name
            tensor.CopyFrom(_halved(tensor))
            casts.append(
                helper.make_node("Cast", [tensor.name], [name], f"{name}_cast", to=TensorProto.FLOAT)
            )
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def _halved(tensor: TensorProto) -> TensorProto:
    values = numpy_helper.to_array(tensor)
    if np.abs(values).max() > np.finfo(np.float16).max:
        raise ValueError(f"weight {tensor.name} holds {np.abs(values).max():g}, too large for float16")
    halved: TensorProto = numpy_helper.from_array(values.astype(np.float16), f"{tensor.name}_half")
    return halved
