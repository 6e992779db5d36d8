from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from compositor_backend.audio_features import AudioFeatures
from compositor_backend.errors import TensorError
from compositor_backend.windows import utterance_windows

ALL = frozenset({"MEL", "AVATAR_ROWS"})


def make_request(frames: int = 5) -> dict[str, NDArray[Any]]:
    samples = np.random.default_rng(0).standard_normal((22 + frames) * 640) * 3000
    return {
        "AVATAR": np.array([b"may"], object),
        "PCM": samples.astype(np.int16),
        "FRAME_INDEX": np.arange(frames, dtype=np.int32),
    }


def test_windows_are_those_of_the_utterance() -> None:
    speech = make_request(30)["PCM"]
    answer = AudioFeatures()({**make_request(), "PCM": speech[5 * 640 : 32 * 640]}, ALL)
    assert set(answer) == ALL
    assert answer["AVATAR_ROWS"].tolist() == [[b"may"]] * 20
    assert answer["MEL"].tobytes() == utterance_windows(speech)[15:35].tobytes()


def test_frame_numbers_do_not_matter_only_their_count() -> None:
    request = make_request()
    other = {**request, "FRAME_INDEX": np.array([9, 2**31 - 1, 0, 9, 9], np.int32)}
    features = AudioFeatures()
    assert features(other, ALL)["MEL"].tobytes() == features(request, ALL)["MEL"].tobytes()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"PCM": np.zeros(100, np.int16)}, r"PCM has shape \[100\]; \[17280\] is wanted for 5 frames"),
        ({"FRAME_INDEX": np.zeros(0, np.int32)}, "FRAME_INDEX has shape"),
        ({"FRAME_INDEX": np.arange(33, dtype=np.int32)}, "FRAME_INDEX has shape"),
        ({"FRAME_INDEX": np.arange(-1, 4, dtype=np.int32)}, "FRAME_INDEX holds -1"),
    ],
)
def test_what_breaks_the_contract_is_refused(change: dict[str, NDArray[Any]], reason: str) -> None:
    with pytest.raises(TensorError, match=reason):
        AudioFeatures()({**make_request(), **change}, ALL)
