"""Engines for many avatars: each in a process of its own, and what is up to date is skipped, so a rerun goes on.

Nothing is remembered of a run: the record beside each engine says whether it is up to date. A run that was killed
left whole engines behind, and is repeated for the rest.
"""

from __future__ import annotations

import multiprocessing
import queue
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import CancelledError, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from compositor_backend import contract
from compositor_backend.errors import LipstreamError
from export.engine import MakeBuilder, Outcome, build_engine, network_of, tensorrt_builder
from export.engine_settings import EngineSettings
from export.errors import ExportError

_GRACE_S = 5.0


@dataclass(frozen=True)
class Target:
    """A network to build an engine of, and the avatars that it serves."""

    network: str
    avatars: tuple[str, ...]


@dataclass(frozen=True)
class Finished:
    """What became of a target: one of `outcome` and `error` is there."""

    target: Target
    outcome: Outcome | None = None
    error: str | None = None


def targets_of(avatars: Path, ids: Sequence[str] | None = None) -> tuple[list[Target], list[Finished]]:
    """The networks of some avatars, or of all of them, each once; and what is wrong with avatars that are not whole.

    `ExportError` if there are no avatars at all.
    """
    names = ids if ids is not None else _all_ids(avatars)
    serves: dict[str, list[str]] = {}
    broken = []
    for avatar_id in names:
        try:
            serves.setdefault(network_of(avatars, avatar_id), []).append(avatar_id)
        except LipstreamError as error:
            broken.append(Finished(Target("", (avatar_id,)), error=str(error)))
    return [Target(network, tuple(served)) for network, served in sorted(serves.items())], broken


def _all_ids(avatars: Path) -> list[str]:
    folders = sorted(avatars.glob(f"{contract.AVATAR_PREFIX}*")) if avatars.is_dir() else []
    if not folders:
        raise ExportError(f"{avatars} holds no avatar (avatar_<id>)")
    return [folder.name.removeprefix(contract.AVATAR_PREFIX) for folder in folders]


def build_engines(
    avatars: Path,
    targets: Sequence[Target],
    settings: EngineSettings,
    jobs: int = 1,
    make_builder: MakeBuilder = tensorrt_builder,
    *,
    force: bool = False,
) -> Generator[Finished, None, None]:
    """Build the engines of all targets, `jobs` at a time, and give each as it is finished.

    One that fails, or whose process dies, is one finding among the others. Closing the iterator ends the rest.
    """
    waiting: queue.SimpleQueue[Target] = queue.SimpleQueue()
    finished: queue.SimpleQueue[Finished] = queue.SimpleQueue()
    for target in targets:
        waiting.put(target)
    lanes = [
        _Lane(waiting, finished, avatars, settings, make_builder, force)
        for _ in range(max(1, min(jobs, len(targets))))
    ]
    try:
        for lane in lanes:
            lane.start()
        for _ in targets:
            yield finished.get()
    finally:
        for lane in lanes:
            lane.stop()


class _Lane(threading.Thread):
    """Takes one target after the other and hands it to a process, which is replaced if it dies."""

    def __init__(
        self,
        waiting: queue.SimpleQueue[Target],
        finished: queue.SimpleQueue[Finished],
        avatars: Path,
        settings: EngineSettings,
        make_builder: MakeBuilder,
        force: bool,
    ) -> None:
        super().__init__(daemon=True)
        self._waiting = waiting
        self._finished = finished
        self._arguments = (avatars, settings, make_builder, force)
        self._stopping = threading.Event()
        self._pool = _pool()

    def run(self) -> None:
        while not self._stopping.is_set():
            try:
                target = self._waiting.get_nowait()
            except queue.Empty:
                break
            self._finished.put(self._finish(target))
        self._pool.shutdown(wait=False)

    def stop(self) -> None:
        """Take no further target, and end the one at work: by itself after a Ctrl-C, or after `_GRACE_S`."""
        self._stopping.set()
        processes = list((self._pool._processes or {}).values())
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.join(_GRACE_S)
            if process.is_alive():
                process.terminate()

    def _finish(self, target: Target) -> Finished:
        avatars, settings, make_builder, force = self._arguments
        try:
            answer = self._pool.submit(build_one, avatars, target.network, settings, make_builder, force)
            outcome = answer.result()
        except BrokenProcessPool:
            if not self._stopping.is_set():
                self._pool = _pool()
            return Finished(target, error=f"the process that built the engine of {target.network} died")
        except (CancelledError, KeyboardInterrupt):
            # The process at work gets a Ctrl-C as well.
            return Finished(target, error="interrupted")
        except RuntimeError:
            # No work is taken any more, if `stop` came in between.
            if not self._stopping.is_set():
                raise
            return Finished(target, error="interrupted")
        return Finished(target, error=outcome) if isinstance(outcome, str) else Finished(target, outcome)


def _pool() -> ProcessPoolExecutor:
    # A fork would take CUDA's and onnxruntime's threads along, half alive.
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))


def build_one(
    avatars: Path, network: str, settings: EngineSettings, make_builder: MakeBuilder, force: bool
) -> Outcome | str:
    """One engine; what is wrong comes back as a sentence, since not every error can be sent between processes."""
    try:
        return build_engine(avatars, network, settings, make_builder, force=force)
    except LipstreamError as error:
        return str(error)
