"""What a watch does about each thing that it may see; a clock of the test's own, and no Triton."""

from __future__ import annotations

import errno
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from server.errors import InstallationError, ServerError, StartError, TritonRefusedError, TritonSilentError
from server.processes import Stub
from server.triton_http import ModelCounts
from server.watch import (
    ASK_EACH_S,
    FIRST_PAUSE_S,
    HOLDS_S,
    LEFT_BEHIND_S,
    MOST_PENDING,
    PROBE_EACH_S,
    REFUSED_ANSWERS,
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
        self.mute = False
        """Whether it does not say what is ready."""
        self.refusing = False
        self.ending = False
        self.on_load: Callable[[], None] = lambda: None
        self.hung: set[str] = set()
        self.waiting = 0
        self.other_states: dict[str, str] = {}
        self.unloadable: set[str] = set()
        self.said: list[str] = []

    def counts(self) -> list[ModelCounts]:
        if self.silent:
            raise TritonSilentError("nothing")
        if self.refusing:
            raise TritonRefusedError("who has no key is not told")
        return list(self.models.values())

    def ready(self, model: str | None = None) -> bool:
        if self.mute:
            raise TritonSilentError("nothing")
        return not self.ending if model is None else model in self.models

    def lives(self, model: str) -> bool:
        self.said.append(f"probe {model}")
        if model in self.hung:
            raise TritonSilentError("nothing")
        if self.refusing:
            raise TritonRefusedError("who has no key is not told")
        return True

    def states(self) -> dict[str, str]:
        return {**dict.fromkeys(self.models, "READY"), **self.other_states}

    def pending(self, _model: str) -> int:
        return self.waiting

    def load(self, model: str, _timeout_s: float) -> None:
        self.said.append(f"load {model}")
        if model in self.unloadable:
            raise TritonRefusedError("it is broken")
        self.on_load()
        self.models.setdefault(model, ModelCounts(model, 0, 0))

    def unload(self, model: str, _timeout_s: float) -> None:
        self.said.append(f"unload {model}")


class FakeServer:
    """A Triton with stubs that the test kills; `starts` are the models that restarts loaded besides the shared."""

    def __init__(self, folder: Path) -> None:
        self.http = FakeHttp()
        self.ended = False
        self.failing_starts = 0
        self.failure: Exception = StartError("no port")
        self.on_restart: Callable[[], None] = lambda: None
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

    def restart(
        self,
        shared: Sequence[str],
        wanted: Sequence[str],
        cancelled: threading.Event,
        on_wait: Callable[[], None],
    ) -> None:
        assert tuple(shared) == SHARED
        self.starts.append(tuple(wanted))
        self.on_restart()
        on_wait()
        if len(self.starts) <= self.failing_starts:
            raise self.failure
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
        self.on_look: Callable[[], None] = lambda: None
        self.watch = Watch(
            self.server,  # type: ignore[arg-type]
            SHARED,
            clock=lambda: self.now_s,
            kill=lambda pid, number: self.killed.append((pid, number)),
            on_look=lambda: self.on_look(),
        )

    def pass_s(self, seconds: float) -> None:
        for _ in range(round(seconds * 4)):
            self.now_s += 0.25
            self.watch.look(self.pauses, run_now)


def run_now(work: Callable[[], Any]) -> Future[Any]:
    done: Future[Any] = Future()
    try:
        done.set_result(work())
    except (ServerError, OSError) as error:
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


@pytest.mark.parametrize("state", ["UNLOADING", "UNAVAILABLE"])
def test_a_stub_that_an_unload_has_left_behind_is_killed(scene: Scene, state: str) -> None:
    del scene.http.models["lipsync_may"]
    scene.http.other_states["lipsync_may"] = state
    scene.pass_s(LEFT_BEHIND_S - 1)
    assert scene.killed == []
    scene.pass_s(2 * ASK_EACH_S)
    assert (103, signal.SIGKILL) in scene.killed
    assert {pid for pid, _ in scene.killed} == {103}


def test_a_model_that_takes_long_to_load_is_left_alone(scene: Scene) -> None:
    del scene.http.models["lipsync_may"]
    scene.http.other_states["lipsync_may"] = "LOADING"
    scene.pass_s(5 * LEFT_BEHIND_S)
    assert scene.killed == []


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


@pytest.mark.parametrize("failure", [OSError(12, "Cannot allocate memory"), InstallationError("no stub")])
def test_whatever_a_start_fails_of_it_is_tried_again(scene: Scene, failure: Exception) -> None:
    scene.server.failing_starts, scene.server.failure = 1, failure
    scene.server.ended = True
    scene.pass_s(0.25)
    assert scene.server.starts == [("avatar_may",), ()]
    assert scene.watch.health.ready


class Stop(threading.Event):
    """Comes after so many looks; `on_wait` is called before each."""

    def __init__(self, looks: int, on_wait: Callable[[], None]) -> None:
        super().__init__()
        self.left, self.on_wait = looks, on_wait

    def wait(self, _timeout: float | None = None) -> bool:
        self.left -= 1
        self.on_wait()
        return self.left < 0


def test_a_look_that_fails_is_logged_once_and_the_next_follows(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def pass_a_quarter() -> None:
        scene.now_s += 0.25

    def fail() -> list[Stub]:
        raise OSError(errno.EMFILE, "Too many open files")

    scene.server.become(103, "Z")
    with monkeypatch.context() as patched:
        patched.setattr(scene.server, "stubs", fail)
        scene.watch.run(Stop(3, pass_a_quarter))
    assert [record.exc_info is not None for record in caplog.records] == [True]
    assert "Too many open files" in scene.watch.health.trouble
    scene.watch.run(Stop(3, pass_a_quarter))
    assert "load lipsync_may" in scene.http.said


def test_a_watch_all_of_whose_looks_fail_is_not_live(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> list[Stub]:
        raise OSError(errno.EMFILE, "Too many open files")

    def pass_ten_seconds() -> None:
        scene.now_s += 10

    monkeypatch.setattr(scene.server, "stubs", fail)
    scene.watch.run(Stop(10, pass_ten_seconds))
    assert not scene.watch.health.live


def test_statistics_that_are_refused_for_a_moment_are_no_trouble(scene: Scene) -> None:
    """Triton refuses them all while one model is just being unloaded."""
    for _ in range(2 * REFUSED_ANSWERS):
        scene.http.refusing = True
        scene.pass_s(ASK_EACH_S)
        scene.http.refusing = False
        scene.pass_s(2 * ASK_EACH_S)
    assert scene.watch.health.trouble == ""


def test_a_triton_that_refuses_its_statistics_is_not_silent(scene: Scene) -> None:
    scene.http.refusing = True
    scene.pass_s(60)
    assert scene.server.starts == []
    assert "who has no key" in scene.watch.health.trouble
    scene.server.become(103, "Z")
    scene.pass_s(1)
    assert scene.http.said[-1] == "load lipsync_may"


def test_a_dead_stub_is_mended_once_triton_says_whether_its_model_is_ready(scene: Scene) -> None:
    scene.http.mute = True
    scene.server.become(103, "Z")
    scene.pass_s(1)
    assert "load lipsync_may" not in scene.http.said
    scene.http.mute = False
    scene.pass_s(1)
    assert scene.http.said.count("load lipsync_may") == 1


def test_the_number_of_a_process_that_has_gone_may_be_anothers(scene: Scene, tmp_path: Path) -> None:
    scene.server.become(103, "Z")
    scene.pass_s(1)
    del scene.server._stubs[103]
    scene.pass_s(1)
    scene.server._stubs[103] = Stub(103, "S", tmp_path / "compositor" / "1")
    scene.pass_s(1)
    scene.server.become(103, "Z")
    scene.pass_s(1)
    assert [said for said in scene.http.said if said.startswith("load")] == [
        "load lipsync_may",
        "load compositor",
    ]


def test_a_dead_process_is_not_taken_for_one_that_had_its_number_before(scene: Scene) -> None:
    del scene.server._stubs[103]
    scene.pass_s(1)
    scene.server._stubs[103] = Stub(103, "Z", None)
    scene.pass_s(1)
    assert "load lipsync_may" not in scene.http.said


def test_during_a_long_restart_the_watch_is_live_and_says_so(scene: Scene) -> None:
    told: list[float] = []
    scene.on_look = lambda: told.append(scene.now_s)

    def take_long() -> None:
        scene.now_s += 110

    scene.server.on_restart = take_long
    scene.server.ended = True
    scene.pass_s(0.25)
    assert scene.now_s - 110 in told
    assert told[-2:] == [scene.now_s, scene.now_s], "it was told during the start, and after the look"


def look_in_earnest(scene: Scene, stop: threading.Event, then: Callable[[], None] = lambda: None) -> None:
    """Look with threads after a dead network, and do something while they may still be at work."""
    scene.server.become(103, "Z")
    scene.pass_s(0.25)
    scene.now_s += 0.25
    with ThreadPoolExecutor(2) as executor:
        scene.watch.look(stop, executor.submit)
        then()


def test_during_a_long_repair_the_watch_is_live_and_says_so(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.watch.PERIOD_S", 0.01)
    told, enough = [], threading.Event()

    def tell() -> None:
        told.append(scene.watch.health.live)
        if len(told) > 5:
            enough.set()

    scene.on_look = tell
    scene.http.on_load = lambda: assert_(enough.wait(10))
    look_in_earnest(scene, threading.Event())
    assert len(told) > 5
    assert scene.watch.health.repairs == 1


def test_a_stop_does_not_wait_for_a_repair(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.watch.PERIOD_S", 0.01)
    stop, looked = threading.Event(), threading.Event()

    def load() -> None:
        stop.set()
        assert_(looked.wait(10))

    scene.http.on_load = load
    look_in_earnest(scene, stop, looked.set)
    assert (scene.watch.health.repairs, scene.server.starts) == (0, [])


def assert_(condition: bool) -> None:
    assert condition


def test_a_shared_model_that_was_unloaded_is_loaded_again(scene: Scene) -> None:
    del scene.http.models["compositor"]
    scene.pass_s(3 * ASK_EACH_S)
    assert scene.http.said.count("load compositor") == 1
    assert scene.watch.health.trouble == "compositor was unloaded"
    assert scene.watch.health.repairs == 1
    assert scene.server.starts == []


def test_a_shared_model_that_is_away_for_a_moment_is_left_alone(scene: Scene) -> None:
    gone = scene.http.models.pop("compositor")
    scene.pass_s(ASK_EACH_S)
    scene.http.models["compositor"] = gone
    scene.pass_s(10)
    assert "load compositor" not in scene.http.said


def test_a_shared_model_that_was_unloaded_waits_for_a_triton_that_says_whether_it_is_ready(
    scene: Scene,
) -> None:
    del scene.http.models["compositor"]
    scene.http.mute = True
    scene.pass_s(3 * ASK_EACH_S)
    assert (scene.http.said.count("load compositor"), scene.server.starts) == (0, [])
    scene.http.mute = False
    scene.pass_s(ASK_EACH_S + 0.5)
    assert scene.http.said.count("load compositor") == 1


def test_a_shared_model_that_was_unloaded_and_cannot_be_loaded_means_a_new_triton(scene: Scene) -> None:
    gone = scene.http.models.pop("compositor")
    scene.http.unloadable.add("compositor")
    scene.server.on_restart = lambda: scene.http.models.update(compositor=gone)
    scene.pass_s(3 * ASK_EACH_S)
    assert scene.server.starts == [("avatar_may",)]


def test_a_triton_that_was_told_to_end_may_unload_everything(scene: Scene) -> None:
    scene.http.models.clear()
    scene.http.ending = True
    scene.pass_s(20)
    assert scene.http.said == []
    assert scene.server.starts == []


def test_an_encoder_that_hangs_means_a_new_triton(scene: Scene) -> None:
    scene.http.models["audio_encoder_may"] = ModelCounts("audio_encoder_may", 0, 0)
    scene.pass_s(PROBE_EACH_S)
    assert "probe audio_encoder_may" in scene.http.said
    scene.http.hung.add("audio_encoder_may")
    scene.pass_s(PROBE_EACH_S + 2 * ASK_EACH_S + 1)
    assert scene.server.starts == [("avatar_may",)]
    assert scene.watch.health.trouble == "audio_encoder_may does not answer"


def test_an_encoder_that_cannot_be_loaded_again_means_a_new_triton(scene: Scene, tmp_path: Path) -> None:
    scene.http.models["audio_encoder_may"] = ModelCounts("audio_encoder_may", 0, 0)
    scene.server._stubs[104] = Stub(104, "S", tmp_path / "audio_encoder_may" / "1")
    (tmp_path / "audio_encoder_may" / "1").mkdir(parents=True)
    scene.pass_s(ASK_EACH_S + 1)
    scene.http.unloadable.add("audio_encoder_may")
    scene.server.become(104, "Z")
    scene.pass_s(1)
    assert "unload audio_encoder_may" not in scene.http.said
    assert scene.server.starts == [("avatar_may",)]


def test_a_watch_that_no_longer_looks_is_not_live(scene: Scene) -> None:
    scene.now_s += 300
    assert (scene.watch.health.live, scene.watch.health.ready) == (False, False)
