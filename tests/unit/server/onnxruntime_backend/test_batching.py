from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from server.onnxruntime_backend.batching import Answer, Batcher, Request, RequestFailedError, Tensors


class RefusedError(Exception):
    """What the network below raises."""


class Network:
    """DOUBLE = 2 X, NEGATIVE = -X; negative numbers are refused."""

    def __init__(self) -> None:
        self.runs: list[tuple[tuple[str, ...], tuple[int, ...]]] = []

    def __call__(self, wanted: Collection[str], inputs: Tensors) -> Tensors:
        x = inputs["X"]
        self.runs.append((tuple(sorted(wanted)), x.shape))
        if (x < 0).any():
            raise RefusedError("negative\nmore")
        outputs = {"DOUBLE": 2 * x, "NEGATIVE": -x}
        return {name: outputs[name] for name in wanted}


def batcher(network: Any, *, batched: bool = True) -> Batcher:
    return Batcher("net", network, batched=batched, errors=(RefusedError,))


def request(rows: int, width: int = 3, start: int = 0, wanted: str = "DOUBLE") -> Request:
    x = np.arange(start, start + rows * width, dtype=np.float32).reshape(rows, width)
    return Request({"X": x}, frozenset(wanted.split()))


def tensor(answer: Answer, name: str = "DOUBLE") -> NDArray[Any]:
    assert not isinstance(answer, RequestFailedError), answer
    return answer[name]


@given(
    st.lists(
        st.tuples(st.integers(1, 5), st.sampled_from([2, 3]), st.integers(0, 50)), min_size=1, max_size=8
    )
)
def test_every_request_gets_its_own_rows_in_order(shapes: list[tuple[int, int, int]]) -> None:
    network = Network()
    requests = [request(*shape) for shape in shapes]
    answers = batcher(network).answer(requests)
    for asked, answer in zip(requests, answers, strict=True):
        np.testing.assert_array_equal(tensor(answer), 2 * asked.inputs["X"])
    assert len(network.runs) == len({width for _, width, _ in shapes})


def test_one_request_is_not_copied() -> None:
    asked = request(4)
    seen: list[NDArray[Any]] = []

    def network(_wanted: Collection[str], inputs: Tensors) -> Tensors:
        seen.append(inputs["X"])
        return {"DOUBLE": inputs["X"]}

    batcher(network).answer([asked])
    assert seen[0] is asked.inputs["X"]


def test_only_the_outputs_that_somebody_wants_are_computed_and_each_gets_its_own() -> None:
    network = Network()
    first, second = batcher(network).answer(
        [request(1, wanted="DOUBLE"), request(2, wanted="DOUBLE NEGATIVE")]
    )
    assert isinstance(first, dict)
    assert isinstance(second, dict)
    assert (set(first), set(second)) == ({"DOUBLE"}, {"DOUBLE", "NEGATIVE"})
    batcher(network).answer([request(1, wanted="NEGATIVE")])
    assert network.runs[-1][0] == ("NEGATIVE",)


def test_one_bad_request_fails_alone(caplog: pytest.LogCaptureFixture) -> None:
    good, bad, other = request(2), request(1, start=-9), request(3, start=7)
    with caplog.at_level(logging.ERROR):
        answers = batcher(Network()).answer([good, bad, other])
    np.testing.assert_array_equal(tensor(answers[0]), 2 * good.inputs["X"])
    np.testing.assert_array_equal(tensor(answers[2]), 2 * other.inputs["X"])
    assert isinstance(answers[1], RequestFailedError)
    assert "negative" not in str(answers[1])
    reference = str(answers[1]).split("see ")[1].split()[0]
    assert reference in caplog.text
    assert "negative" in caplog.text


def test_different_batch_sizes_within_a_request_fail_alone_with_the_reason() -> None:
    crooked = Request(
        {"X": np.zeros((2, 3), np.float32), "OTHER": np.zeros((3, 3), np.float32)}, frozenset({"DOUBLE"})
    )
    straight = Request(
        {"X": np.ones((2, 3), np.float32), "OTHER": np.zeros((2, 3), np.float32)}, crooked.wanted
    )
    answers = batcher(Network()).answer([straight, crooked, straight])
    assert str(answers[1]) == "inputs of net have different batch sizes: X 2, OTHER 3"
    np.testing.assert_array_equal(tensor(answers[0]), 2)
    np.testing.assert_array_equal(tensor(answers[2]), 2)


def test_an_output_without_the_batchs_rows_is_an_error_not_a_wrong_answer() -> None:
    def constant(_wanted: Collection[str], _inputs: Tensors) -> Tensors:
        return {"DOUBLE": np.zeros((1, 3), np.float32)}

    one, two = batcher(constant).answer([request(1), request(2)])
    np.testing.assert_array_equal(tensor(one), np.zeros((1, 3)))
    assert str(two) == "output DOUBLE of net has shape [1, 3] for a batch of 2"


def test_without_a_batch_dimension_every_request_runs_alone() -> None:
    network = Network()
    answers = batcher(network, batched=False).answer([request(2), request(2), request(1, start=-5)])
    assert [shape for _, shape in network.runs] == [(2, 3), (2, 3), (1, 3)]
    assert [isinstance(answer, RequestFailedError) for answer in answers] == [False, False, True]


def test_a_defect_of_our_own_is_not_hidden() -> None:
    def broken(_wanted: Collection[str], _inputs: Tensors) -> Tensors:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        batcher(broken).answer([request(1)])
