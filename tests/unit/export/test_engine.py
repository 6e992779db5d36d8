from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from compositor_backend.engines import engine_folder
from compositor_backend.manifest import NETWORK, Manifest
from export.avatar import build_avatar
from export.engine import Machine, build_engine, this_machine
from export.engine_record import RECORD_FILE, EngineRecord
from export.errors import ExportError
from export.frames import open_frames
from tests.support.avatar_sources import BOXES, KEY, Sources, network_graph

MACHINE = Machine("some-gpu-trt10.13.0", "Some GPU", "9.0", "575.1")
ROWS = 2


@dataclass
class Provider:
    """Keeps its engines as onnxruntime's TensorRT provider does, and runs graphs on the CPU.

    `brighter` makes its pictures wrong by so many steps; `forgetful` has it build other engines each time.
    """

    brighter: int = 0
    forgetful: bool = False
    keeps: bool = True
    opened: list[Path] = field(default_factory=list)

    def __call__(self, graph: Path, engines: Path) -> Any:
        self.opened.append(engines)
        data = graph.read_bytes()
        name = f"TensorrtExecutionProvider_{len(self.opened) if self.forgetful else 0}_fp16.engine"
        if self.keeps:
            (engines / name).write_bytes(hashlib.sha256(data).digest())
            (engines / f"{len(self.opened)}.timing").write_bytes(b"notes that grow")
        return _Session(onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]), self.brighter)


@dataclass
class _Session:
    session: onnxruntime.InferenceSession
    brighter: int

    def get_outputs(self) -> Any:
        return self.session.get_outputs()

    def run(self, names: list[str], inputs: Mapping[str, Any]) -> list[Any]:
        found = self.session.run(names, inputs)
        return [
            np.minimum(value.astype(np.int16) + self.brighter, 255).astype(np.uint8)
            if name == "MOUTH"
            else value
            for name, value in zip(names, found, strict=True)
        ]


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    return Sources.write(tmp_path)


def avatar(sources: Sources, avatar_id: str, key: int = KEY) -> Path:
    onnx.save(network_graph(key), str(sources.network))
    return build_avatar(sources.settings(avatar_id), open_frames(sources.frames), BOXES)


def seen(folder: Path) -> list[str]:
    """What lies in a folder, but for the lock that writers take."""
    return sorted(path.name for path in folder.iterdir() if path.name != ".import.lock")


def sha256_of(folder: Path) -> str:
    return Manifest.load(folder).graphs[NETWORK].sha256


def test_engines_are_built_proved_and_recorded(sources: Sources) -> None:
    folder, provider = avatar(sources, "ann"), Provider()
    built = build_engine(folder, MACHINE, rows=ROWS, open_session=provider)
    assert built.fresh
    assert built.folder == engine_folder(folder, MACHINE.platform, sha256_of(folder))
    assert len(provider.opened) == 2  # once to build, once to see that nothing is built again
    record = EngineRecord.load(built.folder)
    record.check(built.folder)
    assert record == built.record
    assert (record.gpu, record.tensorrt, record.rows) == ("Some GPU", "10.13.0", ROWS)
    assert record.network_sha256 == sha256_of(folder)
    assert record.max_difference == 0
    assert set(record.files) == {"TensorrtExecutionProvider_0_fp16.engine"}
    assert seen(built.folder.parent) == [built.folder.name]


def test_what_is_there_stays_until_it_is_forced_or_too_small(sources: Sources) -> None:
    folder = avatar(sources, "ann")
    build_engine(folder, MACHINE, rows=ROWS, open_session=Provider())
    for rows in (ROWS, ROWS - 1):
        provider = Provider()
        assert not build_engine(folder, MACHINE, rows=rows, open_session=provider).fresh
        assert provider.opened == []
    for options in ({"rows": ROWS, "force": True}, {"rows": ROWS + 1}):
        provider = Provider()
        assert build_engine(folder, MACHINE, open_session=provider, **options).fresh
        assert provider.opened


@pytest.mark.parametrize("damage", ["engine", "record"])
def test_damaged_engines_are_built_anew(sources: Sources, damage: str) -> None:
    folder = avatar(sources, "ann")
    first = build_engine(folder, MACHINE, rows=ROWS, open_session=Provider())
    path = next(first.folder.glob("*.engine")) if damage == "engine" else first.folder / RECORD_FILE
    path.write_bytes(b"no longer what it was")
    again = build_engine(folder, MACHINE, rows=ROWS, open_session=Provider())
    assert again.fresh
    again.record.check(again.folder)


def test_another_avatar_with_the_same_network_has_them_already(sources: Sources) -> None:
    first, second, third = (
        avatar(sources, name, key) for name, key in (("ann", KEY), ("bob", KEY), ("eve", KEY + 1))
    )
    built = build_engine(first, MACHINE, rows=ROWS, open_session=Provider())
    provider = Provider()
    shared = build_engine(second, MACHINE, rows=ROWS, open_session=provider)
    assert (provider.opened, shared.record) == ([], built.record)
    shutil.rmtree(first)
    shared.record.check(shared.folder)
    assert build_engine(third, MACHINE, rows=ROWS, open_session=provider).fresh
    assert provider.opened


@pytest.mark.parametrize(
    ("provider", "words"),
    [
        (Provider(brighter=40), "engine of"),
        (Provider(forgetful=True), "a second session built other engines"),
        (Provider(keeps=False), "kept no engine"),
    ],
)
def test_engines_that_would_not_do_are_refused_and_nothing_changes(
    sources: Sources, provider: Provider, words: str
) -> None:
    folder = avatar(sources, "ann")
    good = build_engine(folder, MACHINE, rows=ROWS, open_session=Provider())
    before = (good.folder / RECORD_FILE).read_bytes()
    with pytest.raises(ExportError, match=words):
        build_engine(folder, MACHINE, rows=ROWS, force=True, open_session=provider)
    assert (good.folder / RECORD_FILE).read_bytes() == before
    good.record.check(good.folder)
    assert seen(good.folder.parent) == [good.folder.name]


def test_a_damaged_network_is_refused_before_anything_is_opened(sources: Sources) -> None:
    folder, provider = avatar(sources, "ann"), Provider()
    (folder / "network.onnx").write_bytes(b"not a network")
    with pytest.raises(ExportError, match=r"network\.onnx is damaged"):
        build_engine(folder, MACHINE, rows=ROWS, open_session=provider)
    assert provider.opened == []


@pytest.mark.skipif(
    "TensorrtExecutionProvider" in onnxruntime.get_available_providers(), reason="TensorRT is here"
)
def test_a_machine_without_a_gpu_builds_none() -> None:
    with pytest.raises(ExportError, match="no NVIDIA GPU"):
        this_machine()
