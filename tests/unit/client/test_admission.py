"""When a stream may be expected to end."""

import pytest

from client import PoolFigures
from client._admission import Streams


def streams(now: int, *lengths_s: float) -> Streams:
    made = Streams(4, PoolFigures())
    for length_s in lengths_s:
        made.begin()
        made.end(length_s)
    for _ in range(now):
        made.begin()
    return made


@pytest.mark.parametrize(
    ("now", "lengths_s", "retry_after_s"),
    [
        (4, [], 10),
        (4, [20, 40, 60], 10),
        (1, [20, 40], 30),
        (0, [20, 40], 30),
        (4, [0.5], 1),
        (1, [3600], 60),
    ],
)
def test_the_next_end_is_a_mean_length_shared_by_those_that_run(
    now: int, lengths_s: list[float], retry_after_s: float
) -> None:
    assert streams(now, *lengths_s).retry_after_s == pytest.approx(retry_after_s)


def test_only_recent_ones_are_remembered() -> None:
    assert streams(1, *[3600.0] * 100, *[8.0] * 32).retry_after_s == 8


def test_what_came_to_nothing_is_no_length() -> None:
    made = streams(2, 20)
    made.end()
    assert made.retry_after_s == 20


def test_full() -> None:
    assert [streams(now).full for now in (3, 4)] == [False, True]
    assert not Streams(None, PoolFigures()).full
