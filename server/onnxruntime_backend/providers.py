"""Which of onnxruntime's execution providers a model runs on, and with what options.

The names and parameters of accelerators are those that Triton's C++ backend documents. They are checked
on every machine, because that backend checks them only where there is a GPU: a typing error would
else show up in production first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from server.errors import ModelLoadError
from server.onnxruntime_backend.config import Accelerator, ModelConfig

TENSORRT = "TensorrtExecutionProvider"
CUDA = "CUDAExecutionProvider"
OPENVINO = "OpenVINOExecutionProvider"
CPU = "CPUExecutionProvider"

ProviderOptions = dict[str, str]

_TRUE = ("1", "true")
_FALSE = ("0", "false")
_PRECISIONS: dict[str, ProviderOptions] = {
    "FP32": {},
    "FP16": {"trt_fp16_enable": "True"},
    "INT8": {"trt_int8_enable": "True"},
}


@dataclass(frozen=True)
class Device:
    """What Triton gave an instance to run on: `kind` is ``CPU`` or ``GPU``, `id` the GPU's number."""

    kind: str
    id: int = 0


def choose_providers(
    config: ModelConfig, device: Device, available: Sequence[str], repository: Path | None = None
) -> list[tuple[str, ProviderOptions]]:
    """The providers for a session, the preferred first, the CPU always last.

    `available` is what ``onnxruntime.get_available_providers()`` says. On a GPU instance TensorRT
    comes first if the config asks for it and it is installed, then CUDA. Relative paths of its
    caches are relative to `repository`, the folder of all avatars (for the C++ backend, to its
    working folder, which docker/entrypoint.sh makes that one). Raises `ModelLoadError` for an
    accelerator or parameter that is not documented, for a cache of engines in no folder of its
    own, and for a GPU instance where no GPU provider is installed.
    """
    gpu = _gpu_options(config)
    if TENSORRT in gpu:
        gpu[TENSORRT] = _with_caches(config, gpu[TENSORRT], repository)
    cpu = _cpu_options(config)
    if device.kind == "GPU":
        chosen = _choose_gpu(config, device, gpu, available)
    else:
        chosen = _choose_cpu(config, cpu, available)
    return [*chosen, (CPU, {})]


def _choose_gpu(
    config: ModelConfig, device: Device, wanted: Mapping[str, ProviderOptions], available: Sequence[str]
) -> list[tuple[str, ProviderOptions]]:
    if CUDA not in available:
        raise ModelLoadError(
            f"{config.name}: the config asks for KIND_GPU, but onnxruntime has no {CUDA} here "
            f"(it has {', '.join(available)}): install onnxruntime-gpu, or start with the embedded configs"
        )
    order = [name for name in (TENSORRT, CUDA) if name in wanted and name in available]
    return [(name, {**wanted[name], "device_id": str(device.id)}) for name in order]


def _choose_cpu(
    config: ModelConfig, wanted: Mapping[str, ProviderOptions], available: Sequence[str]
) -> list[tuple[str, ProviderOptions]]:
    missing = [name for name in wanted if name not in available]
    if missing:
        raise ModelLoadError(f"{config.name}: the config asks for {missing[0]}, which is not installed here")
    return list(wanted.items())


def _gpu_options(config: ModelConfig) -> dict[str, ProviderOptions]:
    options: dict[str, ProviderOptions] = {CUDA: _deprecated_cuda_options(config)}
    for accelerator in config.gpu_accelerators:
        if accelerator.name == "tensorrt":
            options[TENSORRT] = _translate(config, accelerator, _TENSORRT_PARAMETERS)
        elif accelerator.name == "cuda":
            options[CUDA] = {**_translate(config, accelerator, _CUDA_PARAMETERS), **options[CUDA]}
        else:
            raise _unknown(config, "GPU accelerator", accelerator.name, ("tensorrt", "cuda"))
    return options


def _cpu_options(config: ModelConfig) -> dict[str, ProviderOptions]:
    for accelerator in config.cpu_accelerators:
        if accelerator.name != "openvino":
            raise _unknown(config, "CPU accelerator", accelerator.name, ("openvino",))
        if accelerator.parameters:
            raise _unknown(config, "openvino parameter", next(iter(accelerator.parameters)), ())
    return {OPENVINO: {"device_type": "CPU"}} if config.cpu_accelerators else {}


_CACHE_PATHS = ("trt_engine_cache_path", "trt_timing_cache_path")


def _with_caches(config: ModelConfig, options: ProviderOptions, repository: Path | None) -> ProviderOptions:
    """The options with absolute paths.

    onnxruntime finds a cached engine by the model's file name, never by its weights. In one folder
    for all, which is where it looks without a path, an avatar would get another one's face.
    """
    if options.get("trt_engine_cache_enable") == "True" and "trt_engine_cache_path" not in options:
        raise ModelLoadError(
            f"{config.name}: trt_engine_cache_enable without trt_engine_cache_path would share engines with "
            "other models; a folder of the model's own is wanted"
        )
    if repository is None:
        return options
    paths = {key: str(repository / options[key]) for key in _CACHE_PATHS if key in options}
    return {**options, **paths}


def _unknown(config: ModelConfig, what: str, name: str, known: Sequence[str]) -> ModelLoadError:
    return ModelLoadError(f"{config.name}: unknown {what} {name!r}; known: {', '.join(known) or 'none'}")


# --- parameters ---
_Reader = Callable[[str], ProviderOptions]


def _translate(
    config: ModelConfig, accelerator: Accelerator, readers: Mapping[str, _Reader]
) -> ProviderOptions:
    options: ProviderOptions = {}
    for key, value in accelerator.parameters.items():
        if key not in readers:
            raise _unknown(config, f"{accelerator.name} parameter", key, sorted(readers))
        try:
            options.update(readers[key](value))
        except ValueError as error:
            raise ModelLoadError(
                f"{config.name}: {accelerator.name} parameter {key} is {value!r}; {error} is wanted"
            ) from None
    return options


def _text(key: str) -> _Reader:
    return lambda value: {key: value} if value else {}


def _integer(key: str) -> _Reader:
    def read(value: str) -> ProviderOptions:
        if re.fullmatch(r"-?\d+", value) is None:
            raise ValueError("an integer")
        return {key: value}

    return read


def _boolean(key: str) -> _Reader:
    def read(value: str) -> ProviderOptions:
        if value.lower() not in _TRUE + _FALSE:
            raise ValueError("1, true, 0 or false")
        return {key: "True" if value.lower() in _TRUE else "False"}

    return read


def _choice(key: str, names: Sequence[str]) -> _Reader:
    def read(value: str) -> ProviderOptions:
        if value not in names and value not in map(str, range(len(names))):
            raise ValueError(f"one of {', '.join(names)}")
        return {key: value if value in names else names[int(value)]}

    return read


def _precision(value: str) -> ProviderOptions:
    if value not in _PRECISIONS:
        raise ValueError(f"one of {', '.join(_PRECISIONS)}")
    return _PRECISIONS[value]


_TENSORRT_PARAMETERS: dict[str, _Reader] = {
    "precision_mode": _precision,
    "max_workspace_size_bytes": _integer("trt_max_workspace_size"),
    "int8_calibration_table_name": _text("trt_int8_calibration_table_name"),
    "int8_use_native_calibration_table": _boolean("trt_int8_use_native_calibration_table"),
    **{
        key: _integer(key)
        for key in (
            "trt_auxiliary_streams",
            "trt_builder_optimization_level",
            "trt_dla_core",
            "trt_ep_context_embed_mode",
            "trt_max_partition_iterations",
            "trt_min_subgraph_size",
        )
    },
    **{
        key: _boolean(key)
        for key in (
            "trt_build_heuristics_enable",
            "trt_context_memory_sharing_enable",
            "trt_cuda_graph_enable",
            "trt_detailed_build_log",
            "trt_dla_enable",
            "trt_dump_ep_context_model",
            "trt_dump_subgraphs",
            "trt_engine_cache_enable",
            "trt_force_sequential_engine_build",
            "trt_force_timing_cache",
            "trt_layer_norm_fp32_fallback",
            "trt_sparsity_enable",
            "trt_timing_cache_enable",
        )
    },
    **{
        key: _text(key)
        for key in (
            "trt_engine_cache_path",
            "trt_engine_cache_prefix",
            "trt_ep_context_file_path",
            "trt_extra_plugin_lib_paths",
            "trt_profile_max_shapes",
            "trt_profile_min_shapes",
            "trt_profile_opt_shapes",
            "trt_tactic_sources",
            "trt_timing_cache_path",
        )
    },
}
"""The C++ backend's parameters of the TensorRT accelerator, and what each becomes for onnxruntime."""

_ALGORITHMS = ("EXHAUSTIVE", "HEURISTIC", "DEFAULT")
_STRATEGIES = ("kNextPowerOfTwo", "kSameAsRequested")
_CUDA_PARAMETERS: dict[str, _Reader] = {
    "arena_extend_strategy": _choice("arena_extend_strategy", _STRATEGIES),
    "cudnn_conv_algo_search": _choice("cudnn_conv_algo_search", _ALGORITHMS),
    "gpu_mem_limit": _integer("gpu_mem_limit"),
    **{
        key: _boolean(key)
        for key in (
            "cudnn_conv1d_pad_to_nc1d",
            "cudnn_conv_use_max_workspace",
            "do_copy_in_default_stream",
            "enable_cuda_graph",
            "enable_skip_layer_norm_strict_mode",
            "fuse_conv_bias",
            "prefer_nhwc",
            "tunable_op_enable",
            "tunable_op_tuning_enable",
            "use_ep_level_unified_stream",
            "use_tf32",
        )
    },
}
"""onnxruntime's options of its CUDA provider, as far as a config may set them."""

_DEPRECATED_CUDA = (
    "cudnn_conv_algo_search",
    "gpu_mem_limit",
    "arena_extend_strategy",
    "do_copy_in_default_stream",
)


def _deprecated_cuda_options(config: ModelConfig) -> ProviderOptions:
    """CUDA options given the old way, as parameters of the model itself."""
    given = {key: config.parameters[key] for key in _DEPRECATED_CUDA if key in config.parameters}
    return _translate(config, Accelerator("cuda", given), _CUDA_PARAMETERS)
