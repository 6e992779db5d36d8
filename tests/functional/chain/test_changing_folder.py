"""Avatars that come, change and go while the server runs, what is none, and room for less than one network."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from compositor_backend.manifest import NETWORK, Manifest
from tests.functional.chain.conftest import Chain
from tests.functional.chain.wire import ask
from tests.support.triton import running_triton

pytestmark = pytest.mark.functional

FRAMES = 2
NOT_HERE = "is not on this server"
DAMAGED = "is damaged on this server"


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """A server whose folder of avatars is not there yet, with room for less than one network."""
    folder = tmp_path_factory.mktemp("changing") / "avatars"
    with running_triton(folder, networks_mib=1) as server:
        yield Chain(server, folder)


@pytest.fixture
def folder(chain: Chain) -> Iterator[Path]:
    """That folder, empty at the end."""
    chain.avatars.mkdir(exist_ok=True)
    yield chain.avatars
    shutil.rmtree(chain.avatars)


def put(source: Path, target: Path) -> None:
    """As an importer does: whole at once, in exchange for what is there."""
    stage = target.parent / f".staging-{target.name}"
    shutil.copytree(source, stage / "new")
    manifest = Manifest.load(stage / "new")
    dataclasses.replace(manifest, id=target.name).save(stage / "new")
    if target.exists():
        target.rename(stage / "old")
    (stage / "new").rename(target)
    shutil.rmtree(stage)


def frames(chain: Chain, avatar: str) -> list[bytes]:
    inputs = {
        "AVATAR": np.array([avatar.encode()], object),
        "FRAME_INDEX": np.arange(FRAMES, dtype=np.int32),
        "AUDIO": np.ones((FRAMES, 32, 16, 16), np.float32),
    }
    return list(ask(chain.url, "avatar_from_features", inputs)["JPEG"])


def refusal(chain: Chain, avatar: str) -> str:
    with pytest.raises(InferenceServerException) as caught:
        frames(chain, avatar)
    return str(caught.value.message())


def catalog(chain: Chain) -> list[str]:
    rows = ask(chain.url, "catalog", {"OFFSET": np.array([0], np.int32)}, ("MANIFEST",))["MANIFEST"]
    return [json.loads(row)["id"] for row in rows]


def test_avatars_appear_change_and_disappear(chain: Chain, avatars: Path, folder: Path) -> None:
    assert catalog(chain) == []
    assert NOT_HERE in refusal(chain, "ann")
    put(avatars / "demo", folder / "ann")
    assert catalog(chain) == ["ann"]
    first = frames(chain, "ann")
    put(avatars / "other", folder / "ann")
    assert frames(chain, "ann") != first
    put(avatars / "demo", folder / "ann")
    assert frames(chain, "ann") == first
    shutil.rmtree(folder / "ann")
    assert NOT_HERE in refusal(chain, "ann")
    assert catalog(chain) == []


def test_more_networks_than_there_is_room_for_take_turns(chain: Chain, avatars: Path, folder: Path) -> None:
    for name in ("demo", "other"):
        put(avatars / name, folder / name)
    assert (folder / "demo" / "network.onnx").stat().st_size > 1 << 20
    alone = {name: frames(chain, name) for name in ("demo", "other")}
    for name in ("demo", "other", "other", "demo"):
        assert frames(chain, name) == alone[name]


def test_what_is_no_avatar_is_refused_and_left_out(chain: Chain, avatars: Path, folder: Path) -> None:
    put(avatars / "demo", folder / "good")
    (folder / "empty").mkdir()
    (folder / "file").write_text("no avatar")
    put(avatars / "demo", folder / "nameless")
    shutil.copyfile(folder / "good" / "avatar.json", folder / "nameless" / "avatar.json")
    put(avatars / "demo", folder / "rubbish")
    (folder / "rubbish" / "avatar.json").write_text("{")
    for name in ("empty", "file"):
        assert NOT_HERE in refusal(chain, name) or DAMAGED in refusal(chain, name)
    for name in ("nameless", "rubbish"):
        assert DAMAGED in refusal(chain, name)
    assert catalog(chain) == ["good"]
    assert len(frames(chain, "good")) == FRAMES


def test_a_network_that_is_not_the_manifests_is_refused(chain: Chain, avatars: Path, folder: Path) -> None:
    for name in ("demo", "other"):
        put(avatars / name, folder / name)
    good = frames(chain, "other")
    manifest = Manifest.load(folder / "demo")
    entry = dataclasses.replace(manifest.graphs[NETWORK], sha256="ab" * 32)
    dataclasses.replace(manifest, graphs={**manifest.graphs, NETWORK: entry}).save(folder / "demo")
    assert DAMAGED in refusal(chain, "demo")
    assert frames(chain, "other") == good
    put(avatars / "demo", folder / "demo")
    assert len(frames(chain, "demo")) == FRAMES
