"""How far a graph of lower precision, or an engine, may be off the float32 graph that it was made from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from export.errors import ExportError
from export.limits import sample_inputs
from export.served_graph import open_bytes, open_session, run

Inputs = dict[str, NDArray[Any]]
"""Tensors by name: FACE uint8 [B,3,S,S], AUDIO float32 [B,…]."""
Outputs = dict[str, NDArray[Any]]
"""Tensors by name: MOUTH uint8 [B,S,S,3], AVATAR_KEY int64 [B,1]."""
Run = Callable[[Inputs], Outputs]

EQUAL_DB = 100.0
"""What is said for a picture that is equal in every value, whose PSNR has no bound."""


@dataclass(frozen=True)
class PictureLimits:
    """How far pictures may be off: PSNR of the worst frame, and steps of 255 at any value."""

    min_psnr_db: float = 45.0
    max_steps: int = 3

    def __str__(self) -> str:
        return f"{self.min_psnr_db:g} dB at least and {self.max_steps} of 255 at most"


@dataclass(frozen=True)
class PictureParity:
    """What was measured: the worst frame's PSNR (`EQUAL_DB` where all is equal), the largest step, the frames."""

    psnr_db: float
    max_difference: int
    frames: int

    def __str__(self) -> str:
        what = "equal" if self.max_difference == 0 else f"PSNR {self.psnr_db:.1f} dB"
        return f"{what}, off by at most {self.max_difference} of 255 in {self.frames} frames"


def trial_inputs(side_px: int, audio_shape: tuple[int, ...], batches: Sequence[int]) -> Iterator[Inputs]:
    """A batch of each size; no two rows of it are alike, so that rows that change places are noticed."""
    samples = list(sample_inputs(side_px, audio_shape))
    faces = np.concatenate([face for face, _ in samples])
    sounds = np.concatenate([audio for _, audio in samples])
    for batch in batches:
        rows = np.arange(batch) % len(faces)
        shifted = [np.roll(faces[row], shift=n * side_px // 7, axis=2) for n, row in enumerate(rows)]
        yield {"FACE": np.ascontiguousarray(np.stack(shifted)), "AUDIO": np.ascontiguousarray(sounds[rows])}


def compare(
    what: str, candidate: Run, reference: Run, inputs: Iterator[Inputs], limits: PictureLimits
) -> PictureParity:
    """Run both on the same inputs; `ExportError` with the figures, about `what`, if they are further apart."""
    worst = PictureParity(EQUAL_DB, 0, 0)
    for given in inputs:
        found, wanted = candidate(given), reference(given)
        _check_shapes(what, found, wanted)
        measured = _measure(found["MOUTH"], wanted["MOUTH"])
        worst = replace(worse(worst, measured), frames=worst.frames + measured.frames)
    if worst.psnr_db < limits.min_psnr_db or worst.max_difference > limits.max_steps:
        raise ExportError(f"{what} is too far from its float32 graph: {worst}; {limits} are wanted")
    return worst


def _check_shapes(what: str, found: Outputs, wanted: Outputs) -> None:
    for name, tensor in wanted.items():
        if found[name].shape != tensor.shape or found[name].dtype != tensor.dtype:
            raise ExportError(
                f"{what} gives {name} {found[name].dtype} {list(found[name].shape)}; "
                f"{tensor.dtype} {list(tensor.shape)} is wanted"
            )
    if not np.array_equal(found["AVATAR_KEY"], wanted["AVATAR_KEY"]):
        raise ExportError(
            f"{what} gives AVATAR_KEY {found['AVATAR_KEY'].ravel()[:2].tolist()}; "
            f"{wanted['AVATAR_KEY'].ravel()[:2].tolist()} is wanted"
        )


def worse(first: PictureParity, second: PictureParity) -> PictureParity:
    """The larger differences of the two, on as many frames as the larger of both."""
    return PictureParity(
        min(first.psnr_db, second.psnr_db),
        max(first.max_difference, second.max_difference),
        max(first.frames, second.frames),
    )


def _measure(found: NDArray[np.uint8], wanted: NDArray[np.uint8]) -> PictureParity:
    difference = found.astype(np.int16) - wanted.astype(np.int16)
    squares = np.square(difference, dtype=np.float64).mean(axis=(1, 2, 3))
    lowest = min(psnr_db(float(error)) for error in squares)
    return PictureParity(lowest, int(np.abs(difference).max()), len(found))


def psnr_db(mean_squared_error: float) -> float:
    """Peak signal-to-noise ratio of bytes, at most `EQUAL_DB`."""
    if mean_squared_error == 0:
        return EQUAL_DB
    return min(EQUAL_DB, 10 * math.log10(255**2 / mean_squared_error))


def run_graph(path: Path) -> Run:
    """What runs the ONNX graph in the file on the CPU."""
    return _runner(path, open_session(path))


def run_bytes(name: Path, model: bytes) -> Run:
    """The same of a graph in memory, called `name`."""
    return _runner(name, open_bytes(name, model))


def _runner(name: Path, session: onnxruntime.InferenceSession) -> Run:
    names = [tensor.name for tensor in session.get_outputs()]
    return lambda inputs: dict(zip(names, run(name, session, names, inputs), strict=True))
