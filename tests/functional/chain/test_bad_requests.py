"""What a caller does wrong: one sentence that names the tensor, and nobody else notices."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from compositor_backend import contract
from tests.functional.chain.conftest import Chain
from tests.functional.chain.wire import ask

pytestmark = pytest.mark.functional

Tensors = dict[str, NDArray[Any]]


def avatar(value: bytes) -> NDArray[Any]:
    return np.array([value], object)


def index(*values: int) -> NDArray[np.int32]:
    return np.array(values, np.int32)


def silence(frames: int) -> NDArray[np.int16]:
    return np.zeros(contract.pcm_samples(frames), np.int16)


GOOD: Tensors = {"AVATAR": avatar(b"demo"), "FRAME_INDEX": index(0, 1), "PCM": silence(2)}
AUDIO = np.zeros((2, 32, 16, 16), np.float32)
GOOD_FEATURES: Tensors = {"AVATAR": avatar(b"demo"), "FRAME_INDEX": index(0, 1), "AUDIO": AUDIO}


def poisoned(value: float) -> NDArray[np.float32]:
    audio = AUDIO.copy()
    audio[1, 3, 5, 7] = value
    return audio


SPEECH_CASES: dict[str, tuple[Tensors, str]] = {
    "unknown avatar": ({"AVATAR": avatar(b"nobody")}, "nobody"),
    "path": ({"AVATAR": avatar(b"../x")}, "AVATAR '../x' is not an avatar id"),
    "empty id": ({"AVATAR": avatar(b"")}, "AVATAR '' is not an avatar id"),
    "long id": ({"AVATAR": avatar(b"a" * 300)}, "300 long"),
    "not UTF-8": ({"AVATAR": avatar(b"\xff\xfe")}, "is not UTF-8"),
    "negative frame": ({"FRAME_INDEX": index(0, -1)}, "FRAME_INDEX holds -1"),
    "no frames": ({"FRAME_INDEX": index(), "PCM": silence(0)}, "FRAME_INDEX has shape [0]"),
    "33 frames": ({"FRAME_INDEX": index(*range(33)), "PCM": silence(33)}, "FRAME_INDEX has shape [33]"),
    "short PCM": ({"PCM": silence(2)[:-1]}, "PCM has shape [15359]; [15360] is wanted"),
    "PCM of more frames": ({"PCM": silence(3)}, "PCM has shape [16000]; [15360] is wanted"),
    "float PCM": ({"PCM": silence(2).astype(np.float32)}, "PCM"),
    "64 bit index": ({"FRAME_INDEX": np.array([0, 1], np.int64)}, "FRAME_INDEX"),
    "PCM of two channels": ({"PCM": silence(2).reshape(-1, 2)}, "PCM"),
}
FEATURE_CASES: dict[str, tuple[Tensors, str]] = {
    "NaN": ({"AUDIO": poisoned(np.nan)}, "AUDIO holds NaN or infinity"),
    "infinity": ({"AUDIO": poisoned(np.inf)}, "AUDIO holds NaN or infinity"),
    "frames and features differ": ({"FRAME_INDEX": index(0, 1, 2)}, "AUDIO has shape [2, 32, 16, 16]"),
    "features of another network": ({"AUDIO": np.zeros((2, 16, 32, 32), np.float32)}, "AUDIO"),
}


@pytest.mark.parametrize("case", SPEECH_CASES)
def test_bad_speech_requests(chain: Chain, case: str) -> None:
    changed, expected = SPEECH_CASES[case]
    assert expected in refusal(chain, "avatar", {**GOOD, **changed})
    assert len(ask(chain.url, "avatar", GOOD)["JPEG"]) == 2


@pytest.mark.parametrize("case", FEATURE_CASES)
def test_bad_feature_requests(chain: Chain, case: str) -> None:
    changed, expected = FEATURE_CASES[case]
    assert expected in refusal(chain, "avatar_from_features", {**GOOD_FEATURES, **changed})
    assert len(ask(chain.url, "avatar_from_features", GOOD_FEATURES)["JPEG"]) == 2


def refusal(chain: Chain, model: str, inputs: Tensors) -> str:
    """The server's answer: one line, without a traceback."""
    with pytest.raises(InferenceServerException) as caught:
        ask(chain.url, model, inputs)
    message = str(caught.value.message())
    assert "Traceback" not in message
    assert "\n" not in message.strip()
    return message


def test_neighbours_of_a_bad_request_get_their_frames(chain: Chain) -> None:
    expected = ask(chain.url, "avatar_from_features", GOOD_FEATURES)["JPEG"].tolist()
    answers: list[list[bytes]] = []
    refused: list[str] = []

    def good() -> None:
        answers.append(ask(chain.url, "avatar_from_features", GOOD_FEATURES)["JPEG"].tolist())

    def bad() -> None:
        refused.append(refusal(chain, "avatar_from_features", {**GOOD_FEATURES, "AUDIO": poisoned(np.nan)}))

    threads = [threading.Thread(target=bad if n % 3 == 1 else good) for n in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [expected] * 6
    assert len(refused) == 3
