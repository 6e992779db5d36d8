"""What a watch makes of what it sees; a clock of the test's own, and no Triton."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import pytest

from server.errors import StartError
from server.processes import Process
from server.triton_http import ModelCounts
from server.watchdog.watch import NOT_LIVE_AFTER_S, Watch

NAMES = ("Triton", "compositor", "lipsync")


class FakeServer:
    """A Triton with processes that the test lets die; each start has others."""

    def __init__(self) -> None:
        self.ended = False
        self.table: dict[int, Process] = {}
        self.frames = 0
        self.starts = 0
        self.failures: list[Exception] = []
        self.on_restart: Callable[[], None] = lambda: None
        self._come_up()

    @property
    def http(self) -> FakeServer:
        return self

    def counts(self) -> list[ModelCounts]:
        return [ModelCounts("lipsync", self.frames, self.frames)]

    def probe(self, model: str) -> None:
        pass

    def processes(self) -> dict[int, str]:
        return dict(zip(self.table, NAMES, strict=True))

    def kill(self, name: str) -> None:
        (pid,) = (pid for pid, other in self.processes().items() if other == name)
        self.table[pid] = replace(self.table[pid], state="Z")

    def restart(self, cancelled: threading.Event, on_wait: Callable[[], None]) -> None:
        self.starts += 1
        self.on_restart()
        on_wait()
        if self.failures:
            raise self.failures.pop(0)
        self._come_up()

    def _come_up(self) -> None:
        self.ended, self.frames = False, 0
        first = 100 * (self.starts + 1)
        self.table = {first + n: Process(first + n, 1, "S", "x", started=first) for n in range(len(NAMES))}


class Scene:
    """A watch of a fake server; `pass_s` lets time go by in looks of a quarter of a second."""

    def __init__(self) -> None:
        self.server = FakeServer()
        self.now_s = 1000.0
        self.told_s: list[float] = []
        self.stop = NoPauses()
        self.watch = Watch(
            self.server,
            clock=lambda: self.now_s,
            read=lambda pid: self.server.table.get(pid),
            on_look=lambda: self.told_s.append(self.now_s),
        )

    def pass_s(self, seconds: float) -> None:
        for _ in range(round(seconds * 4)):
            self.now_s += 0.25
            self.watch.look(self.stop, run_now)


class NoPauses(threading.Event):
    """A stop that never comes, and that nobody waits for."""

    def wait(self, _timeout: float | None = None) -> bool:
        return False


class Looks(threading.Event):
    """A stop that comes after so many looks; `on_wait` is called before each."""

    def __init__(self, looks: int, on_wait: Callable[[], None]) -> None:
        super().__init__()
        self.left, self.on_wait = looks, on_wait

    def wait(self, _timeout: float | None = None) -> bool:
        self.left -= 1
        self.on_wait()
        return self.left < 0


def run_now(work: Callable[[], Any]) -> Future[Any]:
    done: Future[Any] = Future()
    done.set_result(work())
    return done


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_while_all_is_well_nothing_is_done(scene: Scene) -> None:
    scene.pass_s(60)
    health = scene.watch.health
    assert (health.live, health.ready, health.restarts, health.trouble) == (True, True, 0, "")
    assert scene.server.starts == 0


@pytest.mark.parametrize("name", NAMES)
def test_a_process_that_died_means_a_new_triton_once(scene: Scene, name: str) -> None:
    scene.pass_s(3)
    scene.server.kill(name)
    scene.pass_s(60)
    assert scene.server.starts == 1
    health = scene.watch.health
    assert (health.ready, health.restarts) == (True, 1)
    assert name in health.trouble


def test_a_triton_that_ended_is_started_again(scene: Scene) -> None:
    scene.server.ended = True
    scene.pass_s(60)
    assert scene.server.starts == 1


def test_while_it_starts_again_it_is_live_and_not_ready_and_says_why(scene: Scene) -> None:
    seen = []

    def start() -> None:
        scene.now_s += 45
        seen.append(scene.watch.health)

    scene.server.on_restart = start
    scene.server.failures = [StartError("the port is taken")]
    scene.server.kill("lipsync")
    scene.pass_s(0.25)
    first, second = seen
    assert [(health.live, health.ready) for health in seen] == [(True, False)] * 2
    assert "lipsync" in first.trouble
    assert second.trouble == "the port is taken"
    assert scene.watch.health.ready
    assert {45, 90} <= {round(told - 1000.25) for told in scene.told_s}, "who watches the watch hears of it"


def test_a_stop_during_a_restart_leaves_it_not_ready(scene: Scene) -> None:
    scene.server.kill("lipsync")
    stop = Looks(0, lambda: None)
    scene.watch.look(stop, run_now)
    assert (scene.server.starts, scene.watch.health.ready) == (0, False)


def test_frames_per_second_are_what_the_networks_drew_since_triton_started(scene: Scene) -> None:
    for _ in range(20):
        scene.server.frames += 50
        scene.pass_s(2)
    assert scene.watch.health.frames_per_s == 25.0
    scene.server.kill("lipsync")
    scene.pass_s(2)
    assert scene.watch.health.frames_per_s == 0.0


def test_a_look_that_fails_is_logged_once_and_the_next_follows(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    table = scene.server.table

    def pass_a_quarter() -> None:
        scene.now_s += 0.25

    scene.server.kill("lipsync")
    scene.server.table = Unreadable()
    scene.watch.run(Looks(3, pass_a_quarter))
    assert [record.exc_info is not None for record in caplog.records] == [True]
    assert "Too many open files" in scene.watch.health.trouble
    scene.server.table = table
    scene.watch.run(Looks(3, pass_a_quarter))
    assert scene.server.starts == 1


def test_a_watch_all_of_whose_looks_fail_is_not_live(scene: Scene) -> None:
    def pass_ten_seconds() -> None:
        scene.now_s += 10

    scene.server.table = Unreadable()
    scene.watch.run(Looks(10, pass_ten_seconds))
    assert not scene.watch.health.live


def test_a_watch_that_no_longer_looks_is_not_live(scene: Scene) -> None:
    scene.now_s += NOT_LIVE_AFTER_S + 1
    assert (scene.watch.health.live, scene.watch.health.ready) == (False, False)


class Unreadable(dict[int, Process]):
    def get(self, *_: object) -> Any:
        raise OSError(errno.EMFILE, "Too many open files")
