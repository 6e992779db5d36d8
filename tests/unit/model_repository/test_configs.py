from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format

from compositor_backend.contract import ENSEMBLES, PYTHON_MODELS, Model
from compositor_backend.contract import MODELS as ALL
from tests.support.config_contract import assert_config_matches, read_config

REPOSITORY = Path(__file__).parents[3] / "model_repository"
MODELS = {model.name: model for model in PYTHON_MODELS}
CONFIGS = [
    path for path in sorted(REPOSITORY.rglob("*.pbtxt")) if path.relative_to(REPOSITORY).parts[0] in MODELS
]
ON_GPUS = {"audio_encoder", "lipsync"}
"""Models that compute with networks; all of these, and no others, have a batch dimension."""


def relative_name(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def test_every_model_has_its_configs_and_code() -> None:
    assert {path.parent.name for path in REPOSITORY.glob("*/config.pbtxt")} == {model.name for model in ALL}
    # A machine without a GPU differs in how many processes there are; catalog has one anyway.
    embedded = {path.parts[-3] for path in REPOSITORY.glob("*/configs/embedded.pbtxt")}
    assert embedded == set(MODELS) - {"catalog"}
    assert all((REPOSITORY / name / "1" / "model.py").is_file() for name in MODELS)
    assert all((REPOSITORY / ensemble.name / "1" / ".gitkeep").is_file() for ensemble in ENSEMBLES)


@pytest.mark.parametrize("ensemble", ENSEMBLES, ids=lambda model: model.name)
def test_ensembles_are_the_contracts_and_their_steps_fit(ensemble: Model) -> None:
    config = read_config(REPOSITORY / ensemble.name / "config.pbtxt")
    assert_config_matches(config, ensemble)
    assert config.platform == "ensemble"
    made = {tensor.name for tensor in ensemble.inputs}
    for step in config.ensemble_scheduling.step:
        model = MODELS[step.model_name]
        needed = {tensor.name for tensor in model.inputs} - model.optional
        assert needed <= set(step.input_map) <= needed | model.optional
        assert set(step.output_map) <= {tensor.name for tensor in model.outputs}
        assert set(step.input_map.values()) <= made
        assert not set(step.output_map.values()) & made, "a tensor has one maker"
        made |= set(step.output_map.values())
    assert {tensor.name for tensor in ensemble.outputs} <= made


@pytest.mark.parametrize("ensemble", ENSEMBLES, ids=lambda model: model.name)
def test_whole_frames_and_regions_are_made_apart(ensemble: Model) -> None:
    """A step computes all that is mapped, asked for or not."""
    config = read_config(REPOSITORY / ensemble.name / "config.pbtxt")
    last = [set(s.output_map) for s in config.ensemble_scheduling.step if s.model_name == "compositor"]
    assert last == [{"JPEG"}, {"REGION", "REGION_RECT"}]


@pytest.mark.parametrize("path", CONFIGS, ids=relative_name)
def test_config_is_the_contracts(path: Path) -> None:
    model = MODELS[path.relative_to(REPOSITORY).parts[0]]
    config = read_config(path)
    assert_config_matches(config, model)
    assert config.backend == "python"
    assert config.max_batch_size == model.max_batch_size


@pytest.mark.parametrize("path", CONFIGS, ids=relative_name)
def test_python_models_get_their_inputs_where_numpy_can_see_them(path: Path) -> None:
    """Triton's default, too; said aloud where there is a GPU."""
    parameters = read_config(path).parameters
    if path.name == "config.pbtxt":
        assert parameters["FORCE_CPU_ONLY_INPUT_TENSORS"].string_value == "yes"
    assert set(parameters) <= {
        "FORCE_CPU_ONLY_INPUT_TENSORS",
        "avatars_folder",
        "pack_cache_mib",
        "pack_idle_s",
        "network_cache_mib",
        "scratch_mib",
        "warm_avatars",
        "load_timeout_s",
    }


@pytest.mark.parametrize("path", CONFIGS, ids=relative_name)
def test_networks_are_batched_and_nothing_else(path: Path) -> None:
    """A queue policy makes Triton batch, and without a batch dimension that costs most of the throughput."""
    config = read_config(path)
    networks = path.relative_to(REPOSITORY).parts[0] in ON_GPUS
    assert config.HasField("dynamic_batching") == networks == (config.max_batch_size > 0)
    bounded = config.dynamic_batching.default_queue_policy.max_queue_size > 0
    assert bounded == (networks and path.name == "config.pbtxt")


@pytest.mark.parametrize("path", CONFIGS, ids=relative_name)
def test_networks_run_on_gpus_in_production_and_nothing_else_does(path: Path) -> None:
    (group,) = read_config(path).instance_group
    on_gpu = path.relative_to(REPOSITORY).parts[0] in ON_GPUS and path.name == "config.pbtxt"
    assert group.kind == (group.KIND_GPU if on_gpu else group.KIND_CPU)


def test_lipsync_has_eight_instances_a_gpu() -> None:
    (group,) = read_config(REPOSITORY / "lipsync" / "config.pbtxt").instance_group
    assert (group.count, group.kind) == (8, group.KIND_GPU)


@pytest.mark.parametrize("path", CONFIGS, ids=relative_name)
def test_config_says_why(path: Path) -> None:
    assert path.read_text(encoding="utf-8").startswith("# ")


@pytest.mark.parametrize("name", MODELS)
def test_model_py_computes_nothing_itself(name: str) -> None:
    code = (REPOSITORY / name / "1" / "model.py").read_text(encoding="utf-8")
    assert len(code.splitlines()) <= 40
    assert "numpy" not in code
    assert "triton_python_backend_utils" not in code


@pytest.mark.parametrize(
    "change",
    [
        lambda config: config.input.pop(),
        lambda config: config.output.pop(),
        lambda config: config.input[0].dims.append(-1),
        lambda config: setattr(config, "name", "other"),
        lambda config: setattr(config, "max_batch_size", 32),
        lambda config: setattr(config.input[0], "name", "avatar"),
        lambda config: setattr(config.input[0], "optional", True),
        lambda config: setattr(config.input[2], "optional", False),
        lambda config: setattr(config.output[0], "data_type", config.output[1].data_type),
    ],
)
def test_the_comparison_sees_every_difference(change: Any) -> None:
    config = read_config(REPOSITORY / "audio_windows" / "config.pbtxt")
    assert_config_matches(config, MODELS["audio_windows"])
    change(config)
    with pytest.raises(AssertionError):
        assert_config_matches(config, MODELS["audio_windows"])


def test_the_comparison_knows_batched_models(tmp_path: Path) -> None:
    mel = MODELS["audio_features"].outputs[0]
    path = tmp_path / "config.pbtxt"
    path.write_text(
        'name: "m" max_batch_size: 4 input { name: "MEL" data_type: TYPE_FP32 dims: [ 1, 80, 16 ] }'
    )
    assert_config_matches(read_config(path), Model("m", (mel,), ()))


def test_a_field_that_triton_does_not_know_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "config.pbtxt"
    path.write_text('name: "m" instance_groups { count: 1 }')
    with pytest.raises(text_format.ParseError):
        read_config(path)
