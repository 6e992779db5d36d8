"""Whether a Triton and its models answer."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

from compositor_backend.contract import LIPSYNC_MODEL, PYTHON_MODELS
from server.errors import TritonRefusedError, TritonSilentError
from server.launcher import TRITON
from server.triton_http import ModelCounts
from server.watchdog.silence import Silence, Vitals

ASK_EACH_S = 2.0
PROBE_EACH_S = 5.0
"""How often at most a model is probed that nobody asks: probes show in the counts of refused requests."""
_PYTHON = frozenset(model.name for model in PYTHON_MODELS)

Submit = Callable[[Callable[[], Any]], Future[Any]]
"""Runs a function in the background."""


class Http(Protocol):
    """A `server.triton_http.TritonHttp`."""

    def counts(self) -> list[ModelCounts]:
        """What each model has done."""

    def probe(self, model: str) -> None:
        """Whether a model answers."""


@dataclass(frozen=True)
class Answers:
    """What Triton said: frames drawn so far, None if it did not tell, and who did not answer."""

    frames: int | None = None
    missing: frozenset[str] = frozenset()


@dataclass
class _Asked:
    """When a model last showed that it is alive; only who asks in the background touches it."""

    successes: int = -1
    answered_s: float = field(default=float("-inf"))
    probes: int = 0


class AnswerWatch:
    """Asks one Triton for its statistics every two seconds, and probes the models that have nothing to show.

    Requests are made in the background, and judged by what the processes do meanwhile (`Silence`).
    """

    def __init__(
        self,
        http: Http,
        vitals: Callable[[str], Vitals],
        *,
        clock: Callable[[], float],
        on_frames: Callable[[int], None] = lambda frames: None,
    ) -> None:
        """`vitals` says of `TRITON` or a model what its processes do; `on_frames` hears how many were drawn in all."""
        self._http = http
        self._vitals = vitals
        self._clock = clock
        self._on_frames = on_frames
        self._asking: Future[Answers] | None = None
        self._ask_at_s = clock()
        self._asked: dict[str, _Asked] = {}
        self._silences: dict[str, Silence] = {}

    def problem(self, submit: Submit) -> str:
        """Who is hung, empty if nobody is."""
        now_s = self._clock()
        if self._asking is None and now_s >= self._ask_at_s:
            silent = frozenset(self._silences)
            self._ask_at_s = now_s + ASK_EACH_S
            self._asking = submit(lambda: self._ask(silent))
        elif self._asking is not None and self._asking.done():
            asking, self._asking = self._asking, None
            self._note(asking.result())
        for name, silence in self._silences.items():
            silence.sample(now_s, self._vitals(name))
            if silence.hung:
                return f"{name} does not answer"
        return ""

    def _note(self, answers: Answers) -> None:
        now_s = self._clock()
        # A Triton that says nothing gives no news of its models.
        kept = self._silences if TRITON in answers.missing else {}
        missing = {
            name: self._silences.get(name) or Silence(now_s, self._vitals(name)) for name in answers.missing
        }
        self._silences = {**kept, **missing}
        if answers.frames is not None:
            self._on_frames(answers.frames)

    def _ask(self, silent: frozenset[str]) -> Answers:
        """In the background."""
        try:
            counts = self._http.counts()
        except TritonSilentError:
            return Answers(missing=frozenset({TRITON}))
        except TritonRefusedError:  # it answers; a new one would say the same
            return Answers()
        frames = sum(self._frames(count) for count in counts if count.name == LIPSYNC_MODEL.name)
        missing = (count.name for count in counts if count.name in _PYTHON and not self._alive(count, silent))
        return Answers(frames, frozenset(missing))

    def _frames(self, count: ModelCounts) -> int:
        """What a model has drawn: Triton counts the row of a probe that the model refused too."""
        return count.rows - self._asked[count.name].probes if count.name in self._asked else count.rows

    def _alive(self, count: ModelCounts, silent: frozenset[str]) -> bool:
        """Whether a model has answered somebody since it was last asked, or answers a probe, if one is due."""
        asked = self._asked.setdefault(count.name, _Asked())
        now_s = self._clock()
        served = 0 <= asked.successes < count.successes
        asked.successes = count.successes
        due = count.name in silent or now_s - asked.answered_s >= PROBE_EACH_S
        if not served and due:
            asked.probes += 1
            try:
                self._http.probe(count.name)
            except TritonSilentError:
                return False
            except TritonRefusedError:  # even its metadata
                pass
        if served or due:
            asked.answered_s = now_s
        return True
