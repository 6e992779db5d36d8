from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from compositor_backend.manifest import Manifest
from export.atomic import STAGE_PREFIX
from export.cli import main
from export.engine_record import EngineRecord
from export.engine_settings import ONNX, PLAN, EngineSettings
from export.engines import Target, build_engines, targets_of
from export.errors import ExportError
from tests.support.config_contract import read_config
from tests.support.engines import convolving_graph, dying_builder, write_avatars

ROOT = Path(__file__).parents[3]
HALF = EngineSettings(ONNX)
IDS = ("ann", "bad", "bob", "cid")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_avatars(tmp_path_factory.mktemp("avatars"), *IDS)


@pytest.fixture
def avatars(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "avatars"))


def engined(avatars: Path) -> dict[str, str]:
    """When each network's engine was built."""
    records = {
        path.parent.name: EngineRecord.load(path.parent) for path in avatars.glob("lipsync_*/engine.json")
    }
    return {name: record.built_at for name, record in sorted(records.items()) if record}


def spoil(avatars: Path, network: str) -> None:
    onnx.save(convolving_graph(gain=1e6), str(avatars / network / "1" / "model.onnx"))


def test_all_are_built_and_then_skipped_and_one_that_fails_stops_none(
    avatars: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(avatars, "lipsync_bad")
    command = ["engines", "--all", "--onnx", "--jobs", "2", "--avatars", str(avatars)]
    assert main(command) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "3 built, 0 up to date, 1 failed" in said
    assert "fp16 holds 65504" in re.sub(r"[│\s]+", " ", said)
    first = engined(avatars)
    assert list(first) == ["lipsync_ann", "lipsync_bob", "lipsync_cid"]
    # The same again for what is left; the one that failed gets a network that fits.
    onnx.save(convolving_graph(), str(avatars / "lipsync_bad" / "1" / "model.onnx"))
    assert main(command) == 0
    assert "1 built, 3 up to date, 0 failed" in " ".join(capsys.readouterr().out.split())
    again = engined(avatars)
    assert {name: again[name] for name in first} == first
    assert "lipsync_bad" in again


def test_a_process_that_dies_is_one_failure_among_the_others(avatars: Path) -> None:
    targets, _ = targets_of(avatars)
    settings = EngineSettings(PLAN, "fp32")
    runs = {run.target.network: run for run in build_engines(avatars, targets, settings, 1, dying_builder)}
    assert runs["lipsync_bad"].error is not None
    assert "the process that built the engine of lipsync_bad died" in runs["lipsync_bad"].error
    for name in ("lipsync_ann", "lipsync_bob", "lipsync_cid"):
        outcome = runs[name].outcome
        assert outcome is not None, runs[name].error
        assert "plan in fp32; equal" in outcome.text
        assert read_config(avatars / name / "config.pbtxt").platform == "tensorrt_plan"
    assert not (avatars / "lipsync_bad" / "engine.json").exists()
    # Builds in other processes share what they measured.
    assert len(list(avatars.glob(".tensorrt-*.timing"))) == 1


def test_a_run_that_was_killed_goes_on_where_it_was(
    avatars: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["engines", "--all", "--onnx", "--avatars", str(avatars)]
    process = subprocess.Popen(
        [sys.executable, "-c", _KILLED, *command], cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True
    )
    assert process.wait(timeout=100) == -signal.SIGKILL
    done = engined(avatars)
    assert list(done) == ["lipsync_ann", "lipsync_bad"]
    for name in IDS:
        config = read_config(avatars / f"lipsync_{name}" / "config.pbtxt")
        assert (avatars / f"lipsync_{name}" / "1" / config.default_model_filename).is_file()
    assert main(command) == 0
    assert "2 built, 2 up to date, 0 failed" in " ".join(capsys.readouterr().out.split())
    again = engined(avatars)
    assert len(again) == 4
    assert {name: again[name] for name in done} == done
    assert list(avatars.glob(f"{STAGE_PREFIX}*")) == []


# Kills its whole group, itself and the process at work, when two engines are there and the third is begun.
_KILLED = f"""
import os, signal, sys, threading
from pathlib import Path
from export import engines
from export.cli import main

inner = engines.ProcessPoolExecutor.submit
calls = []

def submit(self, *arguments):
    future = inner(self, *arguments)
    calls.append(arguments)
    if len(calls) == 3:
        root = Path(sys.argv[-1])
        while not future.running() and not list(root.glob("{STAGE_PREFIX}*")):
            pass
        os.killpg(0, signal.SIGKILL)
    return future

engines.ProcessPoolExecutor.submit = submit
main(sys.argv[1:])
"""


def test_some_of_them_by_their_ids(avatars: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["engines", "cid", "ann", "--onnx", "--avatars", str(avatars)]) == 0
    assert list(engined(avatars)) == ["lipsync_ann", "lipsync_cid"]
    assert "2 built, 0 up to date, 0 failed" in " ".join(capsys.readouterr().out.split())


def test_a_network_that_avatars_share_is_built_once(avatars: Path) -> None:
    manifest = Manifest.load(avatars / "avatar_bob")
    for avatar_id in ("ann", "bob"):
        path = avatars / f"avatar_{avatar_id}" / "avatar.json"
        path.write_text(path.read_text().replace(f'"lipsync_{avatar_id}"', '"lipsync_bob"'))
    targets, broken = targets_of(avatars)
    assert manifest.network == "lipsync_bob"
    assert targets == [
        Target("lipsync_bad", ("bad",)),
        Target("lipsync_bob", ("ann", "bob")),
        Target("lipsync_cid", ("cid",)),
    ]
    assert broken == []


def test_an_avatar_that_is_not_whole_is_a_failure_among_the_others(
    avatars: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (avatars / "avatar_bad" / "avatar.json").write_text("{")
    assert main(["engines", "bad", "ann", "bob", "cid", "--onnx", "--avatars", str(avatars)]) == 1
    assert "3 built, 0 up to date, 1 failed" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["engines", "--onnx"], "avatars, or --all, are wanted"),
        (["engines", "ann", "--all", "--onnx"], "avatars, or --all, are wanted"),
        (["engines", "--all", "--onnx", "--jobs", "0"], "the jobs are 0"),
        (["engines", "--all", "--batch", "25"], "the batches are '25'"),
        (["engine", "../ann", "--onnx"], "is not an avatar id"),
        (["engine", "dora", "--onnx"], "avatar_dora/avatar.json cannot be read"),
    ],
)
def test_wrong_calls_are_one_sentence(
    whole: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--avatars", str(whole)]) == 1
    assert words in capsys.readouterr().err


def test_without_avatars(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="holds no avatar"):
        targets_of(tmp_path)
    assert list(build_engines(tmp_path, [], HALF)) == []


def test_without_tensorrt_the_commands_say_once_how_to_get_it(
    whole: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    for command in (["engine", "ann"], ["engines", "--all"]):
        assert main([*command, "--avatars", str(whole)]) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: TensorRT is not installed; pip install 'lipstream[tensorrt]'")
        assert error.count("\n") == 1
    assert engined(whole) == {}


def test_one_avatar_there_and_back(avatars: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (avatars / "lipsync_ann" / "config.pbtxt").read_bytes()
    command = ["engine", "ann", "--avatars", str(avatars)]
    assert main([*command, "--onnx"]) == 0
    assert f"{avatars}/lipsync_ann: onnx in fp16; PSNR" in capsys.readouterr().out
    assert main([*command, "--off"]) == 0
    assert (avatars / "lipsync_ann" / "config.pbtxt").read_bytes() == before
    assert [path.name for path in (avatars / "lipsync_ann" / "1").iterdir()] == ["model.onnx"]
