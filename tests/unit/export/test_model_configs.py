from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from compositor_backend import contract
from compositor_backend.contract import Model
from export import model_configs
from export.model_configs import Network
from tests.support.config_contract import assert_config_matches, read_config

KIND = pb.ModelInstanceGroup
NETWORKS = [
    Network("lipsync_ann", 320, (32, 16, 16)),
    Network("lipsync_ann", 320, (256, 16, 32)),
    Network("lipsync_ann", 160, (16, 32, 32)),
]
AVE = NETWORKS[0]


@pytest.fixture(params=NETWORKS, ids=lambda network: f"{network.network_px}-{network.audio_shape[0]}")
def network(request: pytest.FixtureRequest) -> Network:
    found: Network = request.param
    return found


def written(folder: Path, write: Callable[..., None], *arguments: Any) -> dict[str, Any]:
    """The configs that `write` makes, parsed as Triton 2.51 would, by path."""
    write(folder, *arguments)
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): read_config(path) for path in files}


def lipsync_and_encoder(folder: Path, network: Network) -> dict[str, tuple[Any, Model, int]]:
    """Every config of a network, the contract's model, and the rows that a request may have."""
    encoder = contract.audio_encoder_model("audio_encoder_e")
    unets = written(folder / "l", model_configs.write_lipsync, network)
    encoders = written(folder / "e", model_configs.write_audio_encoder, encoder.name)
    return {
        **{f"l/{name}": (config, network.model, contract.MAX_FRAMES) for name, config in unets.items()},
        **{f"e/{name}": (config, encoder, contract.MAX_WINDOWS) for name, config in encoders.items()},
    }


def test_networks_are_the_contracts(tmp_path: Path, network: Network) -> None:
    configs = lipsync_and_encoder(tmp_path, network)
    assert {name[2:] for name in configs} == {"config.pbtxt", "configs/embedded.pbtxt"}
    assert len(configs) == 4
    for config, model, rows in configs.values():
        assert_config_matches(config, model)
        assert config.backend == "onnxruntime"
        assert config.default_model_filename == "model.onnx"
        assert config.max_batch_size >= rows
        assert config.HasField("dynamic_batching")
        assert 0 < config.dynamic_batching.max_queue_delay_microseconds <= 2000
        assert not config.HasField("optimization")


def test_production_bounds_queues_and_the_embedded_server_has_no_policy(tmp_path: Path) -> None:
    """There a policy, however wide, costs a seventh of the frames."""
    for name, (config, _, _) in lipsync_and_encoder(tmp_path, AVE).items():
        batching = config.dynamic_batching
        assert batching.HasField("default_queue_policy") == ("embedded" not in name)
        assert batching.default_queue_policy.max_queue_size == (0 if "embedded" in name else 128)
    for config, note in (
        ("config.pbtxt", "max_queue_size: "),
        ("configs/embedded.pbtxt", "No default_queue_policy: "),
    ):
        assert f"# {note}" in (tmp_path / "l" / config).read_text(encoding="utf-8")


def test_a_unets_batch_is_a_request_of_the_largest_size(tmp_path: Path) -> None:
    configs = written(tmp_path, model_configs.write_lipsync, AVE)
    assert {config.max_batch_size for config in configs.values()} == {32}


def test_production_runs_eight_unets_by_turns(tmp_path: Path) -> None:
    config = written(tmp_path, model_configs.write_lipsync, AVE)["config.pbtxt"]
    (group,) = config.instance_group
    assert (group.count, group.kind) == (8, KIND.KIND_GPU)
    (resource,) = group.rate_limiter.resources
    assert (resource.name, resource.count) == ("gpu_slot", 1)
    # The name is the one that the server makes eight of.
    assert "gpu_slot" in (Path(__file__).parents[3] / "server" / "command.py").read_text(encoding="utf-8")


def test_embedded_configs_need_no_gpu(tmp_path: Path) -> None:
    for name, (config, _, _) in lipsync_and_encoder(tmp_path, AVE).items():
        kinds = {group.kind for group in config.instance_group}
        assert kinds == ({KIND.KIND_CPU} if "embedded" in name else {KIND.KIND_GPU})
        if "embedded" in name:
            (group,) = config.instance_group
            assert group.count == 1
            assert not group.HasField("rate_limiter")
            assert not config.parameters, "the backend chooses the number of threads"


def test_warm_up_covers_the_smallest_and_the_largest_batch(tmp_path: Path, network: Network) -> None:
    for name, (config, model, _) in lipsync_and_encoder(tmp_path, network).items():
        batches = [sample.batch_size for sample in config.model_warmup]
        assert batches == ([1] if "embedded" in name else [1, config.max_batch_size])
        for sample in config.model_warmup:
            assert set(sample.inputs) == {tensor.name for tensor in model.inputs}
            for tensor in model.inputs:
                entry = sample.inputs[tensor.name]
                assert tuple(entry.dims) == tensor.shape[1:]
                assert pb.DataType.Name(entry.data_type) == tensor.config_dtype
                assert entry.zero_data


# --- ensembles ---
def models_of(encoder: str, network: Network) -> dict[str, Model]:
    encoder_model = contract.audio_encoder_model(f"audio_encoder_{encoder}")
    return {model.name: model for model in (*contract.SHARED_MODELS, encoder_model, network.model)}


def ensembles(folder: Path, network: Network) -> list[tuple[Any, Model]]:
    speech = written(folder / "a", model_configs.write_avatar_ensemble, "ann", "e", network)
    features = written(folder / "f", model_configs.write_features_ensemble, "ann", network)
    assert list(speech) == list(features) == ["config.pbtxt"]
    return [
        (speech["config.pbtxt"], contract.avatar_ensemble("ann")),
        (features["config.pbtxt"], contract.features_ensemble("ann", network.audio_shape)),
    ]


def test_ensembles_are_the_contracts(tmp_path: Path, network: Network) -> None:
    for config, model in ensembles(tmp_path, network):
        assert_config_matches(config, model)
        assert config.platform == "ensemble"
        assert config.max_batch_size == 0
        for field in ("dynamic_batching", "optimization"):
            assert not config.HasField(field), "an ensemble takes none"
        assert not config.instance_group
        assert not config.model_warmup


def test_each_tensor_of_an_ensemble_is_made_once_before_it_is_used(tmp_path: Path) -> None:
    for config, model in ensembles(tmp_path, AVE):
        there = {tensor.name for tensor in model.inputs}
        made = Counter(there)
        for step in config.ensemble_scheduling.step:
            assert set(step.input_map.values()) <= there, step.model_name
            there |= set(step.output_map.values())
            made.update(step.output_map.values())
        assert set(made.values()) == {1}, made
        assert {tensor.name for tensor in model.outputs} <= there
        used = {name for step in config.ensemble_scheduling.step for name in step.input_map.values()}
        wanted = {tensor.name for tensor in model.outputs}
        assert there == used | wanted, "nothing is made that nobody uses"


def test_each_step_has_all_its_tensors(tmp_path: Path) -> None:
    models = models_of("e", AVE)
    for config, _ in ensembles(tmp_path, AVE):
        for step in config.ensemble_scheduling.step:
            model = models[step.model_name]
            inputs, outputs = set(step.input_map), set(step.output_map)
            assert inputs <= {tensor.name for tensor in model.inputs}
            assert inputs >= {tensor.name for tensor in model.inputs} - model.optional
            assert outputs == {tensor.name for tensor in model.outputs}
            assert step.model_version == -1


def test_tensors_that_meet_have_one_type(tmp_path: Path) -> None:
    models = models_of("e", AVE)
    for config, model in ensembles(tmp_path, AVE):
        types = {tensor.name: {tensor.dtype} for tensor in (*model.inputs, *model.outputs)}
        for step in config.ensemble_scheduling.step:
            for mapping, tensors in (
                (step.input_map, models[step.model_name].inputs),
                (step.output_map, models[step.model_name].outputs),
            ):
                for tensor in tensors:
                    if tensor.name in mapping:
                        types.setdefault(mapping[tensor.name], set()).add(tensor.dtype)
        assert all(len(found) == 1 for found in types.values()), types


def test_the_steps_of_speech_and_of_features(tmp_path: Path) -> None:
    (speech, _), (features, _) = ensembles(tmp_path, AVE)
    assert [step.model_name for step in speech.ensemble_scheduling.step] == [
        "audio_features",
        "audio_encoder_e",
        "avatar_frames",
        "lipsync_ann",
        "compositor",
    ]
    assert [step.model_name for step in features.ensemble_scheduling.step] == [
        "avatar_frames",
        "lipsync_ann",
        "compositor",
    ]


def test_ready_features_reach_the_network_only_after_they_were_checked(tmp_path: Path) -> None:
    _, (features, _) = ensembles(tmp_path, AVE)
    frames, unet, _ = features.ensemble_scheduling.step
    assert frames.input_map["FEATURES"] == "AUDIO"
    assert "EMBEDDING" not in frames.input_map
    assert unet.input_map["AUDIO"] == frames.output_map["AUDIO"] != "AUDIO"


# --- text ---
def test_every_config_says_why_and_who_wrote_it(tmp_path: Path) -> None:
    lipsync_and_encoder(tmp_path, AVE)
    ensembles(tmp_path, AVE)
    files = list(tmp_path.rglob("*.pbtxt"))
    assert len(files) == 6
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert text.startswith("# ")
        assert "python -m export" in text.replace("\n#   ", " ")
        assert "max_batch_size" in text
        assert max(map(len, text.splitlines())) <= 110


def test_a_field_that_the_oldest_triton_does_not_know_would_be_seen(tmp_path: Path) -> None:
    path = tmp_path / "config.pbtxt"
    model_configs.write_features_ensemble(tmp_path, "ann", AVE)
    model_configs.read_config(path)
    begin = "ensemble_scheduling {"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(begin, f"{begin} max_inflight_requests: 3"))
    with pytest.raises(text_format.ParseError, match="max_inflight_requests"):
        model_configs.read_config(path)


def test_a_written_config_is_read_back_as_it_was(tmp_path: Path) -> None:
    model_configs.write_avatar_ensemble(tmp_path, "ann", "e", AVE)
    found = model_configs.read_config(tmp_path / "config.pbtxt")
    assert found == model_configs.avatar_ensemble("ann", "e", AVE)
