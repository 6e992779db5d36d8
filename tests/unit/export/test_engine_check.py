"""What `check` says of avatars that are served by engines."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from export.check import check_avatars
from export.cli import main
from export.engine import build_engine
from export.engine_settings import ACCELERATOR, ONNX, PLAN, EngineSettings
from export.precision import precision_of
from tests.support.avatar_sources import BOXES, Sources
from tests.support.engines import CpuBuilder, convolving_graph, write_avatars

NETWORK = "lipsync_ann"


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two avatars, one of them served by a plan."""
    avatars = write_avatars(tmp_path_factory.mktemp("avatars"), "ann", "bob")
    build_engine(avatars, NETWORK, EngineSettings(PLAN), CpuBuilder)
    return avatars


@pytest.fixture
def avatars(plans: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(plans, tmp_path / "avatars"))


def said(avatars: Path) -> dict[tuple[str, str], tuple[bool, str]]:
    return {(f.avatar, f.part): (f.good, f.text) for f in check_avatars(avatars)}


def test_an_engine_is_named_with_its_network(plans: Path) -> None:
    found = said(plans)
    assert all(good for good, _ in found.values()), found
    text = found["ann", "network"][1]
    assert "plan in fp16 for Some GPU (compute capability 9.0), TensorRT 10.5.0" in text
    assert "dB" in text
    assert "plan" not in found["bob", "network"][1]


@pytest.mark.parametrize("form", [ACCELERATOR, ONNX])
def test_other_forms_are_whole_too(avatars: Path, form: str) -> None:
    build_engine(avatars, NETWORK, EngineSettings(form))
    good, text = said(avatars)["ann", "network"]
    assert good
    assert f"{form} in fp16 for any machine" in text


def write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: write(folder / "1" / "model.plan", b"x"), "model.plan is damaged"),
        (
            lambda folder: (folder / "1" / "model.plan").unlink(),
            "which is not there; python -m export engine",
        ),
        (lambda folder: (folder / "engine.json").unlink(), "has no engine.json"),
        (lambda folder: write(folder / "engine.json", b"[]"), "is no record of an engine"),
    ],
)
def test_an_engine_that_is_not_whole_is_a_finding(
    avatars: Path, spoil: Callable[[Path], None], words: str
) -> None:
    spoil(avatars / NETWORK)
    good, text = said(avatars)["ann", "network"]
    assert not good
    assert words in text


def test_a_shared_cache_is_a_finding_for_one_avatar_and_for_all(avatars: Path) -> None:
    for name in (NETWORK, "lipsync_bob"):
        build_engine(avatars, name, EngineSettings(ACCELERATOR))
    assert all(good for good, _ in said(avatars).values())
    config = avatars / "lipsync_bob" / "config.pbtxt"
    own = "lipsync_bob/tensorrt_cache/"
    text = config.read_text()
    start = text.index(own)
    config.write_text(text.replace(text[start : start + len(own) + 16], "shared"))
    (avatars / NETWORK / "config.pbtxt").write_text(
        (avatars / NETWORK / "config.pbtxt")
        .read_text()
        .replace(f"{NETWORK}/tensorrt_cache", "shared/../shared")
    )
    for folder in (avatars, avatars / "avatar_ann"):
        found = [f for f in check_avatars(folder) if f.part == "engine cache"]
        assert found, "the two hand-made paths lie in one another, and one names no weights"
        assert not any(f.good for f in found)
        assert any("inside it" in f.text for f in found)


def test_an_avatar_is_built_in_half_precision_by_one_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:

    sources = Sources.write(tmp_path / "sources", boxes=BOXES[:1])
    onnx.save(convolving_graph(), str(sources.network))
    command = ["avatar", "--id", "ann", "--frames", str(sources.frames), "--boxes", str(sources.boxes)]
    command += ["--onnx", str(sources.network), "--avatars", str(sources.avatars), "--precision", "fp16"]
    assert main(command) == 0
    model = sources.avatars / NETWORK / "1" / "model.onnx"
    assert precision_of(model) == "fp16"
    assert precision_of(sources.network) == "fp32"
    assert all(finding.good for finding in check_avatars(sources.avatars))
    # One that half precision does not hold is refused, and nothing stays.
    onnx.save(convolving_graph(gain=1e6), str(sources.network))
    assert main([*command[:2], "bob", *command[3:]]) == 1
    assert f"{sources.network} reaches" in capsys.readouterr().err
    assert not list(sources.avatars.glob("*bob*"))
