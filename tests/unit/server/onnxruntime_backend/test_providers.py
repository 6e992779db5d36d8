from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from server.errors import ModelLoadError
from server.onnxruntime_backend.config import Accelerator, ModelConfig
from server.onnxruntime_backend.providers import CPU, CUDA, OPENVINO, TENSORRT, Device, choose_providers

EVERYTHING = [TENSORRT, CUDA, OPENVINO, CPU]
PLAIN = ModelConfig("net", 8, (), ())
TENSORRT_CONFIG = replace(
    PLAIN,
    gpu_accelerators=(
        Accelerator(
            "tensorrt",
            {
                "precision_mode": "FP16",
                "max_workspace_size_bytes": "1073741824",
                "trt_engine_cache_enable": "1",
                "trt_engine_cache_path": "/cache/demo",
                "trt_timing_cache_enable": "false",
                "trt_profile_min_shapes": "FACE:1x3x320x320",
            },
        ),
    ),
)


def with_gpu(name: str, **parameters: str) -> ModelConfig:
    return replace(PLAIN, gpu_accelerators=(Accelerator(name, parameters),))


def test_tensorrt_then_cuda_then_cpu_with_options_by_onnxruntimes_names() -> None:
    assert choose_providers(TENSORRT_CONFIG, Device("GPU", 1), EVERYTHING) == [
        (
            TENSORRT,
            {
                "trt_fp16_enable": "True",
                "trt_max_workspace_size": "1073741824",
                "trt_engine_cache_enable": "True",
                "trt_engine_cache_path": "/cache/demo",
                "trt_timing_cache_enable": "False",
                "trt_profile_min_shapes": "FACE:1x3x320x320",
                "device_id": "1",
            },
        ),
        (CUDA, {"device_id": "1"}),
        (CPU, {}),
    ]


@pytest.mark.parametrize(
    ("config", "available", "chosen"),
    [
        (TENSORRT_CONFIG, [CUDA, CPU], [CUDA, CPU]),
        (PLAIN, EVERYTHING, [CUDA, CPU]),
        (with_gpu("cuda", use_tf32="0"), EVERYTHING, [CUDA, CPU]),
    ],
)
def test_tensorrt_is_taken_only_if_asked_for_and_installed(
    config: ModelConfig, available: list[str], chosen: list[str]
) -> None:
    assert [name for name, _ in choose_providers(config, Device("GPU"), available)] == chosen


def test_a_cpu_instance_stays_on_the_cpu() -> None:
    assert choose_providers(TENSORRT_CONFIG, Device("CPU"), EVERYTHING) == [(CPU, {})]


def test_a_gpu_instance_without_a_gpu_provider_is_refused() -> None:
    with pytest.raises(ModelLoadError, match=r"KIND_GPU.*no CUDAExecutionProvider.*embedded"):
        choose_providers(PLAIN, Device("GPU"), [CPU])


def test_cuda_options_in_the_accelerator_and_in_the_old_place() -> None:
    config = replace(
        with_gpu("cuda", prefer_nhwc="true", arena_extend_strategy="1"),
        parameters={"cudnn_conv_algo_search": "1", "gpu_mem_limit": "1000", "unrelated": "x"},
    )
    (name, options), _ = choose_providers(config, Device("GPU"), [CUDA, CPU])
    assert name == CUDA
    assert options == {
        "prefer_nhwc": "True",
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_algo_search": "HEURISTIC",
        "gpu_mem_limit": "1000",
        "device_id": "0",
    }


def test_openvino_is_taken_where_it_is_installed() -> None:
    config = replace(PLAIN, cpu_accelerators=(Accelerator("openvino"),))
    assert choose_providers(config, Device("CPU"), EVERYTHING)[0][0] == OPENVINO
    with pytest.raises(ModelLoadError, match=r"OpenVINO.*not installed"):
        choose_providers(config, Device("CPU"), [CPU])


@pytest.mark.parametrize("device", [Device("CPU"), Device("GPU")])
@pytest.mark.parametrize(
    ("config", "words"),
    [
        (with_gpu("tensorflow"), "unknown GPU accelerator 'tensorflow'; known: tensorrt, cuda"),
        (with_gpu("tensorrt", precision="FP16"), "unknown tensorrt parameter 'precision'"),
        (with_gpu("tensorrt", precision_mode="BF16"), "precision_mode is 'BF16'; one of FP32, FP16, INT8"),
        (with_gpu("tensorrt", trt_engine_cache_enable="yes"), "is 'yes'; 1, true, 0 or false"),
        (with_gpu("tensorrt", max_workspace_size_bytes="1GB"), "is '1GB'; an integer"),
        (with_gpu("cuda", user_compute_stream="0"), "unknown cuda parameter"),
        (replace(PLAIN, parameters={"arena_extend_strategy": "7"}), "one of kNextPowerOfTwo"),
        (replace(PLAIN, cpu_accelerators=(Accelerator("xnnpack"),)), "unknown CPU accelerator 'xnnpack'"),
        (replace(PLAIN, cpu_accelerators=(Accelerator("openvino", {"a": "b"}),)), "openvino parameter 'a'"),
    ],
)
def test_what_is_not_documented_is_refused_on_every_machine(
    config: ModelConfig, words: str, device: Device
) -> None:
    with pytest.raises(ModelLoadError, match=words):
        choose_providers(config, device, EVERYTHING)


# The table in the documentation of Triton's ONNX Runtime backend.
_TABLE = """
max_workspace_size_bytes trt_max_partition_iterations trt_min_subgraph_size precision_mode
int8_calibration_table_name int8_use_native_calibration_table trt_dla_enable trt_dla_core
trt_engine_cache_enable trt_engine_cache_path trt_engine_cache_prefix trt_dump_subgraphs
trt_force_sequential_engine_build trt_context_memory_sharing_enable trt_layer_norm_fp32_fallback
trt_timing_cache_enable trt_timing_cache_path trt_force_timing_cache trt_detailed_build_log
trt_build_heuristics_enable trt_sparsity_enable trt_builder_optimization_level trt_auxiliary_streams
trt_tactic_sources trt_extra_plugin_lib_paths trt_profile_min_shapes trt_profile_max_shapes
trt_profile_opt_shapes trt_cuda_graph_enable trt_dump_ep_context_model trt_ep_context_file_path
trt_ep_context_embed_mode
"""
DOCUMENTED = _TABLE.split()


@pytest.mark.parametrize("key", DOCUMENTED)
def test_every_documented_tensorrt_parameter_is_known(key: str) -> None:
    value = "INT8" if key == "precision_mode" else "1"
    # A cache without a folder of its own is refused.
    needed = {"trt_engine_cache_path": "own"} if key == "trt_engine_cache_enable" else {}
    options = choose_providers(with_gpu("tensorrt", **{key: value}, **needed), Device("GPU"), EVERYTHING)[0][
        1
    ]
    assert len(options) == 2 + len(needed), options
    assert all(name == "device_id" or name.startswith("trt_") for name in options)


def test_caches_lie_relative_to_the_folder_of_all_avatars_wherever_the_server_runs() -> None:
    config = with_gpu(
        "tensorrt",
        trt_engine_cache_enable="1",
        trt_engine_cache_path="lipsync_ann/tensorrt_cache/0123",
        trt_timing_cache_path="/elsewhere/timings",
    )
    for repository in (Path("/avatars"), Path("/srv/avatars")):
        options = choose_providers(config, Device("GPU"), EVERYTHING, repository)[0][1]
        assert options["trt_engine_cache_path"] == f"{repository}/lipsync_ann/tensorrt_cache/0123"
        assert options["trt_timing_cache_path"] == "/elsewhere/timings"


@pytest.mark.parametrize("device", [Device("CPU"), Device("GPU")])
def test_a_cache_that_would_be_everybodys_is_refused(device: Device) -> None:
    for parameters in ({}, {"trt_engine_cache_path": ""}):
        config = with_gpu("tensorrt", trt_engine_cache_enable="true", **parameters)
        with pytest.raises(
            ModelLoadError, match="net: trt_engine_cache_enable without trt_engine_cache_path"
        ):
            choose_providers(config, device, EVERYTHING)
    off = with_gpu("tensorrt", trt_engine_cache_enable="0")
    assert choose_providers(off, device, EVERYTHING)
