from __future__ import annotations

import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from compositor_backend.contract import parse_avatar
from compositor_backend.errors import BusyError, DamagedAvatarError, PackError, SettingsError, TensorError
from tests.support import pb_utils
from tests.support.pb_utils import Logger, Request

Arrays = dict[str, NDArray[Any]]


@pytest.fixture
def triton() -> ModuleType:
    Logger.errors.clear()
    return pb_utils.import_bridge()


def double(inputs: Arrays, wanted: frozenset[str]) -> Arrays:
    assert wanted <= {"Y", "Z", "W"}
    if (inputs["X"] < 0).any():
        raise TensorError("X holds -1; numbers from 0 are wanted")
    return {"Y": inputs["X"] * 2, "Z": inputs["X"].T}


def make_request(*values: float, outputs: tuple[str, ...] = ("Y",)) -> Request:
    return Request({"X": np.array(values)}, outputs)


def fail_with(error: Exception) -> Any:
    def handle(inputs: Arrays, wanted: frozenset[str]) -> Arrays:
        raise error

    return handle


def test_each_request_gets_its_own_answer_in_order(triton: ModuleType) -> None:
    responses = triton.serve([make_request(n, n + 1) for n in range(5)], double)
    assert [response.arrays["Y"].tolist() for response in responses] == [[2 * n, 2 * n + 2] for n in range(5)]


def test_no_request_no_response(triton: ModuleType) -> None:
    assert triton.serve([], double) == []


@pytest.mark.parametrize("outputs", [(), ("Y",), ("Z",), ("Z", "Y")])
def test_only_what_is_asked_for_is_sent(triton: ModuleType, outputs: tuple[str, ...]) -> None:
    (response,) = triton.serve([make_request(1, outputs=outputs)], double)
    assert tuple(response.arrays) == outputs


def test_a_bad_request_fails_alone_with_its_sentence(triton: ModuleType) -> None:
    good, bad, other = triton.serve([make_request(1), make_request(-1), make_request(3)], double)
    assert good.arrays["Y"].tolist() == [2]
    assert other.arrays["Y"].tolist() == [6]
    assert bad.error.message() == "X holds -1; numbers from 0 are wanted"
    assert bad.error.code() == pb_utils.TritonError.INVALID_ARG
    assert not bad.output_tensors
    assert not Logger.errors


def test_a_tensor_that_is_missing_is_the_callers_mistake(triton: ModuleType) -> None:
    bad, good = triton.serve([Request({"AVATAR": np.zeros(1)}, ("Y",)), make_request(1)], double)
    assert bad.error.message() == "X is missing; every request must have it"
    assert bad.error.code() == pb_utils.TritonError.INVALID_ARG
    assert good.arrays["Y"].tolist() == [2]
    assert not Logger.errors


@pytest.mark.parametrize(
    "error",
    [KeyError("secret"), PackError("/secret/folder is damaged"), SettingsError("secret"), OSError("secret")],
)
def test_a_fault_of_the_server_is_logged_whole_and_answered_with_its_id(
    triton: ModuleType, error: Exception
) -> None:
    (response,) = triton.serve([make_request(1)], fail_with(error))
    (logged,) = Logger.errors
    message = response.error.message()
    assert response.error.code() == pb_utils.TritonError.INTERNAL
    assert "secret" not in message
    assert "\n" not in message
    assert type(error).__name__ in logged
    assert "secret" in logged
    assert "in handle" in logged  # the traceback, not only the text
    fault_id = message.split()[-1].rstrip(".")
    assert f"fault {fault_id}:" in logged


def test_a_damaged_avatar_is_answered_with_its_name_and_logged_with_the_file(triton: ModuleType) -> None:
    error = DamagedAvatarError("AVATAR 'may' is damaged on this server")
    error.__cause__ = PackError("/secret/avatar_may/faces.npy is damaged")
    (response,) = triton.serve([make_request(1)], fail_with(error))
    (logged,) = Logger.errors
    assert response.error.code() == pb_utils.TritonError.INTERNAL
    found = re.fullmatch(
        r"AVATAR 'may' is damaged on this server \(fault (\w{12})\); its log says what is wrong",
        response.error.message(),
    )
    assert found
    assert logged == f"fault {found[1]}: /secret/avatar_may/faces.npy is damaged"


def test_a_busy_server_is_unavailable(triton: ModuleType) -> None:
    (response,) = triton.serve([make_request(1)], fail_with(BusyError("too much; retry later")))
    assert response.error.code() == pb_utils.TritonError.UNAVAILABLE
    assert response.error.message() == "too much; retry later"


def test_a_request_may_be_answered_later(triton: ModuleType) -> None:
    request = make_request(1)
    exchange = triton.Exchange(request)
    given = exchange.inputs["X"]
    exchange.defer()
    assert not np.shares_memory(exchange.inputs["X"], given), "Triton's memory is gone by then"
    exchange.send(exchange.response({"Y": exchange.inputs["X"] * 2}))
    assert request.sent.get_nowait().arrays["Y"].tolist() == [2]
    assert not exchange.cancelled


def test_figures_are_told_by_what_they_have_come_to(triton: ModuleType) -> None:
    metrics = triton.Metrics({"model_name": "lipsync", "model_instance_name": "lipsync_0_0"})
    count, size = metrics.counter("loads", "Loads"), metrics.gauge("size", "Size")
    for value in (0, 2, 2, 5):
        count(value)
        size(10 - value)
    assert (pb_utils.MetricFamily.values["loads"], pb_utils.MetricFamily.values["size"]) == (5, 5)


def test_two_faults_have_two_ids(triton: ModuleType) -> None:
    first, second = triton.serve([make_request(1), make_request(1)], fail_with(ValueError()))
    assert first.error.message() != second.error.message()
    assert len(Logger.errors) == 2


def test_an_output_that_the_handler_lacks_is_a_fault_of_that_request_alone(triton: ModuleType) -> None:
    bad, good = triton.serve([make_request(1, outputs=("W",)), make_request(1)], double)
    assert bad.error.code() == pb_utils.TritonError.INTERNAL
    assert good.arrays["Y"].tolist() == [2]


def test_an_array_that_is_not_contiguous_is_sent_whole(triton: ModuleType) -> None:
    matrix = np.arange(6).reshape(2, 3)
    (response,) = triton.serve([Request({"X": matrix}, ("Z",))], double)
    np.testing.assert_array_equal(response.arrays["Z"], matrix.T)


def test_an_avatar_id_that_is_not_utf_8_reaches_the_check_as_bytes(triton: ModuleType) -> None:
    avatar = np.array([b"\xff\xfe"], object)
    (response,) = triton.serve(
        [Request({"AVATAR": avatar}, ("ID",))], lambda inputs, wanted: {"ID": parse_avatar(inputs["AVATAR"])}
    )
    assert response.error.message() == r"AVATAR b'\xff\xfe' is not UTF-8"


def test_bytes_keep_their_trailing_zeros(triton: ModuleType) -> None:
    jpeg = np.empty(1, object)
    jpeg[0] = b"\xff\xd8\0\0"
    (response,) = triton.serve([Request({}, ("JPEG",))], lambda inputs, wanted: {"JPEG": jpeg})
    assert response.arrays["JPEG"][0] == b"\xff\xd8\0\0"


def test_settings_come_from_the_environment_and_the_models_config(
    triton: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIPSTREAM_PACK_CACHE_MIB", "3")
    monkeypatch.delenv("LIPSTREAM_AVATARS", raising=False)
    config = {"name": "compositor", "parameters": {"avatars_folder": {"string_value": "/data"}}}
    args = {"model_config": json.dumps(config), "model_repository": "/srv/model_repository/compositor"}
    settings = triton.model_settings(args)
    assert settings.avatars_folder == Path("/data")
    assert settings.pack_cache_bytes == 3 * 1024 * 1024


def test_a_config_without_parameters_gives_the_defaults(
    triton: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LIPSTREAM_PACK_CACHE_MIB", raising=False)
    monkeypatch.delenv("LIPSTREAM_AVATARS", raising=False)
    args = {"model_config": "{}", "model_repository": "/srv/model_repository/compositor"}
    assert triton.model_settings(args).avatars_folder == Path("/srv/avatars")
