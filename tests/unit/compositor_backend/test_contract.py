from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compositor_backend import contract
from compositor_backend.errors import AvatarIdError, TensorError

BAD_IDS = ["", "../x", "a/b", "A", "é", "-a", "_a", "a b", "a\n", "a.b", "a\0", "a" * 65, "x" * 300]
GOOD_IDS = ["a", "0", "demo", "a-b_c", "0" * 64]


def avatar_tensor(value: bytes) -> Any:
    tensor = np.empty(1, object)
    tensor[0] = value
    return tensor


def test_the_numbers_of_the_wire_contract() -> None:
    assert contract.SAMPLES_PER_FRAME == 640
    assert contract.WINDOWS_PER_FRAME == 16
    assert contract.MAX_WINDOWS == 47
    assert contract.pcm_samples(1) == 23 * 640
    assert contract.pcm_samples(32) == 54 * 640


def test_ensembles_take_and_give_what_clients_depend_on() -> None:
    ensemble = contract.AVATAR_ENSEMBLE
    assert ensemble.name == "avatar"
    assert [(t.name, t.dtype, t.shape) for t in ensemble.inputs] == [
        ("AVATAR", "BYTES", (1,)),
        ("FRAME_INDEX", "INT32", (-1,)),
        ("PCM", "INT16", (-1,)),
    ]
    assert [(t.name, t.dtype, t.shape) for t in ensemble.outputs] == [
        ("JPEG", "BYTES", (-1,)),
        ("RECT", "INT32", (-1, 4)),
        ("REGION", "BYTES", (-1,)),
        ("REGION_RECT", "INT32", (-1, 4)),
    ]
    features = contract.FEATURES_ENSEMBLE
    assert features.name == "avatar_from_features"
    assert features.inputs[2] == contract.AUDIO
    assert features.outputs == ensemble.outputs == contract.IDLE_FRAMES_MODEL.outputs


def test_rows_are_of_one_avatar() -> None:
    assert contract.parse_avatar_rows(contract.repeat_avatar("may", 3), 3) == "may"
    mixed = contract.repeat_avatar("may", 3)
    mixed[1] = b"bob"
    with pytest.raises(TensorError, match="different ids"):
        contract.parse_avatar_rows(mixed, 3)
    with pytest.raises(TensorError, match=r"expected AVATAR \[4, 1\], got \[3, 1\]"):
        contract.parse_avatar_rows(contract.repeat_avatar("may", 3), 4)
    with pytest.raises(AvatarIdError):
        contract.parse_avatar_rows(contract.repeat_avatar("../x", 1), 1)


def test_types_are_named_as_configs_name_them() -> None:
    assert contract.AVATAR.config_dtype == "TYPE_STRING"
    assert contract.PCM.config_dtype == "TYPE_INT16"


@pytest.mark.parametrize("value", GOOD_IDS)
def test_ids_that_match_are_taken(value: str) -> None:
    assert contract.parse_avatar(avatar_tensor(value.encode())) == value


@pytest.mark.parametrize("value", BAD_IDS)
def test_ids_that_do_not_match_are_refused_in_one_short_sentence(value: str) -> None:
    with pytest.raises(AvatarIdError, match=r"^AVATAR .* is not an avatar id: expected ") as error:
        contract.parse_avatar(avatar_tensor(value.encode()))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("value", [b"\xff", b"demo\xc3", b"\xed\xa0\x80", b"\xff" * 300])
def test_an_id_that_is_not_utf_8_is_refused(value: bytes) -> None:
    with pytest.raises(AvatarIdError, match="is not UTF-8") as error:
        contract.parse_avatar(avatar_tensor(value))
    assert len(str(error.value)) < 300


@given(st.text())
def test_an_id_that_is_taken_is_safe_in_a_path(value: str) -> None:
    try:
        taken = contract.check_avatar_id(value)
    except AvatarIdError:
        return
    assert taken == value
    assert not set(value) & set("/\\.\0 ")


@pytest.mark.parametrize("shape", [(0,), (2,), (), (1, 1)])
def test_avatar_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(TensorError, match=r"AVATAR has shape .*; \[1\] is wanted"):
        contract.parse_avatar(np.full(shape, b"demo", object))


@pytest.mark.parametrize("values", [[0], [2**31 - 1], list(range(32)), [5, 3, 5]])
def test_frame_numbers_that_are_taken(values: list[int]) -> None:
    tensor = np.array(values, np.int32)
    assert contract.check_frame_index(tensor) is tensor


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        (np.zeros(0, np.int32), r"FRAME_INDEX has shape \[0\]"),
        (np.zeros(33, np.int32), r"FRAME_INDEX has shape \[33\]"),
        (np.zeros((1, 1), np.int32), r"FRAME_INDEX has shape \[1, 1\]"),
        (np.array([3, -1], np.int32), "FRAME_INDEX holds -1"),
        (np.zeros(1, np.int64), "FRAME_INDEX is int64; int32 is wanted"),
    ],
)
def test_frame_numbers_that_are_refused(tensor: Any, reason: str) -> None:
    with pytest.raises(TensorError, match=reason):
        contract.check_frame_index(tensor)


def test_pcm_of_the_right_length_is_taken() -> None:
    tensor = np.zeros(27 * 640, np.int16)
    assert contract.check_pcm(tensor, 5) is tensor


@pytest.mark.parametrize("samples", [0, 1, 27 * 640 - 1, 27 * 640 + 1])
def test_pcm_of_another_length_is_refused_with_the_sum(samples: int) -> None:
    with pytest.raises(TensorError, match=r"\[17280\] is wanted for 5 frames: \(10 \+ 5 \+ 12\) x 640"):
        contract.check_pcm(np.zeros(samples, np.int16), 5)


def test_pcm_of_another_type_is_refused() -> None:
    with pytest.raises(TensorError, match="PCM is float32; int16 is wanted"):
        contract.check_pcm(np.zeros(27 * 640, np.float32), 5)


def test_features_are_taken_as_they_are() -> None:
    tensor = np.ones((2, 32, 16, 16), np.float32)
    assert contract.check_audio(tensor, 2, (32, 16, 16)) is tensor


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_no_number_is_enough(value: float) -> None:
    tensor = np.zeros((2, 32, 16, 16), np.float32)
    tensor[1, 31, 15, 15] = value
    with pytest.raises(TensorError, match="AUDIO holds NaN or infinity"):
        contract.check_audio(tensor, 2, (32, 16, 16))


@pytest.mark.parametrize("shape", [(1, 32, 16, 16), (2, 16, 32, 32), (2, 8192)])
def test_features_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(TensorError, match=r"AUDIO has shape .*; \[2, 32, 16, 16\] is wanted"):
        contract.check_audio(np.zeros(shape, np.float32), 2, (32, 16, 16))


def test_features_of_another_type_are_refused() -> None:
    with pytest.raises(TensorError, match="AUDIO is float16; float32 is wanted"):
        contract.check_audio(np.zeros((2, 32, 16, 16), np.float16), 2, (32, 16, 16))


@given(st.binary())
def test_avatar_key_is_the_head_of_the_digest_and_fits_the_tensor(content: bytes) -> None:
    digest = hashlib.sha256(content)
    key = contract.avatar_key(digest.hexdigest())
    assert key == np.frombuffer(digest.digest()[:8], ">i8")[0]
    assert np.array([key], np.int64)[0] == key
