"""Keeps a Triton serving: sees what has died or does not answer, and brings it back.

Triton 2.51 neither restarts the dead process of a Python model nor reports it: every request to it fails, and the
model counts as ready. Three things are looked at:

- the processes, four times a second: a stub that has died, or was stopped and does not go on;
- Triton's own statistics, every two seconds: whether it answers, what is loaded, how many frames were drawn;
- the shared models: one that has answered nothing for ten seconds gets a small request.

A dead stub's model is loaded anew, which takes a fraction of a second and disturbs no other. Where that does not help,
or Triton itself has ended or is silent, Triton is started anew, with the avatars that were loaded. (A stub that dies
leaves a part of its model behind in Triton: its siblings, which are of no use. They go when Triton does.)
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
from pathlib import Path
from typing import Protocol

from compositor_backend.contract import AVATAR_PREFIX, FEATURES_PREFIX, LIPSYNC_PREFIX, SHARED_MODELS
from server.errors import ModelLoadError, ServerError, StartError, TritonSilentError
from server.processes import DEAD, STOPPED, Stub
from server.triton_http import ModelCounts, TritonHttp

_log = logging.getLogger(__name__)

PERIOD_S = 0.25
ASK_EACH_S = 2.0
PROBE_EACH_S = 10.0
"""How often at most a model is probed that nobody asks: probes show in the counts of refused requests."""
SILENT_ANSWERS = 2
"""So many times in a row Triton may leave its statistics, or a model its probe, unanswered."""
STOPPED_S = 1.0
"""How long a stopped stub may take to go on; until then requests to it fail."""
REPAIR_S = 30.0
REPAIRS = 5
REPAIRS_WITHIN_S = 60.0
"""A model that has to be loaded anew more often than that is beyond repair."""
MOST_PENDING = 3
"""Requests that may wait for a dead process: starting Triton anew takes about as many seconds."""
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
"""Between starts that fail, or that do not hold for long."""
HOLDS_S = 15.0
RATE_OVER_S = 10.0


Asked = Future[list[ModelCounts]]
Submit = Callable[[Callable[[], list[ModelCounts]]], Asked]


class Server(Protocol):
    """What is watched: a `server.launcher.TritonServer`."""

    @property
    def ended(self) -> bool:
        """Whether Triton is not running."""

    @property
    def http(self) -> TritonHttp:
        """Short requests to it."""

    def stubs(self) -> list[Stub]:
        """The processes of its Python models."""

    def restart(self, shared: Sequence[str], wanted: Sequence[str], cancelled: threading.Event) -> None:
        """Start it anew; `StartError` if it does not come up."""


@dataclass(frozen=True)
class Health:
    """How a server is: `live` while it is watched, `ready` while it serves.

    `residents` are the ids of the avatars that are loaded, `frames_per_s` what the networks drew in the last ten
    seconds, `repairs` and `restarts` how often a model and all of Triton had to be brought back, and `trouble` the
    last reason for it, empty if there was none.
    """

    live: bool = True
    ready: bool = True
    residents: tuple[str, ...] = ()
    frames_per_s: float = 0.0
    repairs: int = 0
    restarts: int = 0
    trouble: str = ""


@dataclass
class _Progress:
    """What the last looks at a shared model have shown."""

    successes: int = 0
    silent: int = 0
    lived_s: float = -PROBE_EACH_S


@dataclass
class _Seen:
    """What is known of the Triton that runs now; begun afresh with each."""

    started_s: float
    folders: dict[int, Path] = field(default_factory=dict)
    """Of the stubs, by process id; a dead one no longer tells its own."""
    buried: set[int] = field(default_factory=set)
    dead_s: dict[int, float] = field(default_factory=dict)
    stopped_s: dict[int, float] = field(default_factory=dict)
    silent: int = 0
    progress: dict[str, _Progress] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    repairs_s: dict[str, deque[float]] = field(default_factory=dict)
    loaded: frozenset[str] = frozenset()


class Watch:
    """Watches one server from `run`, in one thread; `health` may be read from any."""

    def __init__(
        self,
        server: Server,
        shared: Sequence[str],
        *,
        clock: Callable[[], float] = time.monotonic,
        kill: Callable[[int, int], None] = os.kill,
        on_look: Callable[[], None] = lambda: None,
    ) -> None:
        """`shared` are the models without which nothing can be served; `on_look` is called four times a second."""
        self._server = server
        self._shared = tuple(shared)
        self._clock = clock
        self._kill = kill
        self._on_look = on_look
        self._seen = _Seen(clock())
        self._loaded: tuple[str, ...] = ()
        self._drawn: deque[tuple[float, int]] = deque([(clock(), 0)])
        self._failed_starts = 0
        self._asking: Asked | None = None
        self._ask_at_s = 0.0
        self._health = Health()
        self._last_tick_s = clock()

    @property
    def health(self) -> Health:
        """As of the last look; not `live` if there was none for a minute."""
        health = self._health
        if self._clock() - self._last_tick_s > LONGEST_PAUSE_S + REPAIR_S:
            return replace(health, live=False, ready=False)
        return health

    def run(self, stop: threading.Event) -> None:
        """Watch until `stop` is set."""
        with ThreadPoolExecutor(1, "ask-triton") as executor:
            while not stop.wait(PERIOD_S):
                self.look(stop, executor.submit)

    def look(self, stop: threading.Event, submit: Submit) -> None:
        """See once after everything, and mend what is broken; `submit` runs a function in the background."""
        self._last_tick_s = self._clock()
        self._on_look()
        try:
            if self._server.ended:
                raise _Lost("Triton ended by itself")
            self._look_at_processes()
            self._look_at_answers(submit)
        except _Lost as lost:
            self._restart(str(lost), stop)

    # --- processes ---
    def _look_at_processes(self) -> None:
        seen, now = self._seen, self._clock()
        stubs = self._server.stubs()
        for stub in stubs:
            if stub.state != DEAD and stub.version_folder is not None:
                seen.folders[stub.pid] = stub.version_folder
        dead = {stub.pid for stub in stubs if stub.state == DEAD} - seen.buried
        seen.dead_s = {pid: seen.dead_s.get(pid, now) for pid in dead}
        living = {stub.version_folder for stub in stubs if stub.state != DEAD}
        for folder in self._bury(now):
            self._mend(folder, alone=folder not in living)
        self._look_at_stopped({stub.pid for stub in stubs if stub.state in STOPPED}, now)

    def _bury(self, now: float) -> set[Path]:
        """Version folders of the models that have lost a process and are to be loaded anew."""
        seen, found = self._seen, set()
        for pid, since_s in seen.dead_s.items():
            folder = seen.folders.get(pid)
            # A stub that Triton itself has ended is dead for a moment as well, until Triton takes note; and one that
            # died while it was loaded leaves no model behind. What is loaded is known only every other second.
            if since_s < now and folder is not None and folder.parent.name in seen.loaded:
                found.add(folder)
            elif now - since_s < 2 * ASK_EACH_S:
                continue
            seen.buried.add(pid)
            seen.folders.pop(pid, None)
        return found

    def _look_at_stopped(self, stopped: set[int], now: float) -> None:
        seen = self._seen
        seen.stopped_s = {pid: seen.stopped_s.get(pid, now) for pid in stopped}
        for pid, since_s in seen.stopped_s.items():
            if now - since_s >= STOPPED_S:
                _log.warning("process %d was stopped and does not go on; it is killed", pid)
                with suppress(ProcessLookupError):
                    self._kill(pid, signal.SIGKILL)

    def _mend(self, folder: Path, *, alone: bool) -> None:
        """Load the model of a dead stub anew; an avatar's model that cannot be, or dies again and again, goes.

        Requests that wait for a dead stub are not handed to a new one: each fails after a second, one after another.
        Where no other stub takes them and they are many, it is quicker to start Triton anew.
        """
        model, http = folder.parent.name, self._server.http
        if not http.ready(model):  # it is being unloaded; Triton calls ready what has a dead process
            return
        self._trouble(f"a process of {model} died")
        repairs, now = self._seen.repairs_s.setdefault(model, deque(maxlen=REPAIRS)), self._clock()
        try:
            if len(repairs) == REPAIRS and now - repairs[0] < REPAIRS_WITHIN_S:
                raise ModelLoadError(f"its processes died {REPAIRS} times within {REPAIRS_WITHIN_S:.0f} s")
            repairs.append(now)
            if alone and http.pending(model) > MOST_PENDING:
                raise _Lost(f"more than {MOST_PENDING} requests wait for the dead process of {model}")
            reload_model(http, folder)
        except ServerError as error:
            self._trouble(f"{model} was not loaded again: {error}")
            if model in self._shared or isinstance(error, TritonSilentError):
                raise _Lost(f"{model} could not be loaded again") from error
            with suppress(ServerError):
                http.unload(model, REPAIR_S)
        else:
            self._health = replace(self._health, repairs=self._health.repairs + 1)
            _log.warning("%s was loaded again", model)

    # --- answers ---
    def _look_at_answers(self, submit: Submit) -> None:
        if self._asking is None:
            if self._clock() >= self._ask_at_s:
                self._ask_at_s = self._clock() + ASK_EACH_S
                self._asking = submit(self._ask)
            return
        if not self._asking.done():
            return
        asked, self._asking = self._asking, None
        try:
            counts = asked.result()
        except ServerError as error:
            self._seen.silent += 1
            if self._seen.silent >= SILENT_ANSWERS:
                raise _Lost(f"Triton does not answer: {error}") from error
            return
        self._seen.silent = 0
        self._note(counts)
        for model, progress in self._seen.progress.items():
            if progress.silent >= SILENT_ANSWERS:
                raise _Lost(f"{model} does not answer")

    def _ask(self) -> list[ModelCounts]:
        """In the background: the statistics, and probes of the shared models that have nothing to show."""
        http, seen = self._server.http, self._seen
        counts = http.counts()
        for count in counts:
            if count.name in self._shared:
                self._look_at_model(http, seen.progress.setdefault(count.name, _Progress()), count)
        return counts

    def _look_at_model(self, http: TritonHttp, progress: _Progress, count: ModelCounts) -> None:
        served, progress.successes = count.successes > progress.successes, count.successes
        if not served and self._clock() - progress.lived_s < PROBE_EACH_S:
            return
        try:
            lives = served or http.lives(count.name)
        except ServerError:
            lives = False
        if lives:
            progress.silent, progress.lived_s = 0, self._clock()
        else:
            progress.silent += 1

    def _note(self, counts: Sequence[ModelCounts]) -> None:
        self._seen.loaded = frozenset(count.name for count in counts)
        self._loaded = tuple(count.name for count in counts if _is_avatars(count.name))
        rows = {count.name: count.rows for count in counts if count.name.startswith(LIPSYNC_PREFIX)}
        # A model that is new to us, or was loaded anew, begins at nought.
        grown = sum(
            now - before if now >= (before := self._seen.rows.get(name, 0)) else now
            for name, now in rows.items()
        )
        self._seen.rows = rows
        now_s, drawn = self._clock(), self._drawn[-1][1] + grown
        self._drawn.append((now_s, drawn))
        while len(self._drawn) > 2 and now_s - self._drawn[1][0] >= RATE_OVER_S:
            self._drawn.popleft()
        first_s, first = self._drawn[0]
        rate = (drawn - first) / (now_s - first_s) if now_s > first_s else 0.0
        residents = {name.removeprefix(AVATAR_PREFIX).removeprefix(FEATURES_PREFIX) for name in self._loaded}
        self._health = replace(
            self._health, ready=True, frames_per_s=round(rate, 1), residents=tuple(sorted(residents))
        )

    # --- Triton as a whole ---
    def _restart(self, why: str, stop: threading.Event) -> None:
        self._trouble(why)
        self._health = replace(self._health, ready=False, residents=(), frames_per_s=0.0)
        if self._clock() - self._seen.started_s >= HOLDS_S:
            self._failed_starts = 0
        while not stop.wait(self._pause_s()):
            # An avatar that was loaded may be what Triton dies of: the second try does without.
            wanted = self._loaded if self._failed_starts == 0 else ()
            self._failed_starts += 1
            self._last_tick_s = self._clock()
            self._on_look()
            try:
                self._server.restart(self._shared, wanted, stop)
            except StartError as error:
                self._trouble(str(error))
                continue
            self._seen, self._asking = _Seen(self._clock()), None
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


class _Lost(Exception):  # noqa: N818 - no error of anybody's: it says that Triton must be started anew
    """Triton as a whole has to be started anew; the text says why."""


def reload_model(http: TritonHttp, version_folder: Path) -> None:
    """Load the model in ``…/<model>/<version>`` anew, whose process has died.

    Triton loads a model that it has again only if its folder has changed. Where we may not touch that, the model is
    unloaded first, and for a moment the avatars that want it are not there.
    """
    model = version_folder.parent.name
    try:
        os.utime(version_folder)
    except OSError:
        http.unload(model, REPAIR_S)
    http.load(model, REPAIR_S)


def _is_avatars(model: str) -> bool:
    return model not in _SHARED and model.startswith((AVATAR_PREFIX, FEATURES_PREFIX))


_SHARED = frozenset(model.name for model in SHARED_MODELS)
