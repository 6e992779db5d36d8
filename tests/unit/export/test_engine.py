from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from compositor_backend.pack import file_sha256
from export import engine as engine_module
from export.engine import build_engine, network_of, remove_engine, timing_cache_name
from export.engine_record import RECORD_FILE, EngineRecord, Platform, reasons_to_build
from export.engine_settings import ACCELERATOR, ONNX, PLAN, Batches, EngineSettings
from export.errors import ExportError
from export.precision import halve, precision_of
from tests.support.config_contract import read_config
from tests.support.engines import AUDIO, GPU, SIDE_PX, CpuBuilder, convolving_graph, write_avatars

NETWORK = "lipsync_ann"
SETTINGS = EngineSettings(PLAN, "fp16", Batches(1, 4, 32))
HALF = EngineSettings(ONNX)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_avatars(tmp_path_factory.mktemp("avatars"), "ann")


@pytest.fixture(scope="module")
def engined(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, served by an engine; not to be changed."""
    avatars = Path(shutil.copytree(whole, tmp_path_factory.mktemp("engined") / "avatars"))
    build_engine(avatars, NETWORK, SETTINGS, CpuBuilder)
    return avatars


@pytest.fixture
def avatars(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "avatars"))


def content(avatars: Path) -> dict[str, str]:
    """All files by path, with their checksums; hidden ones at the top are the exporter's own."""
    return {
        str(path.relative_to(avatars)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(avatars.rglob("*"))
        if path.is_file() and path.relative_to(avatars).parts[0] != ".import.lock"
    }


def built(avatars: Path, builder: CpuBuilder | None = None, **changes: Any) -> CpuBuilder:
    maker = builder or CpuBuilder()
    build_engine(avatars, NETWORK, changes.pop("settings", SETTINGS), lambda: maker, **changes)
    return maker


def test_a_plan_is_built_compared_recorded_and_served(avatars: Path) -> None:
    before = content(avatars)
    outcome = build_engine(avatars, NETWORK, SETTINGS, CpuBuilder)
    folder = avatars / NETWORK
    config = read_config(folder / "config.pbtxt")
    assert (config.platform, config.default_model_filename) == ("tensorrt_plan", "model.plan")
    assert {spec.batch_size for spec in config.optimization.cuda.graph_spec} == {1, 4, 32}
    record = EngineRecord.load(folder)
    assert record is not None
    assert record.platform == GPU
    assert record.file == "1/model.plan"
    assert record.file_sha256 == file_sha256(folder / "1" / "model.plan")
    assert record.model_sha256 == file_sha256(folder / "1" / "model.onnx")
    assert (record.form, record.precision, record.batches) == ("plan", "fp16", "1,4,32")
    assert record.psnr_db is not None
    assert record.psnr_db >= 45
    assert record.max_difference is not None
    assert record.max_difference <= 3
    assert record.frames == 1 + 4 + 32
    assert record.milliseconds == {"1": 1, "8": 8, "25": 25, "32": 32}
    assert outcome.why == "there is none"
    assert "plan in fp16; PSNR" in outcome.text
    changed = {path for path, digest in content(avatars).items() if before.get(path) != digest}
    assert changed == {
        f"{NETWORK}/config.pbtxt",
        f"{NETWORK}/engine.json",
        f"{NETWORK}/1/model.plan",
        timing_cache_name(GPU),
    }


def test_what_is_built_is_the_half_graph_in_tensorrts_form(avatars: Path, tmp_path: Path) -> None:
    builder = built(avatars)
    ((graph, batches, known),) = builder.seen
    assert (batches, known) == (SETTINGS.batches, b"")
    (tmp_path / "seen.onnx").write_bytes(graph)
    assert precision_of(tmp_path / "seen.onnx") == "fp16"
    reads_face = {node.op_type for node in onnx.load_from_string(graph).graph.node if "FACE" in node.input}
    assert reads_face == {"Cast"}


def test_full_precision_is_built_from_the_graph_as_it_is(avatars: Path) -> None:
    builder = built(avatars, settings=EngineSettings(PLAN, "fp32", SETTINGS.batches))
    record = EngineRecord.load(avatars / NETWORK)
    assert record is not None
    assert (record.precision, record.max_difference) == ("fp32", 0)
    weights = {w.name: w.data_type for w in onnx.load_from_string(builder.seen[0][0]).graph.initializer}
    assert weights["first"] == onnx.TensorProto.FLOAT


def test_what_is_up_to_date_is_left_alone(avatars: Path) -> None:
    built(avatars)
    before = content(avatars)
    builder = CpuBuilder()
    outcome = build_engine(avatars, NETWORK, SETTINGS, lambda: builder)
    assert (outcome.why, outcome.text) == (None, "up to date")
    assert builder.seen == []
    assert content(avatars) == before
    assert built(avatars, force=True).seen, "unless it is asked for"


def replace_network(avatars: Path) -> None:
    onnx.save(convolving_graph(seed=9), str(avatars / NETWORK / "1" / "model.onnx"))


def spoil_plan(avatars: Path) -> None:
    (avatars / NETWORK / "1" / "model.plan").write_bytes(b"half a plan")


def spoil_record(avatars: Path) -> None:
    (avatars / NETWORK / RECORD_FILE).write_text("{")


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (replace_network, "its network is"),
        (spoil_plan, "its file is"),
        (lambda avatars: (avatars / NETWORK / "1" / "model.plan").unlink(), "its file is"),
        (spoil_record, "is no record of an engine"),
        (lambda avatars: (avatars / NETWORK / RECORD_FILE).unlink(), "there is none"),
    ],
)
def test_what_is_stale_is_built_anew(
    engined: Path, tmp_path: Path, spoil: Callable[[Path], None], why: str
) -> None:
    avatars = Path(shutil.copytree(engined, tmp_path / "avatars"))
    spoil(avatars)
    outcome = build_engine(avatars, NETWORK, SETTINGS, CpuBuilder)
    assert outcome.why is not None
    assert why in outcome.why
    assert build_engine(avatars, NETWORK, SETTINGS, CpuBuilder).why is None


@pytest.mark.parametrize(
    ("settings", "platform", "why"),
    [
        (SETTINGS, Platform("Some GPU", "9.0", "10.6.0"), "its TensorRT is 10.5.0, not 10.6.0"),
        (SETTINGS, Platform("Another GPU", "9.0", "10.5.0"), "its GPU is Some GPU, not Another GPU"),
        (SETTINGS, Platform("Some GPU", "8.9", "10.5.0"), "its compute capability is 9.0, not 8.9"),
        (EngineSettings(PLAN, "fp32", SETTINGS.batches), GPU, "its precision is fp16, not fp32"),
        (EngineSettings(PLAN, "fp16", Batches(1, 8, 32)), GPU, "its batches is 1,4,32, not 1,8,32"),
        (HALF, GPU, "its form is plan, not onnx"),
    ],
)
def test_an_engine_for_something_else_is_built_anew(
    engined: Path, settings: EngineSettings, platform: Platform, why: str
) -> None:
    folder = engined / NETWORK
    sums = [file_sha256(folder / "1" / name) for name in ("model.onnx", "model.plan")]
    assert reasons_to_build(folder, SETTINGS, GPU, *sums) is None
    assert reasons_to_build(folder, settings, platform, *sums) == why


def test_timings_are_kept_for_the_next_build_on_the_same_gpu(avatars: Path) -> None:
    built(avatars)
    assert built(avatars, force=True).seen[0][2] == b"more "
    other = CpuBuilder(Platform("Another GPU", "9.0", "10.5.0"))
    assert built(avatars, other).seen[0][2] == b""


class Refusing(CpuBuilder):
    def build(self, *arguments: Any) -> Any:
        raise ExportError("TensorRT built no engine")


class Replacing(CpuBuilder):
    """An import puts another network in place while the engine is built."""

    avatars: Path

    def build(self, *arguments: Any) -> Any:
        replace_network(self.avatars)
        return super().build(*arguments)


@pytest.mark.parametrize("before", [None, SETTINGS])
@pytest.mark.parametrize(
    ("builder", "words"),
    [
        (Refusing(), "built no engine"),
        (CpuBuilder(brighter=4), r"the engine of lipsync_ann is too far from its float32 graph: PSNR 3\d"),
    ],
)
def test_a_failed_build_leaves_all_as_it_was(
    avatars: Path, builder: CpuBuilder, words: str, before: EngineSettings | None
) -> None:
    if before is not None:
        built(avatars, settings=before)
    files = content(avatars)
    with pytest.raises(ExportError, match=words):
        built(avatars, builder, force=True)
    assert content(avatars) == files


def test_an_engine_of_a_network_that_is_gone_is_not_put_in_place(avatars: Path) -> None:
    builder = Replacing()
    builder.avatars = avatars
    with pytest.raises(ExportError, match="was replaced while its engine was built"):
        built(avatars, builder)
    assert not (avatars / NETWORK / "1" / "model.plan").exists()


def test_a_half_graph_is_served_beside_the_whole_one(avatars: Path) -> None:
    before = file_sha256(avatars / NETWORK / "1" / "model.onnx")
    outcome = build_engine(avatars, NETWORK, HALF)
    folder = avatars / NETWORK
    assert file_sha256(folder / "1" / "model.onnx") == before
    config = read_config(folder / "config.pbtxt")
    half = folder / "1" / config.default_model_filename
    assert precision_of(half) == "fp16"
    face = np.random.default_rng(0).integers(0, 256, (2, 3, SIDE_PX, SIDE_PX), np.uint8)
    inputs = {"FACE": face, "AUDIO": np.zeros((2, *AUDIO), np.float32)}
    mouths = [
        onnxruntime.InferenceSession(str(path)).run(["MOUTH"], inputs)[0].astype(int)
        for path in (folder / "1" / "model.onnx", half)
    ]
    assert np.abs(mouths[0] - mouths[1]).max() <= 3
    assert "onnx in fp16; " in outcome.text
    assert build_engine(avatars, NETWORK, HALF).why is None
    record = EngineRecord.load(folder)
    assert record is not None
    assert record.platform == Platform(), "any machine runs it"


def test_an_accelerator_gets_a_folder_of_its_own_and_no_claim_of_having_been_compared(avatars: Path) -> None:
    outcome = build_engine(avatars, NETWORK, EngineSettings(ACCELERATOR))
    folder = avatars / NETWORK
    sha256 = file_sha256(folder / "1" / "model.onnx")
    assert list((folder / "tensorrt_cache").iterdir()) == [folder / "tensorrt_cache" / sha256[:16]]
    assert "not compared" in outcome.text
    record = EngineRecord.load(folder)
    assert record is not None
    assert record.psnr_db is None
    # With the network, the folder of its engines is another.
    replace_network(avatars)
    build_engine(avatars, NETWORK, EngineSettings(ACCELERATOR))
    (cache,) = (folder / "tensorrt_cache").iterdir()
    assert cache.name != sha256[:16]


def test_where_the_provider_is_the_cache_is_built_and_compared(
    avatars: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The provider itself needs a GPU: here the session that it would make runs on the CPU."""
    loaded = []

    def build_cache(config: Any, version_folder: Path) -> Any:
        loaded.append((config, version_folder))
        session = onnxruntime.InferenceSession(str(version_folder / config.default_model_filename))
        names = [tensor.name for tensor in session.get_outputs()]
        return lambda inputs: dict(zip(names, session.run(names, inputs), strict=True))

    monkeypatch.setattr(engine_module, "provider_is_here", lambda: True)
    monkeypatch.setattr(engine_module, "build_cache", build_cache)
    outcome = build_engine(avatars, NETWORK, EngineSettings(ACCELERATOR))
    ((config, version_folder),) = loaded
    (accelerator,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    # Where the server will look, and this load already has: the model's folder in the stage becomes the model's.
    cache = version_folder.parents[1] / accelerator.parameters["trt_engine_cache_path"]
    assert cache.is_relative_to(version_folder.parent)
    assert "equal" in outcome.text


def test_a_network_that_half_precision_does_not_hold_gets_no_engine_in_it(avatars: Path) -> None:
    onnx.save(convolving_graph(gain=1e6), str(avatars / NETWORK / "1" / "model.onnx"))
    for form in (PLAN, ACCELERATOR, ONNX):
        files = content(avatars)
        with pytest.raises(
            ExportError, match=r"avatars/lipsync_ann/1/model\.onnx reaches .* fp16 holds 65504"
        ):
            build_engine(avatars, NETWORK, EngineSettings(form), CpuBuilder)
        assert content(avatars) == files
    assert built(avatars, settings=EngineSettings(PLAN, "fp32")).seen


def test_a_network_that_is_in_half_precision_already(avatars: Path) -> None:
    source = avatars / NETWORK / "1" / "model.onnx"
    halve(source, source)
    graph = built(avatars).seen[0][0]
    weights = {w.name: w.data_type for w in onnx.load_from_string(graph).graph.initializer}
    assert weights["first"] == onnx.TensorProto.FLOAT16
    with pytest.raises(ExportError, match="is in fp16 already; import the avatar again"):
        built(avatars, settings=EngineSettings(PLAN, "fp32"))
    with pytest.raises(ExportError, match="is in fp16 already, and served so"):
        build_engine(avatars, NETWORK, HALF)


def test_without_its_engine_an_avatar_is_as_it_was_imported(avatars: Path) -> None:
    before = content(avatars)
    for settings in (SETTINGS, HALF, EngineSettings(ACCELERATOR)):
        build_engine(avatars, NETWORK, settings, CpuBuilder)
        assert remove_engine(avatars, NETWORK).why is not None
        left = {name: digest for name, digest in content(avatars).items() if not name.startswith(".tensorrt")}
        assert left == before
    assert not (avatars / NETWORK / "tensorrt_cache").exists()
    assert remove_engine(avatars, NETWORK).text == "it has no engine"


def test_avatars_and_networks_that_are_not_there(avatars: Path) -> None:
    assert network_of(avatars, "ann") == NETWORK
    for action in (
        lambda: build_engine(avatars, "lipsync_bob", HALF),
        lambda: remove_engine(avatars, "lipsync_bob"),
    ):
        with pytest.raises(ExportError, match=r"lipsync_bob/1/model\.onnx is not there"):
            action()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 2}, "format is 2; 1 is wanted"),
        ({"precision": "fp8"}, "the precision is 'fp8'"),
        ({"batches": "1"}, "the batches are '1'"),
        ({"seconds": "ten"}, "seconds is 'ten'; float is wanted"),
        ({"platform": []}, r"\[\] is no object"),
        ({"surplus": 1}, "surplus"),
    ],
)
def test_a_record_that_is_none_is_one_sentence(avatars: Path, change: dict[str, Any], words: str) -> None:
    build_engine(avatars, NETWORK, HALF)
    path = avatars / NETWORK / RECORD_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ExportError, match=rf"engine\.json is no record of an engine: .*{words}"):
        EngineRecord.load(avatars / NETWORK)
