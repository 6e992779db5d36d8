"""Is an exported graph equal to its network? Both are run on the same pictures and sounds, and compared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from export.errors import ExportError
from export.limits import BATCHES, SEED, Limits, Parity, judge, sample_inputs
from export.networks.audio_encoder import AudioEncoder
from export.networks.unet import LipSyncUNet
from export.served_graph import open_session


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
    for face, audio in sample_inputs(network.family.geometry.network_px, network.mode.shape):
        mouth, keys = session.run(["MOUTH", "AVATAR_KEY"], {"FACE": face, "AUDIO": audio})
        if keys.shape != (len(face), 1) or (keys != key).any():
            raise ExportError(f"{path} gives AVATAR_KEY {keys.tolist()}; {key} in [B,1] is wanted")
        reference = unet_reference(network, face, audio)
        differences.append(np.abs(mouth.astype(np.int16) - reference).ravel())
    return judge(path, np.concatenate(differences), limits)


def check_encoder(path: Path, encoder: AudioEncoder, limits: Limits | None = None) -> Parity:
    """Compare a served encoder graph with its network; `ExportError` with the figure if it is off."""
    limits = limits or Limits()
    session = open_session(path)
    worst, count = 0.0, 0
    for batch in BATCHES:
        mel = np.random.default_rng(SEED + batch).uniform(-4, 4, (batch, 1, 80, 16)).astype(np.float32)
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
