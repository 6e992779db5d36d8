from __future__ import annotations

import hashlib
import itertools
from pathlib import Path

import pytest
from google.protobuf import text_format

from export.engine_caches import SharedCache, shared_caches
from export.engine_configs import accelerator_config, cache_path, cache_prefix
from export.engine_settings import ACCELERATOR, EngineSettings
from export.model_configs import Network

SETTINGS = EngineSettings(ACCELERATOR)
IDS = ("a", "aa", "ann", "ann-2", "ann_2", "ann-0123456789abcdef", "0", "x" * 64)


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def write(root: Path, model: str, weights: str, config: str = "config.pbtxt", **changes: str) -> Path:
    """A model with that text for its graph, and the config that the exporter writes, `changes` made to its cache."""
    path = root / model / config
    (root / model / "1").mkdir(parents=True, exist_ok=True)
    (root / model / "1" / "model.onnx").write_text(weights)
    message = accelerator_config(Network(model, 320, (32, 16, 16)), SETTINGS, sha256(weights))
    (accelerator,) = message.optimization.execution_accelerators.gpu_execution_accelerator
    for key, value in changes.items():
        accelerator.parameters[f"trt_engine_cache_{key}"] = value
    path.parent.mkdir(exist_ok=True)
    path.write_text(text_format.MessageToString(message))
    return path


def test_no_two_avatars_share_a_cache_whatever_they_are_called_and_however_often_replaced() -> None:
    """All pairs of ids and weights, equal weights among them: neither the folder nor the prefix is another's."""
    models = [(f"lipsync_{avatar_id}", sha256(w)) for avatar_id in IDS for w in ("one", "two")]
    for first, second in itertools.combinations(models, 2):
        paths = [cache_path(*model) for model in (first, second)]
        assert not paths[0].is_relative_to(paths[1]), paths
        assert not paths[1].is_relative_to(paths[0]), paths
        prefixes = [cache_prefix(*model) for model in (first, second)]
        assert not prefixes[0].startswith(prefixes[1]), prefixes
        assert not prefixes[1].startswith(prefixes[0]), prefixes


def test_a_cache_is_the_models_own_wherever_the_folder_of_avatars_lies(tmp_path: Path) -> None:
    for root in (tmp_path / "here", tmp_path / "there"):
        for avatar_id in IDS:
            path = cache_path(f"lipsync_{avatar_id}", sha256(avatar_id))
            assert not path.is_absolute()
            assert (root / path).resolve().is_relative_to(root / f"lipsync_{avatar_id}")


def test_what_the_exporter_writes_is_shared_by_nobody(tmp_path: Path) -> None:
    for number, avatar_id in enumerate(IDS):
        write(tmp_path, f"lipsync_{avatar_id}", f"weights {number % 2}")
    assert shared_caches(tmp_path) == []


def problem(root: Path) -> SharedCache:
    (found,) = shared_caches(root)
    return found


def both(root: Path) -> dict[str, str]:
    """The keys of both models' weights, so that a hand-made path names them."""
    return {model: sha256(model)[:16] for model in ("lipsync_a", "lipsync_b")}


@pytest.mark.parametrize(
    "spelling", ["cache/{name}", "./cache/../cache/{name}", "{root}/cache/{name}", "cache/{name}/"]
)
def test_one_folder_for_two_is_found_however_it_is_spelt(tmp_path: Path, spelling: str) -> None:
    keys = both(tmp_path)
    name = "".join(keys.values())
    folders = (f"cache/{name}", spelling.format(name=name, root=tmp_path))
    for model, folder in zip(keys, folders, strict=True):
        write(tmp_path, model, model, path=folder)
    found = problem(tmp_path)
    assert found.models == ("lipsync_a", "lipsync_b")
    assert "same folder" in found.text
    assert "the other's weights" in found.text


def test_one_folder_through_a_link_is_found(tmp_path: Path) -> None:
    keys = both(tmp_path)
    folder = tmp_path / "cache" / "".join(keys.values())
    folder.mkdir(parents=True)
    (tmp_path / "link").symlink_to(folder)
    write(tmp_path, "lipsync_a", "lipsync_a", path=str(folder))
    write(tmp_path, "lipsync_b", "lipsync_b", path="link")
    assert "same folder" in problem(tmp_path).text


def test_a_folder_inside_another_is_found(tmp_path: Path) -> None:
    keys = both(tmp_path)
    write(tmp_path, "lipsync_a", "lipsync_a", path=f"cache/{keys['lipsync_a']}")
    write(tmp_path, "lipsync_b", "lipsync_b", path=f"cache/{keys['lipsync_a']}/b/{keys['lipsync_b']}")
    assert "inside it" in problem(tmp_path).text


def test_a_name_that_begins_with_another_is_no_folder_inside_it(tmp_path: Path) -> None:
    keys = both(tmp_path)
    write(tmp_path, "lipsync_a", "lipsync_a", path=f"cache/{keys['lipsync_a']}")
    write(tmp_path, "lipsync_b", "lipsync_b", path=f"cache/{keys['lipsync_a']}{keys['lipsync_b']}")
    assert shared_caches(tmp_path) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"path": ""}, "without trt_engine_cache_path"),
        ({"prefix": ""}, "without trt_engine_cache_prefix"),
        ({"path": "lipsync_a/tensorrt_cache"}, "does not name the weights"),
    ],
)
def test_what_a_cache_lacks_is_found(tmp_path: Path, changes: dict[str, str], words: str) -> None:
    write(tmp_path, "lipsync_a", "lipsync_a", **changes)
    assert words in problem(tmp_path).text


def test_a_network_that_was_replaced_by_hand_is_found(tmp_path: Path) -> None:
    write(tmp_path, "lipsync_a", "old weights")
    assert shared_caches(tmp_path) == []
    (tmp_path / "lipsync_a" / "1" / "model.onnx").write_text("new weights")
    assert "engines of other weights may lie there" in problem(tmp_path).text


def test_the_same_prefix_is_found(tmp_path: Path) -> None:
    for model in ("lipsync_a", "lipsync_b"):
        write(tmp_path, model, model, prefix="network")
    assert "same trt_engine_cache_prefix 'network'" in problem(tmp_path).text


def test_a_folder_that_was_copied_under_another_name_is_found(tmp_path: Path) -> None:
    config = write(tmp_path, "lipsync_a", "lipsync_a")
    (tmp_path / "lipsync_b" / "1").mkdir(parents=True)
    (tmp_path / "lipsync_b" / "1" / "model.onnx").write_text("lipsync_a")
    (tmp_path / "lipsync_b" / "config.pbtxt").write_text(config.read_text())
    assert {found.models for found in shared_caches(tmp_path)} == {("lipsync_a", "lipsync_b")}


def test_two_configs_of_one_model_may_share(tmp_path: Path) -> None:
    write(tmp_path, "lipsync_a", "lipsync_a")
    write(tmp_path, "lipsync_a", "lipsync_a", config="configs/gpu.pbtxt")
    assert shared_caches(tmp_path) == []


def test_configs_of_other_kinds_and_broken_ones_are_passed_by(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.pbtxt").write_text("no config")
    (tmp_path / ".staging-x").mkdir()
    write(tmp_path, "lipsync_a", "lipsync_a", enable="0", path="", prefix="")
    assert shared_caches(tmp_path) == []
