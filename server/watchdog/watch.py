"""Keeps a Triton serving: sees what has died or hangs, and starts Triton again.

Triton 2.51 neither restarts the dead process of a Python model nor reports it: every request to it fails, and the model
counts as ready. With static models there is one remedy for everything, a new Triton, which takes two or three seconds.

Whatever takes long is done in the background or calls back, so that the service manager keeps being told that the watch
is alive, and so that a stop need not wait.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Protocol

from server.processes import Process, read_process
from server.watchdog.answers import AnswerWatch, Http, Submit
from server.watchdog.health import FrameRate, Health
from server.watchdog.processes import ProcessWatch
from server.watchdog.restart import Restartable, Restarts

_log = logging.getLogger(__name__)

PERIOD_S = 0.25
NOT_LIVE_AFTER_S = 60.0


class Server(Restartable, Protocol):
    """What is watched: a `server.launcher.TritonServer`."""

    @property
    def ended(self) -> bool:
        """Whether Triton is not running."""

    @property
    def http(self) -> Http:
        """Short requests to it."""

    def processes(self) -> dict[int, str]:
        """What runs in each of its processes: a model, or Triton itself."""


class Watch:
    """Watches one server from `run`, in one thread; `health` may be read from any."""

    def __init__(
        self,
        server: Server,
        *,
        clock: Callable[[], float] = time.monotonic,
        read: Callable[[int], Process | None] = read_process,
        on_look: Callable[[], None] = lambda: None,
    ) -> None:
        """The server must be ready; `on_look` is called four times a second."""
        self._server = server
        self._clock = clock
        self._read = read
        self._on_look = on_look
        self._health = Health()
        self._restarts = Restarts(server, clock=clock, on_wait=self._tick, report=self._report)
        self._last_tick_s = clock()
        self._surprise = ""
        self._begin()

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

    def look(self, stop: threading.Event, submit: Submit) -> None:
        """Look once, and start Triton again if it is broken; `submit` runs things in the background."""
        if problem := self._problem(submit):
            self._restart(problem, stop)
        self._tick()

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

    def _begin(self) -> None:
        """Get to know a Triton that has just become ready."""
        self._processes = ProcessWatch(self._server.processes(), clock=self._clock, read=self._read)
        rate = FrameRate()
        self._answers = AnswerWatch(
            self._server.http,
            self._processes.vitals,
            clock=self._clock,
            on_frames=lambda frames: self._note_rate(rate.add(self._clock(), frames)),
        )

    def _problem(self, submit: Submit) -> str:
        if self._server.ended:
            return "Triton ended by itself"
        return self._processes.problem() or self._answers.problem(submit)

    def _restart(self, why: str, stop: threading.Event) -> None:
        self._report(why)
        self._health = replace(self._health, ready=False, frames_per_s=0.0)
        if self._restarts.restart(stop):
            self._begin()
            self._health = replace(self._health, ready=True, restarts=self._health.restarts + 1)
            _log.warning("Triton was started again: %s", why)

    def _note_rate(self, frames_per_s: float) -> None:
        self._health = replace(self._health, frames_per_s=frames_per_s)

    def _report(self, text: str) -> None:
        _log.warning("%s", text)
        self._health = replace(self._health, trouble=text)

    def _tick(self) -> None:
        """Note, and say, that the watch is alive."""
        self._last_tick_s = self._clock()
        self._on_look()
