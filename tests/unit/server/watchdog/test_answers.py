"""What a watch asks of Triton, and what it makes of the answers; a clock of the test's own, and no Triton."""

from __future__ import annotations

import errno
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from server.errors import ServerError, TritonRefusedError, TritonSilentError
from server.launcher import TRITON
from server.triton_http import ModelCounts
from server.watchdog.answers import ASK_EACH_S, PROBE_EACH_S, AnswerWatch
from server.watchdog.silence import HUNG_S, Vitals

MODELS = ("catalog", "compositor", "lipsync", "avatar")
PERIOD_S = 0.25


class FakeHttp:
    """A Triton that answers, unless the test says otherwise; `probed` are the models that were probed."""

    def __init__(self) -> None:
        self.successes = dict.fromkeys(MODELS, 0)
        self.error: Exception | None = None
        self.hung: set[str] = set()
        self.refusing: set[str] = set()
        self.probed: list[str] = []

    def counts(self) -> list[ModelCounts]:
        if self.error is not None:
            raise self.error
        # A request has five rows, a probe one.
        return [
            ModelCounts(name, count, 5 * count + self.probed.count(name))
            for name, count in self.successes.items()
        ]

    def probe(self, model: str) -> None:
        self.probed.append(model)
        if model in self.hung:
            raise TritonSilentError("nothing")
        if model in self.refusing:
            raise TritonRefusedError("not for you")


def run_now(work: Callable[[], Any]) -> Future[Any]:
    done: Future[Any] = Future()
    try:
        done.set_result(work())
    except (ServerError, OSError) as error:
        done.set_exception(error)
    return done


class Scene:
    def __init__(self) -> None:
        self.http = FakeHttp()
        self.now_s = 1000.0
        self.busy = False
        self.frames: list[int] = []
        self.watch = AnswerWatch(
            self.http, self.vitals, clock=lambda: self.now_s, on_frames=self.frames.append
        )

    def vitals(self, name: str) -> Vitals:
        return Vitals(self.now_s if self.busy else 0.0, self.busy)

    def pass_s(self, seconds: float) -> str:
        """The first problem that is found meanwhile."""
        for _ in range(round(seconds / PERIOD_S)):
            self.now_s += PERIOD_S
            if problem := self.watch.problem(run_now):
                return problem
        return ""


@pytest.fixture
def scene() -> Scene:
    return Scene()


NOTICED_S = PROBE_EACH_S + HUNG_S + 3 * ASK_EACH_S


def test_while_all_answer_nothing_is_wrong(scene: Scene) -> None:
    assert scene.pass_s(60) == ""
    assert set(scene.http.probed) == {"catalog", "compositor", "lipsync"}
    assert len(scene.http.probed) <= 3 * (60 / PROBE_EACH_S + 1)


def test_a_model_that_answers_others_is_not_probed(scene: Scene) -> None:
    scene.pass_s(1)
    scene.http.probed.clear()
    for _ in range(60):
        scene.http.successes["lipsync"] += 1
        assert scene.pass_s(1) == ""
    assert "lipsync" not in scene.http.probed
    assert "catalog" in scene.http.probed


@pytest.mark.parametrize("model", ["catalog", "lipsync"])
def test_a_model_that_hangs_is_found(scene: Scene, model: str) -> None:
    scene.http.hung.add(model)
    assert model in scene.pass_s(NOTICED_S)


def test_a_triton_that_says_nothing_is_found(scene: Scene) -> None:
    scene.http.error = TritonSilentError("nothing")
    assert TRITON in scene.pass_s(NOTICED_S)


def test_who_is_at_work_is_waited_for(scene: Scene) -> None:
    scene.busy = True
    scene.http.hung.add("lipsync")
    assert scene.pass_s(50) == ""
    scene.http.hung.clear()
    assert scene.pass_s(2 * ASK_EACH_S) == ""
    scene.http.error = TritonSilentError("nothing")
    assert scene.pass_s(50) == ""


def test_an_answer_in_between_ends_a_silence(scene: Scene) -> None:
    for _ in range(10):
        scene.http.hung.add("lipsync")
        assert scene.pass_s(HUNG_S - ASK_EACH_S) == ""
        scene.http.hung.clear()
        assert scene.pass_s(2 * ASK_EACH_S) == ""


def test_a_model_that_serves_others_is_not_silent_for_a_probe_that_it_missed(scene: Scene) -> None:
    scene.http.hung.add("lipsync")
    for _ in range(30):
        scene.http.successes["lipsync"] += 1
        assert scene.pass_s(ASK_EACH_S) == ""


def test_a_silence_of_triton_does_not_end_that_of_a_model(scene: Scene) -> None:
    scene.http.hung.add("lipsync")
    scene.pass_s(ASK_EACH_S)
    scene.http.error = TritonSilentError("nothing")
    assert scene.pass_s(HUNG_S - ASK_EACH_S) == ""
    scene.http.error = None
    assert "lipsync" in scene.pass_s(2 * ASK_EACH_S)


def test_a_triton_that_refuses_answers_is_not_silent(scene: Scene) -> None:
    scene.http.refusing = set(MODELS)
    assert scene.pass_s(60) == ""
    scene.http.error = TritonRefusedError("not for you")
    assert scene.pass_s(60) == ""


def test_who_has_no_file_left_to_ask_with_does_not_take_that_for_silence(scene: Scene) -> None:
    scene.http.error = OSError(errno.EMFILE, "Too many open files")
    with pytest.raises(OSError, match="Too many open files"):
        scene.pass_s(60)
    scene.http.error = None
    assert scene.pass_s(60) == ""


def test_frames_are_the_rows_that_the_networks_drew_and_not_those_of_probes(scene: Scene) -> None:
    scene.http.successes.update(lipsync=3, avatar=9)
    scene.pass_s(10 * PROBE_EACH_S)
    assert scene.http.probed.count("lipsync") > 5
    assert set(scene.frames) == {15}


def test_requests_that_are_under_way_are_waited_for(scene: Scene) -> None:
    waiting: Future[Any] = Future()
    submitted: list[Callable[[], Any]] = []

    def submit(work: Callable[[], Any]) -> Future[Any]:
        submitted.append(work)
        return waiting

    for _ in range(100):
        scene.now_s += PERIOD_S
        assert scene.watch.problem(submit) == ""
    assert len(submitted) == 1
