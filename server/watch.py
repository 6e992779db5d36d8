"""Keeps a Triton serving: sees what has died or does not answer, and starts Triton anew.

Triton 2.51 neither restarts the dead process of a Python model nor reports it: every request to it fails, and the model
counts as ready. With static models there is one remedy for everything, a new Triton, which takes two or three seconds.
Two things are looked at:

- the processes, four times a second: one that has died, or was stopped and does not go on;
- answers, every two seconds: whether Triton tells its statistics, and whether each Python model that has answered
  nothing for ten seconds answers a small request.

A missing answer alone proves nothing on a busy machine. What does not answer is `hung` (`server.silence`) if its
processes do nothing either, or if it has been silent for a whole minute.

Whatever takes long is done in the background or calls back, so that who watches the watch hears of it all the time,
and so that a stop need not wait.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from compositor_backend.contract import LIPSYNC_MODEL, PYTHON_MODELS
from server.errors import ServerError, TritonRefusedError, TritonSilentError
from server.processes import DEAD, STOPPED, Process, Stub
from server.silence import Silence
from server.triton_http import ModelCounts, TritonHttp

_log = logging.getLogger(__name__)

PERIOD_S = 0.25
ASK_EACH_S = 2.0
PROBE_EACH_S = 10.0
"""How often at most a model is probed that nobody asks: probes show in the counts of refused requests."""
STOPPED_S = 1.0
"""How long a stopped process may take to go on; until then requests to it wait."""
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
"""Between starts that fail, or that do not hold for long."""
HOLDS_S = 15.0
NOT_LIVE_AFTER_S = 60.0
RATE_OVER_S = 10.0
_TRITON = "Triton"

Submit = Callable[[Callable[[], Any]], Future[Any]]
"""Runs a function in the background."""


class Server(Protocol):
    """What is watched: a `server.launcher.TritonServer`."""

    @property
    def ended(self) -> bool:
        """Whether Triton is not running."""

    @property
    def http(self) -> TritonHttp:
        """Short requests to it."""

    @property
    def triton(self) -> Process | None:
        """The process of tritonserver."""

    def stubs(self) -> list[Stub]:
        """The processes of its Python models."""

    def restart(self, cancelled: threading.Event, on_wait: Callable[[], None]) -> None:
        """Start it anew, calling `on_wait` meanwhile; `ServerError` or `OSError` if it does not come up."""


@dataclass(frozen=True)
class Health:
    """How a server is: `live` while it is watched, `ready` while it serves.

    `frames_per_s` is what the networks drew in the last ten seconds, `restarts` how often Triton had to be started
    anew, and `trouble` the last reason for it, empty if there was none.
    """

    live: bool = True
    ready: bool = True
    frames_per_s: float = 0.0
    restarts: int = 0
    trouble: str = ""


@dataclass
class _Seen:
    """What is known of the Triton that runs now; begun afresh with each."""

    started_s: float
    stubs: dict[int, str] = field(default_factory=dict)
    """The model of each process that belongs to this Triton, by process id."""
    stopped_s: dict[int, float] = field(default_factory=dict)
    silences: dict[str, Silence] = field(default_factory=dict)
    successes: dict[str, int] = field(default_factory=dict)
    probed_s: dict[str, float] = field(default_factory=dict)


class Watch:
    """Watches one server from `run`, in one thread; `health` may be read from any."""

    def __init__(
        self,
        server: Server,
        *,
        clock: Callable[[], float] = time.monotonic,
        kill: Callable[[int, int], None] = os.kill,
        on_look: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_look` is called four times a second."""
        self._server = server
        self._clock = clock
        self._kill = kill
        self._on_look = on_look
        self._seen = _Seen(clock())
        self._drawn: deque[tuple[float, int]] = deque()
        self._failed_starts = 0
        self._asking: Future[list[ModelCounts]] | None = None
        self._ask_at_s = clock()
        self._health = Health()
        self._last_tick_s = clock()
        self._surprise = ""

    @property
    def health(self) -> Health:
        """As of the last look; not `live` if none has succeeded for a minute."""
        health = self._health
        if self._clock() - self._last_tick_s > NOT_LIVE_AFTER_S:
            return replace(health, live=False, ready=False)
        return health

    def run(self, stop: threading.Event) -> None:
        """Watch until `stop` is set."""
        executor = ThreadPoolExecutor(1, "ask-triton")
        try:
            while not stop.wait(PERIOD_S):
                self._look_without_fail(stop, executor.submit)
        finally:
            # A request that is under way ends when Triton does, which is stopped next.
            executor.shutdown(wait=False, cancel_futures=True)

    def _look_without_fail(self, stop: threading.Event, submit: Submit) -> None:
        try:
            self.look(stop, submit)
            self._surprise = ""
        # Without the watch the next dead process stays dead, and nobody is told. Whatever went wrong here (no file,
        # no memory, a mistake of ours) may be over at the next look. If it is not, this is no longer `live`.
        except Exception as error:  # noqa: BLE001 - see above
            if repr(error) != self._surprise:
                _log.exception("a look at Triton failed; the next follows")
                self._surprise = repr(error)
                self._health = replace(self._health, trouble=f"a look at Triton failed: {error!r}")

    def look(self, stop: threading.Event, submit: Submit) -> None:
        """See once after everything, and start Triton anew if it is broken; `submit` runs things in the background."""
        broken = self._broken(submit)
        if broken:
            self._restart(broken, stop)
        self._tick()

    def _broken(self, submit: Submit) -> str:
        """Why Triton must be started anew; empty if it need not."""
        if self._server.ended:
            return "Triton ended by itself"
        stubs = self._server.stubs()
        return self._dead_process(stubs) or self._missing_answer(stubs, submit)

    def _tick(self) -> None:
        """Say that the watch lives."""
        self._last_tick_s = self._clock()
        self._on_look()

    # --- processes ---
    def _dead_process(self, stubs: Sequence[Stub]) -> str:
        """Which process of a model has died; those that were stopped and do not go on are killed."""
        seen = self._seen
        living = {stub.pid: stub.model for stub in stubs if stub.state != DEAD}
        seen.stubs.update({pid: model for pid, model in living.items() if model is not None})
        dead = sorted(model for pid, model in seen.stubs.items() if pid not in living)
        if dead:
            return f"a process of {dead[0]} died"
        triton = self._server.triton
        stopped = {stub.pid for stub in stubs if stub.state in STOPPED}
        if triton is not None and triton.state in STOPPED:
            stopped.add(triton.pid)
        now_s = self._clock()
        seen.stopped_s = {pid: seen.stopped_s.get(pid, now_s) for pid in stopped}
        for pid, since_s in seen.stopped_s.items():
            if now_s - since_s >= STOPPED_S:
                _log.warning("process %d was stopped and does not go on; it is killed", pid)
                with suppress(ProcessLookupError):
                    self._kill(pid, signal.SIGKILL)
        return ""

    # --- answers ---
    def _missing_answer(self, stubs: Sequence[Stub], submit: Submit) -> str:
        """Who is taken for hung, as the last answers show."""
        if self._asking is None:
            if self._clock() >= self._ask_at_s:
                self._ask_at_s = self._clock() + ASK_EACH_S
                self._asking = submit(self._ask)
            return ""
        if not self._asking.done():
            return ""
        asked, self._asking = self._asking, None
        answers = self._seen.silences.setdefault(_TRITON, Silence())
        try:
            self._note(asked.result())
            answers.end()
        except TritonSilentError:
            answers.go_on(self._clock(), self._cpu_s(_TRITON, stubs))
        except TritonRefusedError:  # it answers, so that a new one would help nothing
            answers.end()
        for name, silence in self._seen.silences.items():
            if silence.hung(self._clock(), self._cpu_s(name, stubs)):
                return f"{name} does not answer"
        return ""

    def _cpu_s(self, name: str, stubs: Sequence[Stub]) -> float:
        if name == _TRITON:
            triton = self._server.triton
            return 0.0 if triton is None else triton.cpu_s
        return sum(stub.cpu_s for stub in stubs if stub.model == name)

    def _ask(self) -> list[ModelCounts]:
        """In the background: the statistics, and probes of the Python models that have nothing to show."""
        http = self._server.http
        counts = http.counts()
        for count in counts:
            if count.name in _PYTHON:
                self._look_at_model(http, count)
        return counts

    def _look_at_model(self, http: TritonHttp, count: ModelCounts) -> None:
        seen, now_s = self._seen, self._clock()
        served = count.successes > seen.successes.get(count.name, 0)
        seen.successes[count.name] = count.successes
        silence = seen.silences.setdefault(count.name, Silence())
        due = silence.begun or now_s - seen.probed_s.get(count.name, float("-inf")) >= PROBE_EACH_S
        if not served and not due:
            return
        seen.probed_s[count.name] = now_s
        try:
            lives = served or http.lives(count.name)
        except TritonRefusedError:
            lives = True
        except TritonSilentError:
            silence.go_on(now_s, self._cpu_s(count.name, self._server.stubs()))
            return
        if lives:
            silence.end()
        else:
            silence.prove()

    def _note(self, counts: Sequence[ModelCounts]) -> None:
        now_s = self._clock()
        rows = sum(count.rows for count in counts if count.name == LIPSYNC_MODEL.name)
        if self._drawn and rows < self._drawn[-1][1]:  # of a Triton that was started anew
            self._drawn.clear()
        self._drawn.append((now_s, rows))
        while len(self._drawn) > 2 and now_s - self._drawn[1][0] >= RATE_OVER_S:
            self._drawn.popleft()
        first_s, first = self._drawn[0]
        rate = (rows - first) / (now_s - first_s) if now_s > first_s else 0.0
        self._health = replace(self._health, ready=True, frames_per_s=round(rate, 1))

    # --- Triton as a whole ---
    def _restart(self, why: str, stop: threading.Event) -> None:
        self._trouble(why)
        self._health = replace(self._health, ready=False, frames_per_s=0.0)
        if self._clock() - self._seen.started_s >= HOLDS_S:
            self._failed_starts = 0
        while not stop.wait(self._pause_s()):
            self._failed_starts += 1
            self._tick()
            try:
                self._server.restart(stop, self._tick)
            # `OSError`: there is no memory, file or process to be had just now.
            except (ServerError, OSError) as error:
                self._trouble(str(error))
                continue
            self._seen, self._asking = _Seen(self._clock()), None
            self._drawn.clear()
            self._health = replace(self._health, ready=True, restarts=self._health.restarts + 1)
            _log.warning("Triton was started again: %s", why)
            return

    def _pause_s(self) -> float:
        if self._failed_starts == 0:
            return 0.0
        return float(min(FIRST_PAUSE_S * 2 ** (self._failed_starts - 1), LONGEST_PAUSE_S))

    def _trouble(self, text: str) -> None:
        _log.warning("%s", text)
        self._health = replace(self._health, trouble=text)


_PYTHON = frozenset(model.name for model in PYTHON_MODELS)
