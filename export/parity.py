"""Is an exported graph equal to its network? Both are run on the same pictures and sounds, and compared."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from export.errors import ExportError
from export.limits import BATCHES, SEED, Limits, Parity, judge, sample_inputs
from export.networks.audio_encoder import AudioEncoder
from export.networks.unet import LipSyncUNet
from export.served_graph import open_session


def unet_reference(
    network: LipSyncUNet,
    face: NDArray[np.uint8],
    audio: NDArray[np.float32],
    dtype: torch.dtype = torch.float32,
) -> NDArray[np.floating[Any]]:
    """What the network draws, by the original float path: [B,S,S,3] RGB in 0…255, not yet truncated.

    `face` is uint8 [B,3,S,S] RGB; the network is run, and the result given, in `dtype`. Source: BGR/255 in six
    channels in, BGR out (the facts of the published training and inference code).
    """
    x1, y1, x2, y2 = network.family.geometry.mask
    reference = torch.from_numpy(np.ascontiguousarray(face[:, ::-1])).to(dtype) / 255
    masked = reference.clone()
    masked[:, :, y1:y2, x1:x2] = 0
    exact = copy.deepcopy(network).eval().to(dtype)
    with torch.inference_mode():
        drawn = exact(torch.cat([reference, masked], dim=1), torch.from_numpy(audio).to(dtype))
    rgb: NDArray[np.floating[Any]] = (drawn * 255).flip(1).permute(0, 2, 3, 1).numpy()
    return rgb


def check_unet(path: Path, network: LipSyncUNet, key: int, limits: Limits | None = None) -> Parity:
    """Compare a served U-Net graph with its network; `ExportError` with the figures if it is off.

    Weights so large that the network's own answer depends on the precision it is computed in cannot be equal to
    a step: twice the difference of its float32 and float64 answers is granted, which is nothing for trained ones.
    """
    limits = limits or Limits()
    session = open_session(path)
    differences, unsettled = [], 0.0
    for face, audio in sample_inputs(network.family.geometry.network_px, network.mode.shape):
        mouth, keys = session.run(["MOUTH", "AVATAR_KEY"], {"FACE": face, "AUDIO": audio})
        if keys.shape != (len(face), 1) or (keys != key).any():
            raise ExportError(f"{path} gives AVATAR_KEY {keys.tolist()}; {key} in [B,1] is wanted")
        reference = unet_reference(network, face, audio)
        exact = unet_reference(network, face, audio, torch.float64)
        unsettled = max(unsettled, float(np.abs(exact - reference).max()))
        differences.append(np.abs(mouth.astype(np.int16) - reference.astype(np.uint8)).ravel())
    granted = replace(limits, max_steps=limits.max_steps + int(2 * unsettled))
    return judge(path, np.concatenate(differences), granted)


def check_encoder(path: Path, encoder: AudioEncoder, limits: Limits | None = None) -> Parity:
    """Compare a served encoder graph with its network; `ExportError` with the figure if it is off.

    What float32 does not settle is granted, as in `check_unet`.
    """
    limits = limits or Limits()
    session = open_session(path)
    exact = copy.deepcopy(encoder).eval().double()
    worst, unsettled, count = 0.0, 0.0, 0
    for batch in BATCHES:
        mel = np.random.default_rng(SEED + batch).uniform(-4, 4, (batch, 1, 80, 16)).astype(np.float32)
        (embedding,) = session.run(["EMBEDDING"], {"MEL": mel})
        with torch.inference_mode():
            reference = encoder.eval()(torch.from_numpy(mel)).numpy()
            settled = exact(torch.from_numpy(mel).double()).numpy()
        scale = max(float(np.abs(settled).max()), 1e-6)
        worst = max(worst, float(np.abs(embedding - reference).max()) / scale)
        unsettled = max(unsettled, float(np.abs(settled - reference).max()) / scale)
        count += embedding.size
    granted = limits.encoder_relative + 2 * unsettled
    if not worst <= granted:
        raise ExportError(
            f"{path} is off by {worst:.2g} of the embedding's range; at most {granted:.2g} is wanted"
        )
    return Parity(worst, float(worst == 0), count)
