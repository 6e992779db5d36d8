"""Is an exported graph equal to its network? Both are run on the same pictures and sounds, and compared."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from compositor_backend.memory import give_back
from export.errors import ExportError
from export.graphs import LipSyncNetwork
from export.limits import BATCHES, SEED, Limits, Parity, judge, sample_inputs, truncated
from export.networks.audio_encoder import AudioEncoder
from export.served_graph import open_session

_Network = TypeVar("_Network", bound=nn.Module)
LEAST_EQUAL_SHARE = 0.99
"""Of values, however little of a network float32 settles: a graph that rounds where it should truncate has a half."""


def unet_reference(
    network: LipSyncNetwork,
    face: NDArray[np.uint8],
    audio: NDArray[np.float32],
    dtype: torch.dtype = torch.float32,
) -> NDArray[np.floating[Any]]:
    """What the network draws, by the original float path: [B,S,S,3] RGB in 0…255, not yet truncated.

    `face` is uint8 [B,3,S,S] RGB; the network is run, and the result given, in `dtype`. Source: BGR/255 in six
    channels in, BGR out (the facts of the published training and inference code).
    """
    family = network.family.geometry
    x1, y1, x2, y2 = family.mask
    reference = torch.from_numpy(np.ascontiguousarray(face[:, ::-1])).to(dtype) / 255
    masked = reference.clone()
    masked[:, :, y1:y2, x1:x2] = 0
    exact = _in_precision(network, dtype)
    with torch.inference_mode():
        drawn = exact(torch.cat(family.in_order(reference, masked), dim=1), torch.from_numpy(audio).to(dtype))
    rgb: NDArray[np.floating[Any]] = (drawn * 255).flip(1).permute(0, 2, 3, 1).numpy()
    return rgb


def check_unet(path: Path, network: LipSyncNetwork, key: int, limits: Limits | None = None) -> Parity:
    """Compare a served U-Net graph with its network; `ExportError` with the figures if it is off.

    Weights so wild that the network's own answer depends on the precision it is computed in cannot be equal to
    a step. Only where the limits are passed, twice the difference of its float32 and float64 answers is granted
    on top of `limits.max_steps`, and said in `Parity.allowed`. Likewise, where too few values are equal, twice the
    share in which its own answers differ once truncated is granted, down to `LEAST_EQUAL_SHARE`.
    """
    limits = limits or Limits()
    # The first and the last of a batch, loud and silent: each picture takes a large graph 165 MB.
    samples = [
        (face[:: len(face) - 1 or 1], audio[:: len(face) - 1 or 1])
        for face, audio in sample_inputs(network.family.geometry.network_px, network.mode.shape)
    ]
    # The network before the graph, so that what either takes is given back before the other comes.
    references = [truncated(path, _frame_by_frame(network, face, audio)) for face, audio in samples]
    give_back()
    session = open_session(path)
    differences = []
    for (face, audio), reference in zip(samples, references, strict=True):
        mouth, keys = session.run(["MOUTH", "AVATAR_KEY"], {"FACE": face, "AUDIO": audio})
        if keys.shape != (len(face), 1) or (keys != key).any():
            raise ExportError(f"{path} gives AVATAR_KEY {keys.tolist()}; {key} in [B,1] is wanted")
        differences.append(np.abs(mouth.astype(np.int16) - reference).ravel())
    del session
    difference = np.concatenate(differences)
    if difference.max() > limits.max_steps:
        unsettled = max(_unsettled(network, face, audio) for face, audio in samples)
        limits = replace(limits, max_steps=limits.max_steps + int(2 * unsettled))
    if float((difference == 0).mean()) < limits.equal_share:
        unequal = np.mean([_unequal_share(path, network, face, audio) for face, audio in samples])
        granted = max(LEAST_EQUAL_SHARE, limits.equal_share - 2 * float(unequal))
        limits = replace(limits, equal_share=min(limits.equal_share, granted))
    return judge(path, difference, limits)


def _unequal_share(
    path: Path, network: LipSyncNetwork, face: NDArray[np.uint8], audio: NDArray[np.float32]
) -> float:
    """In what share of values the network's own answer, truncated, depends on the precision."""
    answers = (_frame_by_frame(network, face, audio, dtype) for dtype in (torch.float32, torch.float64))
    one, other = (truncated(path, answer) for answer in answers)
    return float((one != other).mean())


def _unsettled(network: LipSyncNetwork, face: NDArray[np.uint8], audio: NDArray[np.float32]) -> float:
    """By how much of 255 the network's own answer depends on the precision."""
    exact = _frame_by_frame(network, face, audio, torch.float64)
    return float(np.abs(exact - _frame_by_frame(network, face, audio)).max())


def _frame_by_frame(
    network: LipSyncNetwork,
    face: NDArray[np.uint8],
    audio: NDArray[np.float32],
    dtype: torch.dtype = torch.float32,
) -> NDArray[np.floating[Any]]:
    """`unet_reference` with the memory of one frame."""
    rows = (slice(n, n + 1) for n in range(len(face)))
    return np.concatenate([unet_reference(network, face[row], audio[row], dtype) for row in rows])


def check_encoder(path: Path, encoder: AudioEncoder, limits: Limits | None = None) -> Parity:
    """Compare a served encoder graph with its network; `ExportError` with the figure if it is off.

    What float32 does not settle is granted, as in `check_unet`.
    """
    limits = limits or Limits()
    session = open_session(path)
    given, wanted, exact = [], [], []
    for batch in BATCHES:
        mel = np.random.default_rng(SEED + batch).uniform(-4, 4, (batch, 1, 80, 16)).astype(np.float32)
        given.append(session.run(["EMBEDDING"], {"MEL": mel})[0])
        wanted.append(_embed(encoder, mel, torch.float32))
        exact.append(_embed(encoder, mel, torch.float64))
    embedding, reference, settled = (np.concatenate(rows) for rows in (given, wanted, exact))
    if not np.isfinite(reference).all():
        raise ExportError(f"{path} gives NaN or infinity; a network with finite results is wanted")
    scale = max(float(np.abs(settled).max()), 1e-6)
    worst = float(np.abs(embedding - reference).max()) / scale
    allowed = limits.encoder_relative
    if worst > allowed:
        allowed += 2 * float(np.abs(settled - reference).max()) / scale
    if not worst <= allowed:
        raise ExportError(
            f"{path} is off by {worst:.2g} of the embedding's range; at most {allowed:.2g} is wanted"
        )
    equal = float((np.abs(embedding - reference) <= limits.encoder_relative * scale).mean())
    return Parity(worst, equal, embedding.size, allowed, "of the embedding's range")


def _embed(encoder: AudioEncoder, mel: NDArray[np.float32], dtype: torch.dtype) -> NDArray[np.floating[Any]]:
    exact = _in_precision(encoder, dtype)
    with torch.inference_mode():
        embedding: NDArray[np.floating[Any]] = exact(torch.from_numpy(mel).to(dtype)).numpy()
    return embedding


def _in_precision(network: _Network, dtype: torch.dtype) -> _Network:
    """The network itself if it computes in `dtype`, else a copy that does."""
    if all(tensor.dtype in (dtype, torch.int64) for tensor in network.state_dict().values()):
        return network.eval()
    return copy.deepcopy(network).eval().to(dtype)
