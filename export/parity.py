"""Is an exported graph equal to its network? Both are run on the same pictures and sounds, and compared."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from export.errors import ExportError
from export.networks.audio_encoder import AudioEncoder
from export.networks.unet import LipSyncUNet

_STATE = onnxruntime.capi.onnxruntime_pybind11_state
_LOAD_ERRORS = (
    RuntimeError, ValueError, _STATE.Fail, _STATE.InvalidGraph, _STATE.InvalidProtobuf, _STATE.NotImplemented,
    _STATE.InvalidArgument, _STATE.NoSuchFile,
)  # fmt: skip
_BATCHES = (1, 3)
_SEED = 20


@dataclass(frozen=True)
class Limits:
    """How far a graph may be off: steps of 255 at any value, the share of values that must be equal."""

    max_steps: int = 1
    equal_share: float = 0.999
    encoder_relative: float = 1e-4
    """Of the largest value of the embedding."""


@dataclass(frozen=True)
class Parity:
    """What was measured; `max_difference` is in steps of 255 for a U-Net, relative for an encoder."""

    max_difference: float
    equal_share: float
    values: int


def open_session(path: Path) -> onnxruntime.InferenceSession:
    """An onnxruntime session on the CPU; `ExportError` if the file does not load."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # a failure comes back as an exception; printing it too helps nobody
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except _LOAD_ERRORS as error:
        raise ExportError(f"onnxruntime does not load {path}: {error}") from error


def unet_reference(
    network: LipSyncUNet, face: NDArray[np.uint8], audio: NDArray[np.float32]
) -> NDArray[np.uint8]:
    """What the network draws, by the original float path: uint8 [B,S,S,3] RGB.

    `face` is uint8 [B,3,S,S] RGB. Source: BGR/255 in six channels, BGR·255 truncated out (the facts of the
    published training and inference code).
    """
    x1, y1, x2, y2 = network.family.geometry.mask
    reference = torch.from_numpy(np.ascontiguousarray(face[:, ::-1])).float() / 255
    masked = reference.clone()
    masked[:, :, y1:y2, x1:x2] = 0
    with torch.inference_mode():
        drawn = network.eval()(torch.cat([reference, masked], dim=1), torch.from_numpy(audio))
    bgr = (drawn.numpy() * 255).astype(np.uint8)
    return np.ascontiguousarray(bgr[:, ::-1].transpose(0, 2, 3, 1))


def check_unet(path: Path, network: LipSyncUNet, key: int, limits: Limits | None = None) -> Parity:
    """Compare a served U-Net graph with its network; `ExportError` with the figures if it is off."""
    limits = limits or Limits()
    session = open_session(path)
    differences = []
    for face, audio in _unet_inputs(network):
        mouth, keys = session.run(["MOUTH", "AVATAR_KEY"], {"FACE": face, "AUDIO": audio})
        if keys.shape != (len(face), 1) or (keys != key).any():
            raise ExportError(f"{path} gives AVATAR_KEY {keys.tolist()}; {key} in [B,1] is wanted")
        reference = unet_reference(network, face, audio)
        differences.append(np.abs(mouth.astype(np.int16) - reference).ravel())
    return _judge(path, np.concatenate(differences), limits)


def check_encoder(path: Path, encoder: AudioEncoder, limits: Limits | None = None) -> Parity:
    """Compare a served encoder graph with its network; `ExportError` with the figure if it is off."""
    limits = limits or Limits()
    session = open_session(path)
    worst, count = 0.0, 0
    for batch in _BATCHES:
        mel = np.random.default_rng(_SEED + batch).uniform(-4, 4, (batch, 1, 80, 16)).astype(np.float32)
        (embedding,) = session.run(["EMBEDDING"], {"MEL": mel})
        with torch.inference_mode():
            reference = encoder.eval()(torch.from_numpy(mel)).numpy()
        scale = max(float(np.abs(reference).max()), 1e-6)
        worst = max(worst, float(np.abs(embedding - reference).max()) / scale)
        count += embedding.size
    if not worst <= limits.encoder_relative:
        raise ExportError(
            f"{path} is off by {worst:.2g} of the embedding's range; at most {limits.encoder_relative:g} is wanted"
        )
    return Parity(worst, float(worst == 0), count)


def _unet_inputs(network: LipSyncUNet) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
    """Smooth pictures with noise on them, and audio features from silence to loud."""
    side = network.family.geometry.network_px
    for batch in _BATCHES:
        rng = np.random.default_rng(_SEED + batch)
        slopes = rng.uniform(-1, 1, (batch, 3, 2, 1))
        line = np.linspace(-1, 1, side)
        ramp = slopes[:, :, 0, :, None] * line[:, None] + slopes[:, :, 1, :, None] * line
        noise = rng.normal(0, 25, (batch, 3, side, side))
        face = np.clip(127 + 100 * ramp + noise, 0, 255).astype(np.uint8)
        loudness = np.linspace(0, 1.5, batch).reshape(-1, 1, 1, 1)
        audio = (np.abs(rng.normal(size=(batch, *network.mode.shape))) * loudness).astype(np.float32)
        yield face, audio


def _judge(path: Path, difference: NDArray[Any], limits: Limits) -> Parity:
    parity = Parity(float(difference.max()), float((difference == 0).mean()), difference.size)
    if parity.max_difference > limits.max_steps or parity.equal_share < limits.equal_share:
        raise ExportError(
            f"{path} differs from its network by up to {parity.max_difference:.0f} of 255 and is equal in "
            f"{parity.equal_share:.3%} of values; at most {limits.max_steps} and at least "
            f"{limits.equal_share:.1%} are wanted"
        )
    return parity
