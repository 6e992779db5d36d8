from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from compositor_backend.errors import SettingsError
from compositor_backend.manifest import Manifest
from compositor_backend.pack import AvatarPack
from export.avatar import AvatarSettings, NetworkSource, build_avatar
from export.check import check_avatar
from export.demo import avatar as demo
from export.demo import presenter
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
    )
    build_avatar(
        settings, demo.PresenterFrames(count=2, workers=1), [presenter.face_box(i) for i in range(2)]
    )
    return folder


def test_a_copy_is_a_whole_avatar_with_a_network_of_its_own(avatars: Path, tmp_path: Path) -> None:
    copy = copy_avatar(avatars, "demo", tmp_path, "twin")
    assert copy == tmp_path / "twin"
    assert newer_than_their_checksums(tmp_path) == []
    check_avatar(copy)
    with AvatarPack(copy) as twin, AvatarPack(avatars / "demo") as original:
        twin.verify()
        assert twin.manifest.id == "twin"
        assert twin.manifest.network_key == original.manifest.network_key
        assert twin.manifest.graphs["network"].sha256 != original.manifest.graphs["network"].sha256
        assert twin.manifest.graphs["encoder"] == original.manifest.graphs["encoder"]
        np.testing.assert_array_equal(twin.faces, original.faces)
        assert twin.frame_jpeg(1) == original.frame_jpeg(1)


def test_a_copy_takes_the_place_of_the_last_one(avatars: Path, tmp_path: Path) -> None:
    copy_avatar(avatars, "demo", tmp_path, "twin")
    (tmp_path / "twin" / "stale").touch()
    copy_avatar(avatars, "demo", tmp_path, "twin")
    assert not (tmp_path / "twin" / "stale").exists()
    assert Manifest.load(tmp_path / "twin").id == "twin"
    assert not (tmp_path / "twin" / "network.onnx").samefile(avatars / "demo" / "network.onnx")


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no avatar demo in"):
        copy_avatar(tmp_path, "demo", tmp_path, "twin")
