from __future__ import annotations

from itertools import cycle, islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compositor_backend.timeline import template_frames

LARGEST = 2**31 - 1


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 250])
def test_walks_to_the_end_and_back_for_ever(count: int) -> None:
    one_round = [*range(count), *range(count - 2, 0, -1)]
    wanted = list(islice(cycle(one_round), 2000))
    assert template_frames(np.arange(2000, dtype=np.int32), count).tolist() == wanted


@given(index=st.integers(0, LARGEST), count=st.integers(1, LARGEST))
def test_any_position_folds_into_the_template(index: int, count: int) -> None:
    (frame,) = template_frames(np.array([index], np.int32), count)
    laps, rest = divmod(index, count - 1) if count > 1 else (0, 0)
    assert frame == (rest if laps % 2 == 0 else count - 1 - rest)


@given(index=st.integers(0, LARGEST - 1), count=st.integers(2, 1000))
def test_neighbours_on_the_timeline_are_neighbours_in_the_template(index: int, count: int) -> None:
    first, second = template_frames(np.array([index, index + 1], np.int32), count)
    assert abs(first - second) == 1


def test_positions_need_not_be_in_order_and_are_left_alone() -> None:
    positions = np.array([4, 0, LARGEST, 4], np.int32)
    assert template_frames(positions, 3).tolist() == [0, 0, 1, 0]
    assert positions.tolist() == [4, 0, LARGEST, 4]
