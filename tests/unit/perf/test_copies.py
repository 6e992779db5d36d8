from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from compositor_backend.errors import SettingsError
from compositor_backend.manifest import Manifest
from compositor_backend.pack import AvatarPack
from export.avatar import AvatarSettings, NetworkSource, build_avatar
from export.demo import avatar as demo
from export.demo import presenter
from export.model_configs import read_config
from perf.copies import copy_avatar
from tests.support.write_order import newer_than_their_checksums


@pytest.fixture(scope="module")
def avatars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("avatars")
    settings = AvatarSettings(
        avatar_id="demo",
        avatars=folder,
        network=NetworkSource(demo.WEIGHTS / demo.UNET_FILE),
        encoder=demo.WEIGHTS / demo.ENCODER_FILE,
        encoder_name="demo",
    )
    build_avatar(
        settings, demo.PresenterFrames(count=2, workers=1), [presenter.face_box(i) for i in range(2)]
    )
    return folder


def test_a_copy_is_a_whole_avatar_of_its_own(avatars: Path, tmp_path: Path) -> None:
    files = copy_avatar(avatars, "demo", tmp_path, "twin")
    assert newer_than_their_checksums(tmp_path) == []
    with AvatarPack(tmp_path / "avatar_twin") as twin, AvatarPack(avatars / "avatar_demo") as original:
        twin.verify()
        assert (twin.manifest.id, twin.manifest.network) == ("twin", "lipsync_twin")
        assert twin.manifest.network_key == original.manifest.network_key
        np.testing.assert_array_equal(twin.faces, original.faces)
        assert twin.frame_jpeg(1) == original.frame_jpeg(1)
    assert set(files) == {*tmp_path.glob("avatar_twin/*.npy"), *tmp_path.glob("*/1/model.onnx")}
    for model in ("lipsync", "avatar", "features"):
        config = read_config(tmp_path / f"{model}_twin" / "config.pbtxt")
        steps = [step.model_name for step in config.ensemble_scheduling.step]
        assert config.name == f"{model}_twin"
        assert ("lipsync_twin" in steps) == (model != "lipsync")
    assert read_config(tmp_path / "lipsync_twin/configs/embedded.pbtxt").name == "lipsync_twin"
    assert (tmp_path / "audio_encoder_demo/config.pbtxt").is_file()


def test_a_copy_takes_the_place_of_the_last_one_and_shares_no_file(avatars: Path, tmp_path: Path) -> None:
    copy_avatar(avatars, "demo", tmp_path, "twin")
    (tmp_path / "avatar_twin" / "stale").touch()
    copy_avatar(avatars, "demo", tmp_path, "twin")
    assert not (tmp_path / "avatar_twin" / "stale").exists()
    assert Manifest.load(tmp_path / "avatar_twin").id == "twin"
    for name in ("avatar_{}/faces.npy", "lipsync_{}/1/model.onnx"):
        assert not (tmp_path / name.format("twin")).samefile(avatars / name.format("demo"))


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no avatar demo in"):
        copy_avatar(tmp_path, "demo", tmp_path, "twin")
