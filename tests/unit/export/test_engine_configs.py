from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from tritonclient.grpc import model_config_pb2 as pb

from export import model_configs
from export.engine_configs import engine_config, profile_shapes, write_engine_config
from export.engine_settings import ACCELERATOR, ONNX, PLAN, Batches, EngineSettings
from export.errors import ExportError
from export.model_configs import Network
from server.onnxruntime_backend.config import parse_model_config
from server.onnxruntime_backend.providers import CPU, CUDA, TENSORRT, Device, choose_providers
from tests.support.config_contract import assert_config_matches, read_config
from tests.unit.server.onnxruntime_backend.test_providers import DOCUMENTED

AVE = Network("lipsync_ann", 320, (32, 16, 16))
WENET = Network("lipsync_ann", 160, (128, 16, 32))
SHA256 = "0123456789abcdef" * 4
GPU = pb.ModelInstanceGroup.KIND_GPU


def written(folder: Path, network: Network, settings: EngineSettings) -> Any:
    """The config as Triton would read it, over the one that the import wrote."""
    model_configs.write_lipsync(folder, network)
    embedded = (folder / "configs" / "embedded.pbtxt").read_bytes()
    write_engine_config(folder, engine_config(network, settings, SHA256, "face"), settings)
    assert (folder / "configs" / "embedded.pbtxt").read_bytes() == embedded
    return read_config(folder / "config.pbtxt")


@pytest.mark.parametrize("network", [AVE, WENET])
@pytest.mark.parametrize("form", [PLAN, ACCELERATOR, ONNX])
def test_every_form_keeps_the_contract_and_the_turns(tmp_path: Path, network: Network, form: str) -> None:
    config = written(tmp_path, network, EngineSettings(form))
    assert_config_matches(config, network.model)
    (group,) = config.instance_group
    assert (group.count, group.kind) == (8, GPU)
    (resource,) = group.rate_limiter.resources
    assert (resource.name, resource.count) == ("gpu_slot", 1)
    assert config.HasField("dynamic_batching")
    assert config.max_batch_size == 32
    assert [sample.batch_size for sample in config.model_warmup] == [1, 32]


def test_a_plan_is_served_by_tensorrt_with_a_graph_for_each_batch(tmp_path: Path) -> None:
    config = written(tmp_path, AVE, EngineSettings(PLAN, batches=Batches(1, 25, 64)))
    assert (config.platform, config.backend) == ("tensorrt_plan", "tensorrt")
    assert config.default_model_filename == "model.plan"
    assert config.max_batch_size == 64
    assert list(config.instance_group[0].profile) == ["0"]
    assert config.optimization.cuda.graphs
    specs = {
        spec.batch_size: {name: tuple(shape.dim) for name, shape in spec.input.items()}
        for spec in config.optimization.cuda.graph_spec
    }
    inputs = {"FACE": (3, 320, 320), "AUDIO": (32, 16, 16)}
    assert specs == {1: inputs, 25: inputs, 64: inputs}
    assert not config.optimization.HasField("execution_accelerators")


def test_a_half_graph_lies_beside_the_whole_one(tmp_path: Path) -> None:
    assert written(tmp_path, AVE, EngineSettings(ONNX)).default_model_filename == "model.fp16.onnx"
    whole = written(tmp_path / "whole", AVE, EngineSettings(ONNX, "fp32"))
    assert (whole.backend, whole.default_model_filename) == ("onnxruntime", "model.onnx")


@pytest.fixture
def accelerated(tmp_path: Path) -> Any:
    return written(tmp_path, AVE, EngineSettings(ACCELERATOR))


def test_an_accelerators_parameters_are_documented_ones(accelerated: Any) -> None:
    (accelerator,) = accelerated.optimization.execution_accelerators.gpu_execution_accelerator
    assert accelerator.name == "tensorrt"
    assert set(accelerator.parameters) <= set(DOCUMENTED)
    assert not accelerated.optimization.execution_accelerators.cpu_execution_accelerator
    assert (accelerated.backend, accelerated.default_model_filename) == ("onnxruntime", "model.onnx")


def test_the_server_reads_an_accelerators_parameters_as_they_are_meant(accelerated: Any) -> None:
    text = json.dumps(json_format.MessageToDict(accelerated, preserving_proto_field_name=True))
    config = parse_model_config(text)
    root = Path("/somewhere/avatars")
    providers = choose_providers(config, Device("GPU"), [TENSORRT, CUDA, CPU], root)
    assert [name for name, _ in providers] == [TENSORRT, CUDA, CPU]
    options = providers[0][1]
    cache = "/somewhere/avatars/lipsync_ann/tensorrt_cache/0123456789abcdef"
    assert options["trt_fp16_enable"] == "True"
    assert options["trt_engine_cache_enable"] == options["trt_timing_cache_enable"] == "True"
    assert options["trt_engine_cache_path"] == options["trt_timing_cache_path"] == cache
    assert options["trt_engine_cache_prefix"] == "lipsync_ann-0123456789abcdef"


def test_an_accelerators_profile_covers_all_batches_and_the_face_after_its_cast(accelerated: Any) -> None:
    (accelerator,) = accelerated.optimization.execution_accelerators.gpu_execution_accelerator
    for key, batch in (("min", 1), ("opt", 25), ("max", 32)):
        assert accelerator.parameters[f"trt_profile_{key}_shapes"] == (
            f"FACE:{batch}x3x320x320,AUDIO:{batch}x32x16x16,face:{batch}x3x320x320"
        )
    assert profile_shapes(WENET.model, 2) == "FACE:2x3x160x160,AUDIO:2x128x16x32"


def test_full_precision_is_asked_for_by_its_name(tmp_path: Path) -> None:
    config = written(tmp_path, AVE, EngineSettings(ACCELERATOR, "fp32"))
    (accelerator,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert accelerator.parameters["precision_mode"] == "FP32"


@pytest.mark.parametrize("text", ["1,25,32", " 1, 8 ,32", "1,1,32", "1,32,32", "1,40,128"])
def test_batches_are_three_ascending_numbers(text: str) -> None:
    batches = Batches.parse(text)
    assert str(batches) == text.replace(" ", "")
    assert list(batches.sizes) == sorted(set(batches.sizes))


@pytest.mark.parametrize(
    "text",
    ["", "1,25", "1,25,32,64", "2,25,32", "0,1,32", "1,25,16", "1,33,32", "1,-5,32", "1,a,32", "1,٣,32"],
)
def test_batches_that_would_not_serve_every_request_are_refused(text: str) -> None:
    with pytest.raises(ExportError, match="the batches are"):
        Batches.parse(text)


@pytest.mark.parametrize("values", [("plans", "fp16"), ("plan", "fp8")])
def test_forms_and_precisions_that_there_are_not(values: tuple[str, str]) -> None:
    with pytest.raises(ExportError, match=f"{values[0] if values[0] != 'plan' else values[1]}"):
        EngineSettings(*values)
