from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from compositor_backend.compositor import compose
from compositor_backend.manifest import Manifest
from compositor_backend.pack import AvatarPack
from compositor_backend.windows import utterance_windows
from export.avatar import MODEL_FILE, NetworkSource, build_avatar
from export.check import check_avatars
from export.errors import ExportError
from export.frames import open_frames
from export.model_configs import read_config
from export.networks.families import MEL_MODE
from export.shared_network import SHARED_FILE
from tests.support.avatar_sources import BOXES, Sources, drawn_mouth, network_graph

WAV2LIP = "lipsync_wav2lip-96"


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    """Those of a Wav2Lip network, as a graph of the contract."""
    sources = Sources.write(tmp_path / "sources")
    onnx.save(network_graph(5, 96, MEL_MODE.shape), str(sources.network))
    return sources


def build(sources: Sources, avatar_id: str = "ann", **changes: Any) -> Path:
    """An avatar without an audio encoder."""
    without = {"encoder": None, "encoder_name": None}
    return build_avatar(
        sources.settings(avatar_id, **(without | changes)), open_frames(sources.frames), BOXES
    )


def another(
    path: Path, key: int = 6, size_px: int = 96, shape: tuple[int, ...] = MEL_MODE.shape
) -> NetworkSource:
    onnx.save(network_graph(key, size_px, shape), str(path))
    return NetworkSource(path)


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def complaints(avatars: Path) -> list[tuple[str, str]]:
    return [(f.part, f.text) for f in check_avatars(avatars) if not f.good]


def test_avatars_share_a_network_that_draws_any_face(sources: Sources) -> None:
    build(sources)
    before = contents(sources.avatars / WAV2LIP)
    build(sources, "bob")
    build(sources, replace=True)
    assert contents(sources.avatars / WAV2LIP) == before
    assert {path.name for path in sources.avatars.glob("lipsync_*")} == {WAV2LIP}
    for avatar_id in ("ann", "bob"):
        manifest = Manifest.load(sources.avatars / f"avatar_{avatar_id}")
        assert (manifest.network, manifest.network_key) == (WAV2LIP, 5)
        assert (manifest.family, manifest.audio_mode, manifest.encoder) == ("wav2lip-96", "mel", None)
    assert complaints(sources.avatars) == []


def test_speech_goes_to_the_network_without_an_encoder(sources: Sources) -> None:
    config = read_config(build(sources) / "config.pbtxt")
    steps = {step.model_name: dict(step.input_map) for step in config.ensemble_scheduling.step}
    assert list(steps) == ["audio_features", "avatar_frames", WAV2LIP, "compositor"]
    assert set(steps["avatar_frames"]) == {"AVATAR", "FRAME_INDEX", "MEL"}
    features = read_config(sources.avatars / "features_ann" / "config.pbtxt")
    (audio,) = (tensor for tensor in features.input if tensor.name == "AUDIO")
    assert list(audio.dims) == [-1, 1, 80, 16]


def test_idle_frames_are_drawn_to_the_mel_of_silence(sources: Sources) -> None:
    silence = utterance_windows(np.zeros(640 * 4, np.int16))[9:13]
    with AvatarPack(build(sources)) as pack:
        mouths, keys = drawn_mouth(pack.faces, silence), np.full((4, 1), 5, np.int64)
        assert [pack.idle_jpeg(n) for n in range(4)] == compose(pack, np.arange(4), mouths, keys)


def test_another_network_needs_another_name(sources: Sources, tmp_path: Path) -> None:
    build(sources)
    other = another(tmp_path / "other.onnx")
    before = contents(sources.avatars)
    for replace in (False, True):
        with pytest.raises(ExportError, match=r"holds another network .* of its own \(--network-name\)"):
            build(sources, "bob", network=other, replace=replace)
    assert contents(sources.avatars) == before
    build(sources, "bob", network=other, network_name="second")
    assert Manifest.load(sources.avatars / "avatar_bob").network == "lipsync_second"
    assert Manifest.load(sources.avatars / "avatar_ann").network_key == 5
    assert complaints(sources.avatars) == []


def test_networks_of_other_families_are_shared_by_name(sources: Sources, tmp_path: Path) -> None:
    face = another(tmp_path / "face.onnx", 8, 160, (16, 32, 32))
    for avatar_id in ("ann", "bob"):
        build(sources, avatar_id, network=face, network_name="studio")
    build(sources, "eve", network=face)
    names = {a: Manifest.load(sources.avatars / f"avatar_{a}").network for a in ("ann", "bob", "eve")}
    assert names == {"ann": "lipsync_studio", "bob": "lipsync_studio", "eve": "lipsync_eve"}
    assert complaints(sources.avatars) == []


@pytest.mark.parametrize("replace", [False, True])
def test_ids_and_names_of_shared_networks_do_not_meet(
    sources: Sources, tmp_path: Path, replace: bool
) -> None:
    face = another(tmp_path / "face.onnx", 8, 160, (16, 32, 32))
    with pytest.raises(ExportError, match="wav2lip-96 is the name of the network that avatars share"):
        build(sources, "wav2lip-96", replace=replace)
    build(sources)
    build(sources, "eve", network=face)
    before = contents(sources.avatars)
    with pytest.raises(ExportError, match="is a network that avatars share; give this avatar another id"):
        build(sources, "wav2lip-96", network=face, replace=replace)
    for name in ("ann", "eve"):
        with pytest.raises(
            ExportError, match=f"belongs to the avatar {name}; give the shared network a name"
        ):
            build(sources, "bob", network_name=name, replace=replace)
    assert contents(sources.avatars) == before


def test_an_avatar_that_comes_to_share_a_network_leaves_none_behind(sources: Sources, tmp_path: Path) -> None:
    build(sources, network=another(tmp_path / "face.onnx", 8, 160, (16, 32, 32)))
    build(sources, replace=True)
    assert {path.name for path in sources.avatars.glob("lipsync_*")} == {WAV2LIP}
    assert complaints(sources.avatars) == []


def test_an_encoder_is_of_no_use_to_a_network_that_hears_mel(sources: Sources) -> None:
    with pytest.raises(ExportError, match="hears mel windows without an audio encoder: leave it out"):
        build(sources, encoder=sources.encoder)
    assert not list(sources.avatars.glob("[!.]*"))


@pytest.mark.parametrize("name", ["A", "../x", "", "-a", "a" * 65])
def test_a_name_that_is_none_is_refused(sources: Sources, name: str) -> None:
    with pytest.raises(ExportError, match="the network's name is"):
        build(sources, network_name=name)


def test_a_check_misses_a_shared_network(sources: Sources) -> None:
    build(sources)
    shutil.rmtree(sources.avatars / WAV2LIP)
    parts = dict(complaints(sources.avatars))
    assert "model.onnx is not there" in parts["network"]
    assert set(parts) == {"network", "ensembles"}


def test_a_check_wants_the_mark_that_protects_a_shared_network(sources: Sources) -> None:
    build(sources)
    (sources.avatars / WAV2LIP / SHARED_FILE).unlink()
    assert f"has no {SHARED_FILE}" in dict(complaints(sources.avatars))["network"]


def test_a_shared_network_without_avatars_is_no_leftover(sources: Sources) -> None:
    build(sources)
    build(sources, "bob", network_name="second")
    for name in ("avatar_bob", "features_bob"):
        shutil.rmtree(sources.avatars / name)
    assert complaints(sources.avatars) == []


def test_a_network_of_the_same_name_that_came_meanwhile_stays(
    sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two first imports at once: both have staged the network, and one appears."""

    def while_frames_are_written(*arguments: Any) -> Any:
        monkeypatch.undo()
        build(sources, "bob", network=other)
        return write_pack(*arguments)

    from export.avatar import write_pack

    for other in (another(tmp_path / "other.onnx"), NetworkSource(sources.network)):
        shutil.rmtree(sources.avatars, ignore_errors=True)
        monkeypatch.setattr("export.avatar.write_pack", while_frames_are_written)
        if other.path == sources.network:
            build(sources)
            assert Manifest.load(sources.avatars / "avatar_ann").network == WAV2LIP
        else:
            with pytest.raises(ExportError, match="holds another network"):
                build(sources)
            assert not (sources.avatars / "avatar_ann").exists()
        assert complaints(sources.avatars) == []
        assert (sources.avatars / WAV2LIP / MODEL_FILE).read_bytes() == other.path.read_bytes()
