from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from export.checksums import record_sums
from server.errors import ModelLoadError
from server.onnxruntime_backend import session as session_module
from server.onnxruntime_backend.config import ModelConfig, TensorConfig
from server.onnxruntime_backend.providers import CPU, Device
from server.onnxruntime_backend.session import (
    choose_threads,
    create_session,
    model_path,
    session_options,
    usable_cpus,
)
from tests.support.onnx_models import doubling_graph, lookup_graph, summing_graph
from tests.support.scenes import age

CONFIG = ModelConfig(
    "tiny", 8, (TensorConfig("X", "TYPE_FP32", (4,)),), (TensorConfig("Y", "TYPE_FP32", (4,)),)
)
ON_CPU = Device("CPU")


def with_parameters(**parameters: str) -> ModelConfig:
    return replace(CONFIG, parameters=parameters)


def test_a_session_of_the_file_in_the_version_folder(tmp_path: Path) -> None:
    onnx.save(doubling_graph(), tmp_path / "model.onnx")
    assert create_session(CONFIG, tmp_path, ON_CPU).get_providers() == [CPU]


def test_a_folder_of_the_models_name_holds_the_model(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").mkdir()
    onnx.save(doubling_graph(), tmp_path / "model.onnx" / "model.onnx")
    assert model_path(CONFIG, tmp_path) == tmp_path / "model.onnx" / "model.onnx"


def test_another_file_name_is_taken_from_the_config(tmp_path: Path) -> None:
    onnx.save(doubling_graph(), tmp_path / "net.onnx")
    create_session(replace(CONFIG, filename="net.onnx"), tmp_path, ON_CPU)


@pytest.mark.parametrize("filename", ["../model.onnx", "/etc/passwd"])
def test_a_file_name_does_not_lead_out_of_the_folder(tmp_path: Path, filename: str) -> None:
    (tmp_path / "1").mkdir()
    onnx.save(doubling_graph(), tmp_path / "model.onnx")
    with pytest.raises(ModelLoadError, match="leads out of its folder"):
        create_session(replace(CONFIG, filename=filename), tmp_path / "1", ON_CPU)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"tiny: there is no .*model\.onnx"):
        create_session(CONFIG, tmp_path, ON_CPU)


def test_a_file_that_is_no_onnx_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_text("not a model")
    with pytest.raises(ModelLoadError, match=r"tiny: model\.onnx does not load: ") as caught:
        create_session(CONFIG, tmp_path, ON_CPU)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.2, 0.4, 0.6, 0.8, 0.99])
def test_a_file_cut_short_is_named(tmp_path: Path, share: float) -> None:
    onnx.save(lookup_graph(), tmp_path / "model.onnx")
    os.truncate(tmp_path / "model.onnx", int(share * (tmp_path / "model.onnx").stat().st_size))
    with pytest.raises(ModelLoadError, match=r"tiny: model\.onnx does not load: ") as caught:
        create_session(CONFIG, tmp_path, ON_CPU)
    assert "\n" not in str(caught.value)


def test_a_file_that_was_changed_since_it_was_imported_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "1"
    folder.mkdir()
    onnx.save(doubling_graph(), folder / "model.onnx")
    record_sums(tmp_path)
    create_session(CONFIG, folder, ON_CPU)
    onnx.save(summing_graph(), folder / "model.onnx")
    age(tmp_path)
    with pytest.raises(ModelLoadError, match=r"tiny: .*model\.onnx is damaged"):
        create_session(CONFIG, folder, ON_CPU)


@pytest.mark.skipif(
    sys.version_info < (3, 11), reason="onnxruntime 1.23, the last for Python 3.10, opens them"
)
def test_weights_from_outside_the_model_folder_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "1"
    folder.mkdir()
    (tmp_path / "weights.bin").write_bytes(bytes(16))
    model = doubling_graph()
    weights = helper.make_tensor("W", TensorProto.FLOAT, [4], [0.0] * 4)
    weights.ClearField("float_data")
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="../weights.bin")
    model.graph.initializer.append(weights)
    model.graph.node[0].input[1] = "W"
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelLoadError, match=r"model\.onnx does not load"):
        create_session(CONFIG, folder, ON_CPU)


def test_a_gpu_provider_that_does_not_start_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OnTheCpuAfterAll:
        def __init__(self, *_args: Any, **_named: Any) -> None: ...

        def get_providers(self) -> list[str]:
            return [CPU]

    onnx.save(doubling_graph(), tmp_path / "model.onnx")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", OnTheCpuAfterAll)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)
    with pytest.raises(ModelLoadError, match="KIND_GPU, but none of CUDAExecutionProvider started"):
        create_session(CONFIG, tmp_path, Device("GPU"))


@pytest.mark.parametrize(
    ("parameters", "instances", "device", "expected"),
    [
        ({}, 1, ON_CPU, (8, 0)),
        ({}, 2, ON_CPU, (4, 0)),
        ({}, 12, ON_CPU, (1, 0)),
        ({}, 1, Device("GPU"), (1, 0)),
        ({"intra_op_thread_count": "3"}, 2, ON_CPU, (3, 0)),
        ({"intra_op_thread_count": "0", "inter_op_thread_count": "2"}, 2, ON_CPU, (4, 2)),
        ({"intra_op_thread_count": "3"}, 1, Device("GPU"), (3, 0)),
    ],
)
def test_threads_come_from_the_config_or_the_instances_share_the_cores(
    parameters: dict[str, str], instances: int, device: Device, expected: tuple[int, int]
) -> None:
    config = replace(CONFIG, parameters=parameters, cpu_instances=instances)
    threads = choose_threads(config, device, cpus=8)
    assert (threads.intra_op, threads.inter_op) == expected


@pytest.mark.parametrize(
    ("limit", "expected"), [("max 100000\n", 4), ("150000 100000\n", 2), ("900000 100000\n", 4), ("", 4)]
)
def test_a_containers_cpu_quota_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, expected: int
) -> None:
    (tmp_path / "cpu.max").write_text(limit)
    monkeypatch.setattr(session_module, "_CGROUP_CPU_MAX", tmp_path / "cpu.max")
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: set(range(4)))
    assert usable_cpus() == expected


def test_parameters_become_session_options() -> None:
    config = replace(
        with_parameters(
            intra_op_thread_count="2", execution_mode="1", enable_mem_arena="false", enable_mem_pattern="0"
        ),
        graph_level=2,
    )
    options = session_options(config, ON_CPU)
    assert options.intra_op_num_threads == 2
    assert options.execution_mode == onnxruntime.ExecutionMode.ORT_PARALLEL
    assert options.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    assert not options.enable_cpu_mem_arena
    assert not options.enable_mem_pattern
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


@pytest.mark.parametrize(
    ("config", "device", "expected"),
    [
        (CONFIG, ON_CPU, False),
        (replace(CONFIG, max_batch_size=0), ON_CPU, True),
        (CONFIG, Device("GPU"), True),
        (with_parameters(enable_mem_pattern="1"), ON_CPU, True),
        (with_parameters(enable_mem_pattern="0"), Device("GPU"), False),
    ],
)
def test_memory_patterns_are_for_the_gpu_and_for_fixed_shapes(
    config: ModelConfig, device: Device, expected: bool
) -> None:
    assert session_options(config, device).enable_mem_pattern is expected


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("intra_op_thread_count", "two", "intra_op_thread_count is 'two'; an integer"),
        ("inter_op_thread_count", "1.5", "inter_op_thread_count is '1.5'; an integer"),
        ("execution_mode", "2", "execution_mode is 2; 0 to 1"),
        ("enable_mem_arena", "off", "enable_mem_arena is 'off'"),
    ],
)
def test_a_parameter_without_a_valid_value_is_refused(key: str, value: str, words: str) -> None:
    with pytest.raises(ModelLoadError, match=words):
        session_options(with_parameters(**{key: value}), ON_CPU)
