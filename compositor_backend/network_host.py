"""Answers batches of requests with networks that are loaded when they are wanted.

Requests whose network is resident are computed at once, in Triton's own thread. The others are deferred: a loader
thread opens their network, computes them, and answers them from there, while further batches go on. A request that
fails is answered alone.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from numpy.typing import NDArray

from compositor_backend.errors import BusyError, DamagedAvatarError, NetworkError, RefusedNetworkError
from compositor_backend.graph_file import GraphFile
from compositor_backend.network_cache import CacheCounts, NetworkCache
from compositor_backend.onnx_runtime import Network

Tensors = Mapping[str, NDArray[Any]]
MAX_DEFERRED = 512
"""Requests that wait for networks at a time; more are refused, and may be sent again."""


class Exchange(Protocol):
    """One request, and how it is answered: see `compositor_backend.triton.Exchange`."""

    inputs: dict[str, NDArray[Any]]

    def response(self, outputs: Tensors) -> Any:
        """What answers the request."""
        ...

    def failure(self, error: Exception) -> Any:
        """What answers a request that failed."""
        ...

    def defer(self) -> None:
        """Answer later."""
        ...

    def send(self, response: Any) -> None:
        """Answer a request that was deferred."""
        ...

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for the answer any more."""
        ...


@dataclass(frozen=True)
class Work:
    """What a request of the avatar `avatar_id` comes to: rows of `graph`, None where no network is needed."""

    avatar_id: str
    graph: GraphFile | None


_Work = TypeVar("_Work", bound=Work)


class NetworkModel(ABC, Generic[_Work]):
    """What a model does with its networks; the host does the rest."""

    @abstractmethod
    def sample(self, avatar_id: str) -> dict[str, NDArray[Any]]:
        """The inputs of a request for one row of an avatar, to warm its network with."""

    @abstractmethod
    def work(self, inputs: dict[str, NDArray[Any]]) -> _Work:
        """What a request asks for; an error answers it alone."""

    @abstractmethod
    def compute(self, network: Network | None, works: Sequence[_Work]) -> list[Tensors]:
        """The outputs of each of several requests for one network (None: for none), in order."""


@dataclass(frozen=True)
class _Job(Generic[_Work]):
    """A request, where it stands among those that came with it, and what it comes to."""

    index: int
    exchange: Exchange
    work: _Work


class NetworkHost(Generic[_Work]):
    """The networks of one model instance, and the requests that wait for them.

    `open_network` opens a graph; `report` is told the cache's counts after each batch and each load, from one thread at
    a time; `warn` is told what goes to the log.
    """

    def __init__(
        self,
        model: NetworkModel[_Work],
        open_network: Callable[[GraphFile], Network],
        budget_bytes: int,
        *,
        report: Callable[[CacheCounts], None],
        warn: Callable[[str], None],
    ) -> None:
        self._model = model
        self._open_network = open_network
        self._cache: NetworkCache[Network] = NetworkCache(budget_bytes)
        self._report = report
        # Triton 2.51's Python backend crashes where two threads set metrics at the same time.
        self._reporting = threading.Lock()
        self._warn = warn
        # One run at a time: two would take their activations from the arena at once, and share the same cores.
        self._computing = threading.Lock()
        self._deferred = 0
        self._deferred_lock = threading.Lock()

    def answer(self, exchanges: Sequence[Exchange]) -> list[Any]:
        """A response for each request in order, None for one that was deferred."""
        responses: list[Any] = [None] * len(exchanges)
        resident = []
        for graph, jobs in self._grouped(exchanges, responses).items():
            network = None if graph is None else self._cache.acquire(graph.sha256, len(jobs))
            if graph is not None and network is None:
                self._defer(graph, jobs, responses)
            else:
                resident.append((network, jobs))
        for network, jobs in resident:
            try:
                for job, response in zip(jobs, self._responses(network, jobs), strict=True):
                    responses[job.index] = response
            finally:
                if network is not None:
                    self._cache.release(network.graph.sha256)
        self._tell()
        return responses

    def warm(self, avatar_id: str) -> None:
        """Open an avatar's network and compute a row with it, before it is asked for; an error says why it cannot."""
        work = self._model.work(self._model.sample(avatar_id))
        if work.graph is None:
            return
        done = threading.Event()
        failures: list[Exception] = []

        def loaded(found: Network | Exception) -> None:
            try:
                if isinstance(found, Exception):
                    raise found
                with self._computing:
                    self._model.compute(found, [work])
            except Exception as error:  # noqa: BLE001 - raised again by the thread that waits
                failures.append(error)
            finally:
                done.set()

        self._load(work.graph, loaded)
        done.wait()
        if failures:
            raise failures[0]

    def close(self) -> None:
        """End the loader threads and let the networks go."""
        self._cache.close()

    def _tell(self) -> None:
        with self._reporting:
            self._report(self._cache.counts)

    def _grouped(
        self, exchanges: Sequence[Exchange], responses: list[Any]
    ) -> dict[GraphFile | None, list[_Job[_Work]]]:
        """Requests by the network that they need; those that are wrong are answered."""
        groups: dict[str | None, tuple[GraphFile | None, list[_Job[_Work]]]] = {}
        for index, exchange in enumerate(exchanges):
            try:
                work = self._model.work(exchange.inputs)
            except Exception as error:  # noqa: BLE001 - the boundary: whatever it was, the others must be served
                responses[index] = exchange.failure(error)
                continue
            key = None if work.graph is None else work.graph.sha256
            groups.setdefault(key, (work.graph, []))[1].append(_Job(index, exchange, work))
        return dict(groups.values())

    def _responses(self, network: Network | None, jobs: Sequence[_Job[_Work]]) -> list[Any]:
        """Compute requests for one network together; where that fails, each alone."""
        try:
            with self._computing:
                outputs = self._model.compute(network, [job.work for job in jobs])
            return [job.exchange.response(output) for job, output in zip(jobs, outputs, strict=True)]
        except Exception as error:  # noqa: BLE001 - the boundary: whatever it was, the others must be served
            if len(jobs) == 1:
                return [jobs[0].exchange.failure(_as_answer(error, jobs[0].work))]
            return [response for job in jobs for response in self._responses(network, [job])]

    # --- networks that have to be loaded ---
    def _defer(self, graph: GraphFile, jobs: Sequence[_Job[_Work]], responses: list[Any]) -> None:
        deferred = []
        for job in jobs:
            if not self._enter():
                text = f"{MAX_DEFERRED} requests wait for networks to be loaded already; retry later"
                responses[job.index] = job.exchange.failure(BusyError(text))
                continue
            job.exchange.defer()
            # Of the inputs that are kept: the others are gone when this batch is over.
            deferred.append(_Job(job.index, job.exchange, self._model.work(job.exchange.inputs)))
        if deferred:
            self._load(graph, lambda found: self._finish(deferred, found), len(deferred))

    def _load(
        self, graph: GraphFile, loaded: Callable[[Network | Exception], None], requests: int = 1
    ) -> None:
        self._cache.load(graph.sha256, graph.nbytes, lambda: self._open_network(graph), loaded, requests)

    def _enter(self) -> bool:
        with self._deferred_lock:
            if self._deferred >= MAX_DEFERRED:
                return False
            self._deferred += 1
            return True

    def _finish(self, jobs: Sequence[_Job[_Work]], found: Network | Exception) -> None:
        """Answer requests that waited for a network, in a loader thread."""
        waiting = [job for job in jobs if not job.exchange.cancelled]
        try:
            if isinstance(found, Exception):
                responses = [job.exchange.failure(_as_answer(found, job.work)) for job in waiting]
            else:
                responses = self._responses(found, waiting) if waiting else []
            for job, response in zip(waiting, responses, strict=True):
                job.exchange.send(response)
        except Exception as error:  # noqa: BLE001 - a loader thread must live on
            self._warn(f"requests that waited for a network could not be answered: {error}")
        finally:
            with self._deferred_lock:
                self._deferred -= len(jobs)
            if not isinstance(found, Exception):
                found.settle()
            self._tell()


def _as_answer(error: Exception, work: Work) -> Exception:
    """What the caller is told: of a network that does not open or run, that the avatar is damaged."""
    if not isinstance(error, NetworkError):
        return error
    verb = "refused" if isinstance(error, RefusedNetworkError) else "damaged"
    answer = DamagedAvatarError(f"AVATAR {work.avatar_id!r} is {verb} on this server")
    answer.__cause__ = error
    return answer
