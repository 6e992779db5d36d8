from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from compositor_backend.audio_windows import AudioWindows
from compositor_backend.errors import RequestError, TensorError
from compositor_backend.pack import BoxPack, PackCache
from tests.support.scenes import textured, write_avatar

ALL = frozenset({"AUDIO", "AVATAR_ROWS", "FRAME_INDEX_ROWS", "RECT"})
BOXES = [(10 + n, 10, 40 + n, 40) for n in range(3)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> AudioWindows:
    """The avatars `ann`, whose network takes embeddings, and `cat`, whose takes mel."""
    folder = tmp_path_factory.mktemp("avatars")
    frames = [textured(64, 48, seed) for seed in range(3)]
    write_avatar(folder, frames, BOXES)
    write_avatar(folder, frames, BOXES, "cat", family="wav2lip-96", audio_mode="mel", audio_shape=(1, 80, 16))
    return AudioWindows(PackCache(BoxPack, folder, 1 << 30))


def request(avatar: str = "ann", frames: int = 4, **tensors: NDArray[Any]) -> dict[str, NDArray[Any]]:
    return {
        "AVATAR": np.array([avatar.encode()], object),
        "FRAME_INDEX": np.arange(frames, dtype=np.int32),
        **tensors,
    }


def numbers(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_each_frame_gets_its_sixteen_embeddings(model: AudioWindows) -> None:
    embedding = numbers(19, 512)
    answer = model(request(EMBEDDING=embedding), ALL)
    for frame in range(4):
        expected = embedding[frame : frame + 16].reshape(32, 16, 16)
        np.testing.assert_array_equal(answer["AUDIO"][frame], expected)
    assert answer["AVATAR_ROWS"].tolist() == [[b"ann"]] * 4
    assert answer["FRAME_INDEX_ROWS"].tolist() == [[0], [1], [2], [3]]
    assert answer["RECT"].tolist() == [list(BOXES[n]) for n in (0, 1, 2, 1)]


def test_a_mel_network_gets_the_window_that_begins_with_its_frame(model: AudioWindows) -> None:
    windows = numbers(19, 1, 80, 16)
    answer = model(request("cat", EMBEDDING=windows.reshape(19, 1280)), ALL)
    np.testing.assert_array_equal(answer["AUDIO"], windows[9:13])


def test_ready_features_are_handed_on(model: AudioWindows) -> None:
    features = numbers(4, 32, 16, 16)
    np.testing.assert_array_equal(model(request(FEATURES=features), ALL)["AUDIO"], features)


@pytest.mark.parametrize(
    ("avatar", "tensors", "error"),
    [
        ("ann", {}, "none of them"),
        (
            "ann",
            {"EMBEDDING": numbers(19, 512), "FEATURES": numbers(4, 32, 16, 16)},
            "EMBEDDING and FEATURES",
        ),
        ("ann", {"EMBEDDING": numbers(18, 512)}, r"\[19, ·\]"),
        ("ann", {"EMBEDDING": numbers(19, 512).astype(np.float64)}, "float64"),
        ("ann", {"EMBEDDING": numbers(19, 512) * np.nan}, "NaN"),
        ("ann", {"FEATURES": numbers(4, 16, 32, 32)}, "AUDIO has shape"),
        ("ann", {"FEATURES": numbers(4, 32, 16, 16) * np.inf}, "NaN"),
        ("cat", {"EMBEDDING": numbers(19, 512)}, "1280"),
    ],
)
def test_what_breaks_the_contract_is_refused(
    model: AudioWindows, avatar: str, tensors: dict[str, NDArray[Any]], error: str
) -> None:
    with pytest.raises(TensorError, match=error):
        model({**request(avatar), **tensors}, ALL)


def test_an_unknown_avatar_is_named(model: AudioWindows, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="'bob'"):
        model(request("bob", EMBEDDING=numbers(19, 512)), ALL)
