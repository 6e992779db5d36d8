from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from compositor_backend.avatar_frames import AvatarFrames
from compositor_backend.errors import AvatarIdError, RequestError, TensorError, UnknownAvatarError
from compositor_backend.settings import Settings
from export.pack_writer import PackSettings, write_pack

Arrays = dict[str, NDArray[Any]]
FRAMES = 4
AVE = (32, 16, 16)
HUBERT = (16, 32, 32)


def write_avatar(avatars: Path, avatar_id: str, family: str, audio_shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(len(avatar_id))
    frames = rng.integers(0, 256, (FRAMES, 64, 96, 3), dtype=np.uint8)
    settings = PackSettings(avatar_id, family, "test", audio_shape, "demo", f"lipsync_{avatar_id}", 7)
    write_pack(avatars / f"avatar_{avatar_id}", settings, [(frame, (20, 10, 60, 50)) for frame in frames])


@pytest.fixture(scope="module")
def avatars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("avatars")
    write_avatar(folder, "ann", "328", AVE)
    write_avatar(folder, "hugo", "160", HUBERT)
    write_avatar(folder, "mel", "wav2lip-96", (1, 80, 16))
    return folder


@pytest.fixture
def model(avatars: Path) -> AvatarFrames:
    return AvatarFrames.from_settings(Settings(avatars))


def name_avatar(value: bytes) -> NDArray[Any]:
    tensor = np.empty(1, object)
    tensor[0] = value
    return tensor


def make_request(avatar: bytes = b"ann", positions: tuple[int, ...] = (0, 1, 2), **more: Any) -> Arrays:
    return {"AVATAR": name_avatar(avatar), "FRAME_INDEX": np.array(positions, np.int32), **more}


def make_embedding(frames: int = 3) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((frames + 15, 512)).astype(np.float32)


def make_windows(frames: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(0)
    return rng.uniform(-4, 4, (frames + 15, 1, 80, 16)).astype(np.float32)


def test_face_is_that_of_each_folded_frame(model: AvatarFrames, avatars: Path) -> None:
    positions = (0, 3, 4, 5, 6, 2**31 - 1, 1)
    face = model(make_request(positions=positions, EMBEDDING=make_embedding(7)))["FACE"]
    faces = np.load(avatars / "avatar_ann" / "faces.npy")
    assert face.dtype == np.uint8
    assert face.shape == (7, 3, 320, 320)
    for row, template in zip(face, (0, 3, 2, 1, 0, 1, 1), strict=True):  # period 6; 2^31 - 1 is 1 modulo 6
        np.testing.assert_array_equal(row, faces[template])


def test_audio_is_16_embeddings_for_each_frame(model: AvatarFrames) -> None:
    embedding = make_embedding()
    audio = model(make_request(EMBEDDING=embedding))["AUDIO"]
    assert audio.shape == (3, *AVE)
    for frame in range(3):
        np.testing.assert_array_equal(audio[frame].ravel(), embedding[frame : frame + 16].ravel())


@pytest.mark.parametrize(("avatar", "shape", "size_px"), [(b"ann", AVE, 320), (b"hugo", HUBERT, 160)])
def test_ready_features_pass_through_in_the_networks_own_shape(
    model: AvatarFrames, avatar: bytes, shape: tuple[int, ...], size_px: int
) -> None:
    features = np.random.default_rng(1).standard_normal((3, *shape)).astype(np.float32)
    outputs = model(make_request(avatar, FEATURES=features))
    np.testing.assert_array_equal(outputs["AUDIO"], features)
    assert outputs["FACE"].shape == (3, 3, size_px, size_px)


def test_a_network_of_mel_hears_the_window_that_begins_with_the_frame(model: AvatarFrames) -> None:
    windows = make_windows(3)
    outputs = model(make_request(b"mel", MEL=windows))
    np.testing.assert_array_equal(outputs["AUDIO"], windows[9:12])
    assert outputs["FACE"].shape == (3, 3, 96, 96)
    features = model(make_request(b"mel", FEATURES=windows[9:12]))
    np.testing.assert_array_equal(features["AUDIO"], windows[9:12])
    with pytest.raises(TensorError, match=r"EMBEDDING .*\[1, 80, 16\]"):
        model(make_request(b"mel", EMBEDDING=make_embedding()))


def test_avatars_do_not_mix(model: AvatarFrames) -> None:
    """Requests of several avatars go through one process in any order."""
    embedding, features = make_embedding(), np.zeros((3, *HUBERT), np.float32)
    first = model(make_request(EMBEDDING=embedding))["FACE"].tobytes()
    model(make_request(b"hugo", FEATURES=features))
    assert model(make_request(EMBEDDING=embedding))["FACE"].tobytes() == first


def test_the_answer_is_the_callers_to_keep(model: AvatarFrames, avatars: Path) -> None:
    face = model(make_request(EMBEDDING=make_embedding()))["FACE"]
    before = face.copy()
    model(make_request(positions=(3, 3, 3), EMBEDDING=make_embedding()))
    np.testing.assert_array_equal(face, before)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, "EMBEDDING, FEATURES and MEL: none came; exactly one of them is wanted"),
        (
            {"EMBEDDING": make_embedding(), "FEATURES": np.zeros((3, *AVE), np.float32)},
            "FEATURES and MEL: EMBEDDING and FEATURES came; exactly one of them is wanted",
        ),
        ({"MEL": make_windows(4)}, r"MEL has shape \[19, 1, 80, 16\]; \[18, 1, 80, 16\] is wanted"),
        ({"MEL": make_windows(3) * np.float32(np.nan)}, "MEL holds NaN or infinity"),
        ({"MEL": make_windows(3)}, r"network takes \[32, 16, 16\]: it wants embeddings or ready"),
        (
            {"EMBEDDING": make_embedding(4)},
            r"EMBEDDING has shape \[19, 512\]; \[18, 512\] is wanted for 3 frames",
        ),
        ({"EMBEDDING": np.full((18, 512), np.nan, np.float32)}, "EMBEDDING holds NaN or infinity"),
        (
            {"FEATURES": np.zeros((2, *AVE), np.float32)},
            r"AUDIO has shape .*; \[3, 32, 16, 16\] is wanted",
        ),
        (
            {"FEATURES": np.zeros((3, *HUBERT), np.float32)},
            r"AUDIO has shape .*; \[3, 32, 16, 16\] is wanted",
        ),
        ({"FEATURES": np.full((3, *AVE), np.inf, np.float32)}, "AUDIO holds NaN or infinity"),
        (
            {"FRAME_INDEX": np.array([0, -5], np.int32), "EMBEDDING": make_embedding()},
            "FRAME_INDEX holds -5",
        ),
        (
            {"FRAME_INDEX": np.zeros(0, np.int32), "EMBEDDING": make_embedding()},
            r"FRAME_INDEX has shape \[0\]",
        ),
        (
            {"FRAME_INDEX": np.zeros(33, np.int32), "EMBEDDING": make_embedding()},
            r"FRAME_INDEX has shape \[33\]",
        ),
    ],
)
def test_what_breaks_the_contract_is_refused(model: AvatarFrames, change: Arrays, reason: str) -> None:
    with pytest.raises(TensorError, match=reason):
        model({**make_request(), **change})


def test_embeddings_for_a_network_that_wants_other_features_are_refused(model: AvatarFrames) -> None:
    with pytest.raises(TensorError, match=r"EMBEDDING .*\[16, 32, 32\].*ready audio features"):
        model(make_request(b"hugo", EMBEDDING=make_embedding()))


@pytest.mark.parametrize("avatar", [b"../ann", b"", b"a" * 300, b"\xff\xfe", b"ann\n", b"ANN"])
def test_what_is_no_avatar_id_is_refused(model: AvatarFrames, avatar: bytes) -> None:
    with pytest.raises(AvatarIdError, match=r"^AVATAR .*"):
        model(make_request(avatar, EMBEDDING=make_embedding()))


def test_an_unknown_avatar_is_named(model: AvatarFrames) -> None:
    with pytest.raises(UnknownAvatarError, match="'bob'"):
        model(make_request(b"bob", EMBEDDING=make_embedding()))


def test_a_refused_request_leaves_the_model_serving(model: AvatarFrames) -> None:
    with pytest.raises(RequestError):
        model(make_request(b"bob"))
    assert set(model(make_request(EMBEDDING=make_embedding()))) == {"FACE", "AUDIO"}
