from __future__ import annotations

import json
from typing import Any

import pytest

from server.errors import ModelLoadError
from server.onnxruntime_backend.config import parse_model_config

# As Triton 2.51 hands it over, shortened.
RAW: dict[str, Any] = {
    "name": "lipsync_demo",
    "max_batch_size": 32,
    "input": [
        {"name": "FACE", "data_type": "TYPE_UINT8", "dims": [3, 320, 320], "optional": False},
        {"name": "AUDIO", "data_type": "TYPE_FP32", "dims": ["32", "-1"], "allow_ragged_batch": False},
    ],
    "output": [{"name": "MOUTH", "data_type": "TYPE_UINT8", "dims": [320, 320, 3]}],
    "batch_input": [],
    "optimization": {
        "graph": {"level": 1},
        "execution_accelerators": {
            "gpu_execution_accelerator": [{"name": "tensorrt", "parameters": {"precision_mode": "FP16"}}],
            "cpu_execution_accelerator": [],
        },
    },
    "instance_group": [{"kind": "KIND_CPU", "count": 2}, {"kind": "KIND_GPU", "count": 8}],
    "default_model_filename": "model.onnx",
    "parameters": {"intra_op_thread_count": {"string_value": "3"}},
}


def test_reads_what_concerns_the_backend() -> None:
    config = parse_model_config(json.dumps(RAW))
    assert (config.name, config.max_batch_size, config.batched) == ("lipsync_demo", 32, True)
    assert [(t.name, t.data_type, t.dims) for t in config.inputs] == [
        ("FACE", "TYPE_UINT8", (3, 320, 320)),
        ("AUDIO", "TYPE_FP32", (32, -1)),
    ]
    assert config.gpu_accelerators[0].parameters == {"precision_mode": "FP16"}
    assert config.parameters == {"intra_op_thread_count": "3"}
    assert (config.graph_level, config.cpu_instances) == (1, 2)


def test_what_is_left_out_has_tritons_defaults() -> None:
    config = parse_model_config(json.dumps({"name": "m", "input": [], "output": []}))
    assert (config.filename, config.batched, config.cpu_instances, config.graph_level) == (
        "model.onnx",
        False,
        1,
        0,
    )


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"sequence_batching": {"direct": {}}}, "sequence_batching"),
        ({"batch_input": [{"kind": "BATCH_ELEMENT_COUNT"}]}, "batch_input"),
        ({"model_operations": {"op_library_filename": ["x.so"]}}, "model_operations"),
        ({"input": [{"name": "X", "dims": [1], "reshape": {"shape": []}}]}, "reshape is set for X"),
        ({"input": [{"name": "X", "dims": [-1], "allow_ragged_batch": True}]}, "allow_ragged_batch"),
    ],
)
def test_what_it_cannot_do_is_refused(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ModelLoadError, match=named):
        parse_model_config(json.dumps({**RAW, **change}))
