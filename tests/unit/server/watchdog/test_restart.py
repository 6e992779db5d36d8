from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from server.errors import InstallationError, StartError
from server.watchdog.restart import FIRST_PAUSE_S, HOLDS_S, LONGEST_PAUSE_S, Restarts


class Pauses(threading.Event):
    """A stop that never comes, or after so many pauses; `waited_s` are the pauses."""

    def __init__(self, until: int = 1000) -> None:
        super().__init__()
        self.waited_s: list[float] = []
        self.until = until

    def wait(self, timeout: float | None = None) -> bool:
        self.waited_s.append(timeout or 0.0)
        return len(self.waited_s) > self.until


class Scene:
    """A server that fails to start for as long as there are `failures`."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.failures: list[Exception] = []
        self.starts = 0
        self.waits = 0
        self.reports: list[str] = []
        self.stop = Pauses()
        self.restarts = Restarts(
            self, clock=lambda: self.now_s, on_wait=self.on_wait, report=self.reports.append
        )

    def restart(self, cancelled: threading.Event, on_wait: Callable[[], None]) -> None:
        assert cancelled is self.stop
        self.starts += 1
        on_wait()
        if self.failures:
            raise self.failures.pop(0)

    def on_wait(self) -> None:
        self.waits += 1


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_the_first_start_comes_at_once(scene: Scene) -> None:
    assert scene.restarts.restart(scene.stop)
    assert scene.stop.waited_s == [0.0]
    assert scene.waits >= 2


@pytest.mark.parametrize(
    "failure", [StartError("no port"), InstallationError("no stub"), OSError(12, "Cannot allocate memory")]
)
def test_whatever_a_start_fails_of_it_is_tried_again_after_growing_pauses(
    scene: Scene, failure: Exception
) -> None:
    scene.failures = [failure] * 8
    assert scene.restarts.restart(scene.stop)
    assert scene.stop.waited_s == [0.0, *(FIRST_PAUSE_S * 2**n for n in range(5)), LONGEST_PAUSE_S, 30, 30]
    assert scene.reports == [str(failure)] * 8


def test_one_that_breaks_again_soon_waits_too_and_one_that_held_does_not(scene: Scene) -> None:
    scene.now_s = HOLDS_S
    for held_s in (1.0, HOLDS_S - 1, HOLDS_S):
        assert scene.restarts.restart(scene.stop)
        scene.now_s += held_s
    assert scene.restarts.restart(scene.stop)
    assert scene.stop.waited_s == [0.0, FIRST_PAUSE_S, 2 * FIRST_PAUSE_S, 0.0]


def test_a_stop_ends_the_tries(scene: Scene) -> None:
    scene.failures = [StartError("no port")] * 100
    scene.stop.until = 3
    assert not scene.restarts.restart(scene.stop)
    assert scene.starts == 3
