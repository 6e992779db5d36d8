from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format

from compositor_backend.contract import SHARED_MODELS, Model
from tests.support.config_contract import assert_config_matches, read_config

REPOSITORY = Path(__file__).parents[3] / "model_repository"
MODELS = {model.name: model for model in SHARED_MODELS}
CONFIGS = sorted(REPOSITORY.glob("*/config.pbtxt")) + sorted(REPOSITORY.glob("*/configs/*.pbtxt"))


def relative_name(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def test_every_shared_model_has_both_configs_and_code() -> None:
    wanted = {f"{name}/{file}" for name in MODELS for file in ("config.pbtxt", "configs/embedded.pbtxt")}
    assert {relative_name(path) for path in CONFIGS} == wanted
    assert {path.name for path in REPOSITORY.iterdir() if path.is_dir()} == set(MODELS)
    assert all((REPOSITORY / name / "1" / "model.py").is_file() for name in MODELS)


@pytest.mark.parametrize("path", CONFIGS, ids=relative_name)
def test_config_is_the_contracts(path: Path) -> None:
    model = MODELS[path.relative_to(REPOSITORY).parts[0]]
    config = read_config(path)
    assert_config_matches(config, model)
    assert config.backend == "python"
    assert config.max_batch_size == 0


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
    }


@pytest.mark.parametrize("path", CONFIGS, ids=relative_name)
def test_queues_are_left_to_the_networks(path: Path) -> None:
    """A queue policy makes Triton batch, and without a batch dimension that costs most of the throughput."""
    assert not read_config(path).HasField("dynamic_batching")


@pytest.mark.parametrize("path", CONFIGS, ids=relative_name)
def test_instances_run_on_the_cpu(path: Path) -> None:
    (group,) = read_config(path).instance_group
    assert group.kind == group.KIND_CPU
    assert group.count >= 1


@pytest.mark.parametrize("name", MODELS)
def test_production_runs_more_processes_than_embedded(name: str) -> None:
    production = read_config(REPOSITORY / name / "config.pbtxt").instance_group[0].count
    embedded = read_config(REPOSITORY / name / "configs" / "embedded.pbtxt").instance_group[0].count
    assert production > embedded
    assert embedded <= 2


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
    config = read_config(REPOSITORY / "avatar_frames" / "config.pbtxt")
    assert_config_matches(config, MODELS["avatar_frames"])
    change(config)
    with pytest.raises(AssertionError):
        assert_config_matches(config, MODELS["avatar_frames"])


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
