import numpy as np
import pytest

from client import Frame, ServerFaultError, SessionError
from client._requests import FrameRequest
from client._speech import Chunk
from compositor_backend import contract
from tests.unit.client.speaker import noise


def request(frames: int = 3, *, start: int = 5, base: int = 100, rects: bool = False) -> FrameRequest:
    return FrameRequest("demo", Chunk(start, frames, noise(contract.pcm_samples(frames))), base, rects)


def test_the_tensors_pass_the_servers_own_checks() -> None:
    inputs = request().inputs()
    assert set(inputs) == {tensor.name for tensor in contract.AVATAR_ENSEMBLE.inputs}
    assert contract.parse_avatar(inputs["AVATAR"]) == "demo"
    assert contract.check_frame_index(inputs["FRAME_INDEX"]).tolist() == [105, 106, 107]
    contract.check_pcm(inputs["PCM"], 3)


def test_face_boxes_are_asked_for_only_if_wanted() -> None:
    assert request().outputs == ["JPEG"]
    assert request(rects=True).outputs == ["JPEG", "RECT"]


def test_frames_know_their_place_on_the_timeline_and_in_the_utterance() -> None:
    answer = {
        "JPEG": np.array([b"a", b"b\0"], dtype=object),
        "RECT": np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.int32),
    }
    assert request(2, rects=True).frames(answer, "h:1") == [
        Frame(105, 0.2, b"a", (1, 2, 3, 4)),
        Frame(106, 0.24, b"b\0", (5, 6, 7, 8)),
    ]


def test_an_answer_of_the_wrong_number_of_frames_is_the_servers_fault() -> None:
    with pytest.raises(ServerFaultError, match=r"h:1 sent 1 in JPEG .* 3 frames were asked for"):
        request().frames({"JPEG": np.array([b"a"], dtype=object)}, "h:1")


def test_the_timeline_ends_where_int32_ends() -> None:
    request(3, start=0, base=2**31 - 3)
    with pytest.raises(SessionError, match="timeline ends at frame 2147483647"):
        request(3, start=0, base=2**31 - 2)
