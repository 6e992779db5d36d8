"""Joining the requests of a batch into one run of the network, and taking the answers apart again."""

from __future__ import annotations

import logging
import uuid
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Tensors = dict[str, NDArray[Any]]
Run = Callable[[Collection[str], Tensors], Tensors]
"""Runs the network: names of the outputs wanted, inputs by name → outputs by name."""

_log = logging.getLogger(__name__)


class RequestFailedError(Exception):
    """A request that gets no tensors; the text is the answer to the caller."""


@dataclass(frozen=True)
class Request:
    """One request: its inputs by name, and the names of the outputs that it wants."""

    inputs: Tensors
    wanted: frozenset[str]


Answer = Tensors | RequestFailedError


class Batcher:
    """Answers lists of requests, one answer each, in order.

    With `batched` the requests' first dimension is the batch: those of equal shape otherwise run
    as one. `errors` are what `run` raises where the network cannot compute an input; if a joint
    run raises one, every request is run alone, so that only those at fault fail.
    """

    def __init__(self, name: str, run: Run, *, batched: bool, errors: tuple[type[Exception], ...]) -> None:
        self._name = name
        self._run = run
        self._batched = batched
        self._errors = errors
        self._joint_errors: tuple[type[Exception], ...] = (RequestFailedError, *errors)

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        """One answer for each request."""
        answers: dict[int, Answer] = {}
        groups: dict[Hashable, list[int]] = defaultdict(list)
        for index, request in enumerate(requests):
            groups[self._group(index, request)].append(index)
        for members in groups.values():
            found = self._answer_group([requests[index] for index in members])
            answers.update(zip(members, found, strict=True))
        return [answers[index] for index in range(len(requests))]

    def _group(self, index: int, request: Request) -> Hashable:
        """Equal for requests that may be joined; None of them where there is no batch dimension."""
        if not self._batched:
            return index
        return tuple(sorted((name, tensor.shape[1:]) for name, tensor in request.inputs.items()))

    def _answer_group(self, requests: Sequence[Request]) -> list[Answer]:
        if len(requests) == 1:
            return [self._answer_alone(requests[0])]
        with suppress(*self._joint_errors):
            return list(self._answer_joint(requests))
        return [self._answer_alone(request) for request in requests]

    def _answer_alone(self, request: Request) -> Answer:
        try:
            rows = self._rows(request)
            outputs = self._run(request.wanted, request.inputs)
            if self._batched:
                self._check_rows(outputs, rows)
        except RequestFailedError as error:
            return error
        except self._errors:
            reference = uuid.uuid4().hex[:12]
            _log.exception("%s: a request failed [%s]", self._name, reference)
            return RequestFailedError(f"{self._name} failed; see {reference} in the server's log")
        return outputs

    def _answer_joint(self, requests: Sequence[Request]) -> list[Tensors]:
        rows = [self._rows(request) for request in requests]
        joined = {
            name: np.concatenate([request.inputs[name] for request in requests])
            for name in requests[0].inputs
        }
        wanted = frozenset[str]().union(*(request.wanted for request in requests))
        outputs = self._run(wanted, joined)
        self._check_rows(outputs, sum(rows))
        ends = np.cumsum(rows)
        return [
            {name: outputs[name][end - count : end] for name in request.wanted}
            for request, count, end in zip(requests, rows, ends, strict=True)
        ]

    def _rows(self, request: Request) -> int:
        """Rows in the batch dimension, which every input of a request has alike."""
        if not self._batched:
            return 1
        rows = {name: tensor.shape[0] if tensor.ndim else 0 for name, tensor in request.inputs.items()}
        if len(set(rows.values())) != 1:
            found = ", ".join(f"{name} {count}" for name, count in rows.items())
            raise RequestFailedError(f"inputs of {self._name} have different batch sizes: {found}")
        return next(iter(rows.values()))

    def _check_rows(self, outputs: Mapping[str, NDArray[Any]], rows: int) -> None:
        for name, tensor in outputs.items():
            if tensor.ndim == 0 or tensor.shape[0] != rows:
                raise RequestFailedError(
                    f"output {name} of {self._name} has shape {list(tensor.shape)} for a batch of {rows}"
                )
