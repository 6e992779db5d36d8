"""Keeps a Triton serving: sees what has died or does not answer, and brings it back.

Triton 2.51 neither restarts the dead process of a Python model nor reports it: every request to it fails, and the
model counts as ready. Three things are looked at:

- the processes, four times a second: a stub that has died, or was stopped and does not go on;
- Triton's own statistics, every two seconds: whether it answers, what is loaded, how many frames were drawn;
- the shared models and the loaded audio encoders, which avatars share too: one that has answered nothing for ten
  seconds gets a small request; a shared model that somebody has unloaded is loaded again.

A dead stub's model is loaded anew, which takes a fraction of a second and disturbs no other. Where that does not help,
or Triton itself has ended or is silent, Triton is started anew, with the avatars that were loaded. (A stub that dies
leaves a part of its model behind in Triton: its siblings, which are of no use. They go when Triton does.)

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
from concurrent.futures import wait as wait_for
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from compositor_backend.contract import (
    AVATAR_PREFIX,
    ENCODER_PREFIX,
    FEATURES_PREFIX,
    LIPSYNC_PREFIX,
    SHARED_MODELS,
)
from server.errors import ModelLoadError, ServerError, TritonRefusedError, TritonSilentError
from server.processes import DEAD, STOPPED, Stub
from server.triton_http import ModelCounts, TritonHttp

_log = logging.getLogger(__name__)

PERIOD_S = 0.25
ASK_EACH_S = 2.0
PROBE_EACH_S = 10.0
"""How often at most a model is probed that nobody asks: probes show in the counts of refused requests."""
SILENT_ANSWERS = 2
"""So many times in a row Triton may leave its statistics, or a model its probe, unanswered."""
MISSING_LOOKS = 2
"""In so many statistics in a row a shared model has to be missing: while it is loaded anew it is not there either."""
REFUSED_ANSWERS = 5
"""So many times in a row Triton may refuse its statistics before a person is told."""
STOPPED_S = 1.0
"""How long a stopped stub may take to go on; until then requests to it fail."""
REPAIR_S = 30.0
"""How long Triton may take to load a model."""
LEFT_BEHIND_S = 60.0
"""How long an unloaded model's process may live: twice as long as the last of its requests."""
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


Submit = Callable[[Callable[[], Any]], Future[Any]]
"""Runs a function in the background."""
Do = Callable[[Callable[[], None]], None]
"""Runs a function in the background, and returns when it has ended."""


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

    def restart(
        self,
        shared: Sequence[str],
        wanted: Sequence[str],
        cancelled: threading.Event,
        on_wait: Callable[[], None],
    ) -> None:
        """Start it anew, calling `on_wait` meanwhile; `ServerError` or `OSError` if it does not come up."""


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
    unloaded_s: dict[int, float] = field(default_factory=dict)
    """Since when the models of living stubs have not been loaded, by process id."""
    silent: int = 0
    refused: int = 0
    progress: dict[str, _Progress] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)
    """In how many statistics in a row each of the shared models was missing."""
    rows: dict[str, int] = field(default_factory=dict)
    repairs_s: dict[str, deque[float]] = field(default_factory=dict)
    loaded: frozenset[str] = frozenset()
    asked_s: float = float("-inf")
    """When Triton was asked for that."""


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
        self._asking: Future[list[ModelCounts]] | None = None
        self._ask_at_s = 0.0
        self._health = Health()
        self._last_tick_s = clock()
        self._surprise = ""

    @property
    def health(self) -> Health:
        """As of the last look; not `live` if none has succeeded for a minute."""
        health = self._health
        if self._clock() - self._last_tick_s > LONGEST_PAUSE_S + REPAIR_S:
            return replace(health, live=False, ready=False)
        return health

    def run(self, stop: threading.Event) -> None:
        """Watch until `stop` is set."""
        # One asks for the statistics, one repairs.
        executor = ThreadPoolExecutor(2, "ask-triton")
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
        """See once after everything, and mend what is broken; `submit` runs a function in the background."""
        try:
            if self._server.ended:
                raise _Lost("Triton ended by itself")
            do = self._doing(stop, submit)
            self._look_at_processes(do)
            self._look_at_answers(submit, do)
        except _Lost as lost:
            self._restart(str(lost), stop)
        except _Stopped:
            return
        self._tick()

    def _tick(self) -> None:
        """Say that the watch lives."""
        self._last_tick_s = self._clock()
        self._on_look()

    def _doing(self, stop: threading.Event, submit: Submit) -> Do:
        def do(work: Callable[[], None]) -> None:
            doing = submit(work)
            while not wait_for([doing], PERIOD_S).done:
                if stop.is_set():
                    raise _Stopped
                self._tick()
            doing.result()

        return do

    # --- processes ---
    def _look_at_processes(self, do: Do) -> None:
        seen, now = self._seen, self._clock()
        stubs = self._server.stubs()
        for stub in stubs:
            if stub.state != DEAD and stub.version_folder is not None:
                seen.folders[stub.pid] = stub.version_folder
        # Only those that are there: the kernel gives the number of one that has gone to another.
        here = {stub.pid for stub in stubs}
        seen.folders = {pid: folder for pid, folder in seen.folders.items() if pid in here}
        seen.buried &= here
        dead = {stub.pid for stub in stubs if stub.state == DEAD} - seen.buried
        seen.dead_s = {pid: seen.dead_s.get(pid, now) for pid in dead}
        self._look_at_stopped({stub.pid for stub in stubs if stub.state in STOPPED}, now)
        living = {stub.version_folder for stub in stubs if stub.state != DEAD}
        for folder, pids in self._broken(now).items():
            if not self._mend(folder, do, alone=folder not in living):
                return
            seen.buried |= pids

    def _broken(self, now: float) -> dict[Path, set[int]]:
        """Version folders of the models that are to be loaded anew, with the dead processes of each."""
        seen, found = self._seen, dict[Path, set[int]]()
        for pid, since_s in seen.dead_s.items():
            folder = seen.folders.get(pid)
            # A stub that Triton itself has ended is dead for a moment as well, until Triton takes note; and one that
            # died while it was loaded leaves no model behind. What is loaded is known only every other second.
            if since_s < now and folder is not None and folder.parent.name in seen.loaded:
                found.setdefault(folder, set()).add(pid)
            elif seen.asked_s - since_s >= ASK_EACH_S:
                seen.buried.add(pid)
        return found

    def _look_at_stopped(self, stopped: set[int], now: float) -> None:
        seen = self._seen
        seen.stopped_s = {pid: seen.stopped_s.get(pid, now) for pid in stopped}
        for pid, since_s in seen.stopped_s.items():
            if now - since_s >= STOPPED_S:
                _log.warning("process %d was stopped and does not go on; it is killed", pid)
                with suppress(ProcessLookupError):
                    self._kill(pid, signal.SIGKILL)

    def _mend(self, folder: Path, do: Do, *, alone: bool) -> bool:
        """Load the model of a dead stub anew; an avatar's own that cannot be, or dies again and again, goes.

        False if Triton does not say whether there is anything to mend: then it is for the next look.

        Requests that wait for a dead stub are not handed to a new one: each fails after a second, one after another.
        Where no other stub takes them and they are many, it is quicker to start Triton anew.
        """
        model, http = folder.parent.name, self._server.http
        self._tick()
        try:
            if not http.ready(model):  # it is being unloaded; Triton calls ready what has a dead process
                return True
        except TritonSilentError:
            return False
        self._trouble(f"a process of {model} died")
        repairs, now = self._seen.repairs_s.setdefault(model, deque(maxlen=REPAIRS)), self._clock()
        try:
            if len(repairs) == REPAIRS and now - repairs[0] < REPAIRS_WITHIN_S:
                raise ModelLoadError(f"its processes died {REPAIRS} times within {REPAIRS_WITHIN_S:.0f} s")
            repairs.append(now)
            if alone and http.pending(model) > MOST_PENDING:
                raise _Lost(f"more than {MOST_PENDING} requests wait for the dead process of {model}")
            do(lambda: reload_model(http, folder))
        except ServerError as error:
            self._trouble(f"{model} was not loaded again: {error}")
            if self._is_common(model) or isinstance(error, TritonSilentError):
                raise _Lost(f"{model} could not be loaded again") from error
            with suppress(ServerError):
                do(lambda: http.unload(model, REPAIR_S))
        else:
            self._mended(model)
        return True

    def _is_common(self, model: str) -> bool:
        """Whether many avatars need the model, so that it must not go because of what one of them does."""
        return model in self._shared or model.startswith(ENCODER_PREFIX)

    def _mended(self, model: str) -> None:
        self._health = replace(self._health, repairs=self._health.repairs + 1)
        _log.warning("%s was loaded again", model)

    # --- answers ---
    def _look_at_answers(self, submit: Submit, do: Do) -> None:
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
        except TritonSilentError as error:
            self._seen.silent += 1
            if self._seen.silent >= SILENT_ANSWERS:
                raise _Lost(f"Triton does not answer: {error}") from error
            return
        except TritonRefusedError as error:
            # It answers, so that a new one would help nothing. Once is no trouble: a model was just being unloaded.
            self._seen.silent = 0
            self._seen.refused += 1
            text = f"Triton does not tell what is loaded: {error}"
            if self._seen.refused >= REFUSED_ANSWERS and text != self._health.trouble:
                self._trouble(text)
            return
        self._seen.silent = self._seen.refused = 0
        self._note(counts)
        self._look_at_left_behind()
        self._look_at_missing(do)
        for model, progress in self._seen.progress.items():
            if progress.silent >= SILENT_ANSWERS:
                raise _Lost(f"{model} does not answer")

    def _ask(self) -> list[ModelCounts]:
        """In the background: the statistics, and probes of the shared models that have nothing to show."""
        http, seen = self._server.http, self._seen
        counts = http.counts()
        common = [count for count in counts if self._is_common(count.name)]
        seen.progress = {count.name: seen.progress.get(count.name, _Progress()) for count in common}
        for count in common:
            self._look_at_model(http, seen.progress[count.name], count)
        return counts

    def _look_at_left_behind(self) -> None:
        """Kill the processes of models that are no longer loaded.

        Triton leaves one behind that has had a request fail for want of shared memory (server issue 7481).
        """
        seen, now = self._seen, self._clock()
        unloaded = [pid for pid, folder in seen.folders.items() if folder.parent.name not in seen.loaded]
        seen.unloaded_s = {pid: seen.unloaded_s.get(pid, now) for pid in unloaded}
        late = [pid for pid, since_s in seen.unloaded_s.items() if now - since_s >= LEFT_BEHIND_S]
        if not late:
            return
        try:
            states = self._server.http.states()
        except ServerError:  # then it is for the next look
            return
        for pid in late:
            model = seen.folders[pid].parent.name
            seen.unloaded_s[pid] = now
            if states.get(model) in ("LOADING", "READY"):  # an engine may be minutes in the making
                continue
            _log.warning("process %d of %s, which is not loaded, is left behind; it is killed", pid, model)
            with suppress(ProcessLookupError):
                self._kill(pid, signal.SIGKILL)

    def _look_at_missing(self, do: Do) -> None:
        """Load again what somebody has unloaded without which nothing can be served."""
        seen, http = self._seen, self._server.http
        gone = [model for model in self._shared if model not in seen.loaded]
        seen.missing = {model: seen.missing.get(model, 0) + 1 for model in gone}
        lost = [model for model in gone if seen.missing[model] >= MISSING_LOOKS]
        with suppress(TritonSilentError):  # then it is for the next look
            # A Triton that was told to end unloads its models first, and is no longer ready.
            if lost and http.ready():
                self._load_again(lost, do)

    def _load_again(self, models: Sequence[str], do: Do) -> None:
        for model in models:
            self._trouble(f"{model} was unloaded")
            try:
                do(partial(self._server.http.load, model, REPAIR_S))
            except ServerError as error:
                raise _Lost(f"{model} was unloaded, and cannot be loaded: {error}") from error
            self._mended(model)
            del self._seen.missing[model]

    def _look_at_model(self, http: TritonHttp, progress: _Progress, count: ModelCounts) -> None:
        served, progress.successes = count.successes > progress.successes, count.successes
        if not served and self._clock() - progress.lived_s < PROBE_EACH_S:
            return
        try:
            lives = served or http.lives(count.name)
        except TritonSilentError:
            lives = False
        except TritonRefusedError:
            lives = True  # it is just being unloaded, or what it takes is not told: no sign of a hang
        if lives:
            progress.silent, progress.lived_s = 0, self._clock()
        else:
            progress.silent += 1

    def _note(self, counts: Sequence[ModelCounts]) -> None:
        self._seen.loaded = frozenset(count.name for count in counts)
        self._seen.asked_s = self._ask_at_s - ASK_EACH_S
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
            self._tick()
            try:
                self._server.restart(self._shared, wanted, stop, self._tick)
            # `OSError`: there is no memory, file or process to be had just now.
            except (ServerError, OSError) as error:
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


class _Stopped(Exception):  # noqa: N818 - no error of anybody's: it says that the watch is to end
    """Nobody waits for what is under way any more."""


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
