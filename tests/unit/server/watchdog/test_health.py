from __future__ import annotations

import pytest

from server.watchdog.health import RATE_OVER_S, FrameRate


def test_the_rate_is_that_of_the_last_ten_seconds() -> None:
    rate = FrameRate()
    assert rate.add(0.0, 100) == 0.0
    drawn = 100
    for second in range(1, 31):
        drawn += 25 if second <= 15 else 50
        read = rate.add(float(second), drawn)
        if second == 15:
            assert read == 25.0
    assert read == 50.0


def test_nobody_draws_any_more() -> None:
    rate = FrameRate()
    for second in range(3):
        rate.add(float(second), 25 * second)
    for second in range(3, 20):
        read = rate.add(float(second), 50)
    assert read == 0.0


def test_looks_that_are_far_apart_give_their_mean() -> None:
    rate = FrameRate()
    rate.add(0.0, 0)
    assert rate.add(4 * RATE_OVER_S, 400) == pytest.approx(10)
