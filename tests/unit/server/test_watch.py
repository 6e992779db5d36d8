"""What a watch does about each thing that it may see; a clock of the test's own, and no Triton."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path

import pytest

from server.errors import StartError, TritonRefusedError, TritonSilentError
from server.processes import Stub
from server.triton_http import ModelCounts
from server.watch import (
    ASK_EACH_S,
    FIRST_PAUSE_S,
    HOLDS_S,
    MOST_PENDING,
    PROBE_EACH_S,
    REPAIRS,
    STOPPED_S,
    Watch,
)

SHARED = ("compositor", "audio_features")


class FakeHttp:
    """Triton's answers; `said` is what was asked of it."""

    def __init__(self) -> None:
        self.models = {name: ModelCounts(name, 0, 0) for name in (*SHARED, "avatar_may", "lipsync_may")}
        self.silent = False
        self.hung: set[str] = set()
        self.waiting = 0
        self.unloadable: set[str] = set()
        self.said: list[str] = []

    def counts(self) -> list[ModelCounts]:
        if self.silent:
            raise TritonSilentError("nothing")
        return list(self.models.values())

    def ready(self, model: str) -> bool:
        return model in self.models

    def lives(self, model: str) -> bool:
        self.said.append(f"probe {model}")
        if model in self.hung:
            raise TritonSilentError("nothing")
        return True

    def pending(self, _model: str) -> int:
        return self.waiting

    def load(self, model: str, _timeout_s: float) -> None:
        self.said.append(f"load {model}")
        if model in self.unloadable:
            raise TritonRefusedError("it is broken")

    def unload(self, model: str, _timeout_s: float) -> None:
        self.said.append(f"unload {model}")


class FakeServer:
    """A Triton with stubs that the test kills; `starts` are the models that restarts loaded besides the shared."""

    def __init__(self, folder: Path) -> None:
        self.http = FakeHttp()
        self.ended = False
        self.failing_starts = 0
        self.starts: list[tuple[str, ...]] = []
        self._stubs: dict[int, Stub] = {}
        for pid, model in enumerate(("compositor", "compositor", "audio_features", "lipsync_may"), 100):
            (folder / model / "1").mkdir(parents=True, exist_ok=True)
            self._stubs[pid] = Stub(pid, "S", folder / model / "1")

    def stubs(self) -> list[Stub]:
        return list(self._stubs.values())

    def become(self, pid: int, state: str) -> None:
        folder = None if state == "Z" else self._stubs[pid].version_folder
        self._stubs[pid] = Stub(pid, state, folder)

    def restart(self, shared: Sequence[str], wanted: Sequence[str], cancelled: threading.Event) -> None:
        assert tuple(shared) == SHARED
        self.starts.append(tuple(wanted))
        if len(self.starts) <= self.failing_starts:
            raise StartError("no port")
        self.ended, self.http.silent, self.http.hung = False, False, set()


class Pauses(threading.Event):
    """A stop that never comes; the pauses that were waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.waited_s: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.waited_s.append(timeout or 0.0)
        return False


class Scene:
    """A watch of a fake server; `pass_s` lets time go by in looks of a quarter of a second."""

    def __init__(self, folder: Path) -> None:
        self.server = FakeServer(folder)
        self.http = self.server.http
        self.now_s = 1000.0
        self.killed: list[tuple[int, int]] = []
        self.pauses = Pauses()
        self.watch = Watch(
            self.server,  # type: ignore[arg-type]
            SHARED,
            clock=lambda: self.now_s,
            kill=lambda pid, number: self.killed.append((pid, number)),
        )

    def pass_s(self, seconds: float) -> None:
        for _ in range(round(seconds * 4)):
            self.now_s += 0.25
            self.watch.look(self.pauses, run_now)


def run_now(work: Callable[[], list[ModelCounts]]) -> Future[list[ModelCounts]]:
    done: Future[list[ModelCounts]] = Future()
    try:
        done.set_result(work())
    except TritonSilentError as error:
        done.set_exception(error)
    return done


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    made = Scene(tmp_path)
    made.pass_s(3)
    made.http.said.clear()
    return made


def test_while_all_is_well_nothing_is_done(scene: Scene) -> None:
    scene.pass_s(60)
    health = scene.watch.health
    assert (health.live, health.ready, health.residents) == (True, True, ("may",))
    assert (health.repairs, health.restarts, health.trouble) == (0, 0, "")
    assert not [said for said in scene.http.said if not said.startswith("probe")]


def test_a_dead_stubs_model_is_loaded_anew_once(scene: Scene) -> None:
    scene.server.become(103, "Z")
    scene.pass_s(30)
    assert [said for said in scene.http.said if "lipsync" in said] == ["load lipsync_may"]
    assert scene.watch.health.repairs == 1
    assert scene.watch.health.trouble == "a process of lipsync_may died"
    assert scene.server.starts == []


def test_two_dead_stubs_of_a_model_are_one_repair(scene: Scene) -> None:
    scene.server.become(100, "Z")
    scene.server.become(101, "Z")
    scene.pass_s(1)
    assert scene.http.said.count("load compositor") == 1


def test_a_stub_that_triton_ends_itself_is_none_of_the_watchs_business(scene: Scene) -> None:
    scene.server.become(103, "Z")
    scene.pass_s(0.25)
    del scene.server._stubs[103]
    scene.pass_s(5)
    assert "load lipsync_may" not in scene.http.said


def test_a_model_that_is_being_unloaded_is_left_alone(scene: Scene) -> None:
    del scene.http.models["lipsync_may"]
    scene.server.become(103, "Z")
    scene.pass_s(5)
    assert "load lipsync_may" not in scene.http.said


def test_a_model_that_died_while_it_was_loaded_is_not_loaded_again(scene: Scene, tmp_path: Path) -> None:
    scene.server._stubs[200] = Stub(200, "S", tmp_path / "lipsync_new" / "1")
    scene.pass_s(0.25)
    scene.server.become(200, "Z")
    scene.pass_s(5)
    assert "load lipsync_new" not in scene.http.said


def test_a_model_that_dies_right_after_it_was_loaded_is_loaded_again(scene: Scene, tmp_path: Path) -> None:
    (tmp_path / "lipsync_new" / "1").mkdir(parents=True)
    scene.server._stubs[200] = Stub(200, "S", tmp_path / "lipsync_new" / "1")
    scene.pass_s(0.25)
    scene.server.become(200, "Z")
    scene.pass_s(0.25)
    scene.http.models["lipsync_new"] = ModelCounts("lipsync_new", 0, 0)
    scene.pass_s(ASK_EACH_S + 1)
    assert scene.http.said.count("load lipsync_new") == 1


def test_where_the_folder_may_not_be_touched_the_model_is_unloaded_first(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_path: Path) -> None:
        raise PermissionError

    monkeypatch.setattr("os.utime", refuse)
    scene.server.become(103, "Z")
    scene.pass_s(1)
    assert scene.http.said[:2] == ["unload lipsync_may", "load lipsync_may"]


def test_a_stub_that_was_stopped_is_killed_if_it_does_not_go_on(scene: Scene) -> None:
    scene.server.become(100, "T")
    scene.pass_s(STOPPED_S)
    assert scene.killed == []
    scene.server.become(100, "S")
    scene.pass_s(1)
    scene.server.become(101, "T")
    scene.pass_s(STOPPED_S + 0.25)
    assert scene.killed == [(101, signal.SIGKILL)]


def test_where_many_wait_for_a_dead_process_triton_is_started_anew(scene: Scene) -> None:
    scene.http.waiting = MOST_PENDING + 1
    scene.server.become(103, "Z")
    scene.pass_s(1)
    assert scene.server.starts == [("avatar_may",)]


def test_those_who_wait_for_a_model_with_another_process_are_left_to_that(scene: Scene) -> None:
    scene.http.waiting = MOST_PENDING + 1
    scene.server.become(100, "Z")
    scene.pass_s(1)
    assert "load compositor" in scene.http.said
    assert scene.server.starts == []


def test_an_avatar_that_cannot_be_loaded_again_is_unloaded(scene: Scene) -> None:
    scene.http.unloadable.add("lipsync_may")
    scene.server.become(103, "Z")
    scene.pass_s(1)
    assert scene.http.said[:2] == ["load lipsync_may", "unload lipsync_may"]
    assert scene.server.starts == []
    assert "it is broken" in scene.watch.health.trouble


def test_a_shared_model_that_cannot_be_loaded_again_means_a_new_triton(scene: Scene) -> None:
    scene.http.unloadable.add("compositor")
    scene.server.become(100, "Z")
    scene.pass_s(1)
    assert scene.server.starts == [("avatar_may",)]


def test_an_avatar_that_dies_again_and_again_is_given_up(scene: Scene, tmp_path: Path) -> None:
    for pid in range(200, 200 + REPAIRS + 1):
        scene.server._stubs[pid] = Stub(pid, "S", tmp_path / "lipsync_may" / "1")
        scene.pass_s(0.5)
        scene.server.become(pid, "Z")
        scene.pass_s(0.5)
    assert scene.http.said.count("load lipsync_may") == REPAIRS
    assert scene.http.said[-1] == "unload lipsync_may"
    assert scene.server.starts == []


def test_triton_that_ended_is_started_with_what_was_loaded(scene: Scene) -> None:
    scene.server.ended = True
    scene.pass_s(0.25)
    assert scene.server.starts == [("avatar_may",)]
    assert scene.pauses.waited_s == [0.0]
    assert scene.watch.health.restarts == 1
    assert scene.watch.health.ready


def test_starts_that_fail_come_after_growing_pauses_and_without_avatars(scene: Scene) -> None:
    scene.server.failing_starts = 3
    scene.server.ended = True
    scene.pass_s(0.25)
    assert scene.server.starts == [("avatar_may",), (), (), ()]
    assert scene.pauses.waited_s == [0.0, FIRST_PAUSE_S, 2 * FIRST_PAUSE_S, 4 * FIRST_PAUSE_S]
    assert scene.watch.health.ready


def test_a_triton_that_held_for_long_is_started_at_once_again(scene: Scene) -> None:
    scene.server.ended = True
    scene.pass_s(HOLDS_S + 1)
    scene.server.ended = True
    scene.pass_s(0.25)
    assert scene.pauses.waited_s == [0.0, 0.0]


def test_a_triton_that_does_not_answer_is_started_anew(scene: Scene) -> None:
    scene.http.silent = True
    scene.pass_s(2 * ASK_EACH_S + 1)
    assert scene.server.starts == [("avatar_may",)]
    assert "does not answer" in scene.watch.health.trouble


def test_a_single_answer_that_is_missing_is_none(scene: Scene) -> None:
    scene.http.silent = True
    scene.pass_s(ASK_EACH_S)
    scene.http.silent = False
    scene.pass_s(10)
    assert scene.server.starts == []


def test_a_shared_model_that_hangs_means_a_new_triton(scene: Scene) -> None:
    scene.http.hung.add("audio_features")
    scene.pass_s(PROBE_EACH_S + 2 * ASK_EACH_S + 1)
    assert scene.server.starts == [("avatar_may",)]
    assert scene.watch.health.trouble == "audio_features does not answer"


def test_a_model_that_answers_others_is_not_probed(scene: Scene) -> None:
    for successes in range(1, 20):
        scene.http.models["compositor"] = ModelCounts("compositor", successes, successes)
        scene.pass_s(1)
    assert "probe compositor" not in scene.http.said
    assert scene.http.said.count("probe audio_features") == 2


def test_frames_per_second_are_what_the_networks_drew(scene: Scene) -> None:
    scene.pass_s(10)
    for second in range(1, 31):
        scene.http.models["lipsync_may"] = ModelCounts("lipsync_may", second, 25 * second)
        scene.pass_s(1)
    assert scene.watch.health.frames_per_s == pytest.approx(25, abs=5)
    scene.http.models["lipsync_may"] = ModelCounts("lipsync_may", 0, 0)  # loaded anew: that is no fall
    scene.pass_s(2)
    assert scene.watch.health.frames_per_s > 0
    scene.pass_s(20)
    assert scene.watch.health.frames_per_s == 0


def test_a_watch_that_no_longer_looks_is_not_live(scene: Scene) -> None:
    scene.now_s += 300
    assert (scene.watch.health.live, scene.watch.health.ready) == (False, False)
