from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from client import Keepalive, RetryPolicy, SettingsError, Timeouts
from client._settings import StreamOptions


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Timeouts(request_s=0), "request_s .*, got 0"),
        (lambda: Timeouts(control_s=float("nan")), "control_s .*, got nan"),
        (lambda: RetryPolicy(busy_s=-1), "busy_s .*, got -1"),
        (lambda: RetryPolicy(factor=0.5), "factor .*, got 0.5"),
        (lambda: RetryPolicy(first_delay_s=-0.1), "first_delay_s .*, got -0.1"),
        (lambda: RetryPolicy(jitter=1.5), "jitter .*, got 1.5"),
        (lambda: Keepalive(time_ms=0), "time_ms .*, got 0"),
        (lambda: Keepalive(max_pings_without_data=-1), "max_pings_without_data .*, got -1"),
        (lambda: StreamOptions(in_flight=0), "in_flight .*, got 0"),
        (lambda: StreamOptions(first_frame=-1), "first_frame .*, got -1"),
        (lambda: StreamOptions(first_frame=2**31), "first_frame .*, got 2147483648"),
        (lambda: StreamOptions(first_chunk_frames=3), "first_chunk_frames .*, got 3"),
    ],
)
def test_a_setting_without_sense_is_refused_by_name(make: Any, named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        make()


@pytest.mark.parametrize("frames", [-5, 0, 1, 4, 7, 32, 35])
def test_chunks_off_the_grid_or_longer_than_a_request_are_refused(frames: int) -> None:
    with pytest.raises(SettingsError, match=f"chunk_frames a multiple of 5 from 5 to 30, got {frames}"):
        StreamOptions(chunk_frames=frames)


def test_a_server_is_waited_for_longer_than_a_dead_triton_takes_to_come_back() -> None:
    assert RetryPolicy().unavailable_s > 15


def test_settings_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Timeouts().request_s = 3  # type: ignore[misc]


def test_only_an_utterances_first_request_is_short() -> None:
    options = StreamOptions(chunk_frames=30, first_chunk_frames=5)
    assert [options.limit_frames(start) for start in (0, 5, 35)] == [5, 30, 30]
