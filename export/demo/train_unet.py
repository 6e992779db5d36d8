"""Trains the demo's U-Net: to draw the presenter's mouth into the template frame, as the speech has it.

Trained exactly as it will be used: reference and masked picture are the same template frame with the mouth at
rest, the audio is that of the trained encoder, the truth is the renderer's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from compositor_backend.contract import WINDOWS_PER_FRAME
from export.demo.pictures import FAMILY, Pictures, Pixels
from export.demo.progress import TrainingLog, load_checkpoint, save_checkpoint
from export.networks.families import FAMILIES, HALF_WIDTHS
from export.networks.unet import LipSyncUNet

Floats = NDArray[np.float32]
AUDIO_SHAPE = FAMILIES["328"].audio["ave"].shape


@dataclass(frozen=True)
class UNetSettings:
    """Training of the U-Net."""

    steps: int = 2000
    batch: int = 8
    peak_rate: float = 3e-3
    weight_decay: float = 1e-4
    average: float = 0.99
    """Decay of the moving average of the weights; the average is what is kept."""
    mouth_weight: float = 8.0
    seed: int = 4
    validate_every: int = 100
    save_every: int = 25


@dataclass
class Run:
    """What a training carries from step to step."""

    network: LipSyncUNet
    averaged: LipSyncUNet
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    step: int = 0


def network_input(crops: Tensor) -> Tensor:
    """Inner crops uint8 RGB [B, S, S, 3] to the network's visual input float32 BGR/255 [B, 6, S, S]."""
    reference = crops.permute(0, 3, 1, 2).flip(1).float() / 255
    x1, y1, x2, y2 = FAMILY.mask
    masked = reference.clone()
    masked[:, :, y1:y2, x1:x2] = 0
    return torch.cat([reference, masked], dim=1).contiguous(memory_format=torch.channels_last)


def network_target(truths: Tensor) -> Tensor:
    """Truths uint8 RGB [B, S, S, 3] to float32 BGR/255 [B, 3, S, S]."""
    return truths.permute(0, 3, 1, 2).flip(1).float() / 255


def network_audio(embeddings: NDArray[np.float16], rows: NDArray[np.int64]) -> Tensor:
    """The 16 embeddings from each row on, float32 [B, 32, 16, 16]."""
    picked = embeddings[rows[:, None] + np.arange(WINDOWS_PER_FRAME)]
    return torch.from_numpy(picked.astype(np.float32)).reshape(-1, *AUDIO_SHAPE)


def pixel_weights(pictures: Pictures, mouth_weight: float, samples: int = 256) -> Floats:
    """Weights of the loss, float32 [S, S]: 1 where nothing ever changes, up to `1 + mouth_weight` at the mouth."""
    change = mean_change(pictures, samples)
    smooth = functional.avg_pool2d(torch.from_numpy(change)[None, None], 9, 1, 4)[0, 0]
    return (1 + mouth_weight * (smooth / smooth.max()).sqrt()).numpy()


def mean_change(pictures: Pictures, samples: int = 256) -> Floats:
    """How much each pixel differs from the template's on average, float32 [S, S], in grey levels."""
    first = pictures.settings.validation
    crops, truths, _ = pictures.get(first + np.arange(min(samples, pictures.settings.training)))
    change: Floats = np.abs(crops.astype(np.int16) - truths).mean(axis=(0, 3), dtype=np.float32)
    return change


def mouth_area(pictures: Pictures, threshold: float = 1.0) -> tuple[slice, slice]:
    """Rows and columns of the rectangle around all pixels that change by `threshold` grey levels on average."""
    changed = mean_change(pictures) > threshold
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def train_unet(
    pictures: Pictures,
    embeddings: NDArray[np.float16],
    folder: Path,
    settings: UNetSettings,
    log: TrainingLog,
    device: torch.device,
    deadline_s: float = float("inf"),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> LipSyncUNet:
    """Train, or go on from the last checkpoint; leaves ``folder/unet.pt``, returns the averaged network.

    `deadline_s` is a time of `time.monotonic`; after it the training stops with what it has.
    """
    run = _start(folder / "unet.pt", settings, device)
    weights = torch.from_numpy(pixel_weights(pictures, settings.mouth_weight)).to(device)
    while run.step < settings.steps and time.monotonic() < deadline_s:
        loss = _step(run, pictures, embeddings, weights, settings, device)
        if run.step % settings.save_every == 0 or run.step == settings.steps:
            save_checkpoint(folder / "unet.pt", _state(run, settings))
        if run.step % settings.validate_every == 0 or run.step == settings.steps:
            settle_statistics(run.averaged, pictures, embeddings, device, batches=8)
            figures = validate_unet(run.averaged, pictures, embeddings, device, folder / f"strip-{run.step}.png")
            log.write(step=run.step, loss=loss, **figures)
        progress(run.step, settings.steps)
    settle_statistics(run.averaged, pictures, embeddings, device, batches=40)
    save_checkpoint(folder / "unet-final.pt", run.averaged.state_dict())
    return run.averaged.eval()


def _start(path: Path, settings: UNetSettings, device: torch.device) -> Run:
    torch.manual_seed(settings.seed)
    network, averaged = (new_network().to(device, memory_format=torch.channels_last) for _ in range(2))
    averaged.load_state_dict(network.state_dict())
    optimizer = torch.optim.AdamW(
        network.parameters(), settings.peak_rate, betas=(0.9, 0.98), weight_decay=settings.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.peak_rate, total_steps=settings.steps, pct_start=0.1, final_div_factor=1e3
    )
    run = Run(network, averaged, optimizer, schedule)
    state = load_checkpoint(path)
    if state is not None and state["settings"] == asdict(settings):
        run.step = int(state["step"])
        for name in ("network", "averaged", "optimizer", "schedule"):
            getattr(run, name).load_state_dict(state[name])
    return run


def new_network() -> LipSyncUNet:
    """The demo's network: the 328 family at half its width."""
    return LipSyncUNet("328", "ave", HALF_WIDTHS)


def _state(run: Run, settings: UNetSettings) -> dict[str, Any]:
    parts = ("network", "averaged", "optimizer", "schedule")
    state = {name: getattr(run, name).state_dict() for name in parts}
    return {"settings": asdict(settings), "step": run.step, **state}


def _step(
    run: Run,
    pictures: Pictures,
    embeddings: NDArray[np.float16],
    weights: Tensor,
    settings: UNetSettings,
    device: torch.device,
) -> float:
    crops, truths, rows = pictures.get(batch_numbers(pictures, settings, run.step))
    run.network.train()
    with torch.autocast(device.type, torch.bfloat16):
        audio = network_audio(embeddings, rows).to(device)
        predicted = run.network(network_input(torch.from_numpy(crops).to(device)), audio)
    loss = picture_loss(predicted.float(), network_target(torch.from_numpy(truths).to(device)), weights)
    run.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(run.network.parameters(), 1.0)
    run.optimizer.step()
    run.schedule.step()
    run.step += 1
    _average(run.averaged, run.network, min(settings.average, (1 + run.step) / (10 + run.step)))
    return float(loss.detach())


def batch_numbers(pictures: Pictures, settings: UNetSettings, step: int) -> NDArray[np.int64]:
    """Numbers of the training pictures of a step: each picture once in an epoch, the first epoch as drawn."""
    per_epoch = pictures.settings.training // settings.batch
    epoch, at = divmod(step, per_epoch)
    order = np.arange(pictures.settings.training)
    if epoch:
        order = np.random.default_rng((settings.seed, epoch)).permutation(order)
    return pictures.settings.validation + order[at * settings.batch : (at + 1) * settings.batch]


def picture_loss(predicted: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean of absolute and squared differences of the pixels, and of their gradients' differences."""
    difference = predicted - target
    across = (difference[..., 1:] - difference[..., :-1]).abs() * weights[:, 1:]
    down = (difference[..., 1:, :] - difference[..., :-1, :]).abs() * weights[1:]
    pixels = (weights * (difference.abs() + 4 * difference.square())).mean()
    return pixels + 0.5 * (across.mean() + down.mean())


@torch.no_grad()
def _average(averaged: nn.Module, network: nn.Module, decay: float) -> None:
    for mean, new in zip(averaged.parameters(), network.parameters(), strict=True):
        mean.lerp_(new, 1 - decay)
    for mean, new in zip(averaged.buffers(), network.buffers(), strict=True):
        mean.copy_(new)


@torch.no_grad()
def settle_statistics(
    network: nn.Module, pictures: Pictures, embeddings: NDArray[np.float16], device: torch.device, batches: int
) -> None:
    """Compute the batch norms' statistics afresh: those of the network in training are not the average's."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over the batches
    network.train()
    first = pictures.settings.validation
    for n in range(batches):
        crops, _, rows = pictures.get(first + np.arange(n * 8, n * 8 + 8) % pictures.settings.training)
        audio = network_audio(embeddings, rows).to(device)
        network(network_input(torch.from_numpy(crops).to(device)), audio)
    for norm in norms:
        norm.momentum = 0.1
    network.eval()


# --- figures ---
@torch.inference_mode()
def predict(network: nn.Module, crops: Pixels, audio: Tensor, device: torch.device) -> Pixels:
    """Pictures uint8 RGB [B, S, S, 3], truncated as the exported graph does."""
    network.eval()
    predicted = network(network_input(torch.from_numpy(crops).to(device)), audio.to(device))
    pixels = (predicted * 255).clamp(0, 255).to(torch.uint8).flip(1).permute(0, 2, 3, 1)
    return np.ascontiguousarray(pixels.cpu().numpy())


def validate_unet(
    network: nn.Module,
    pictures: Pictures,
    embeddings: NDArray[np.float16],
    device: torch.device,
    strip: Path | None = None,
) -> dict[str, float]:
    """PSNR of the mouth area and the mean absolute error of the whole picture, on held-out speech."""
    crops, truths, rows = pictures.get(np.arange(pictures.settings.validation))
    parts = [
        predict(network, crops[n : n + 8], network_audio(embeddings, rows[n : n + 8]), device)
        for n in range(0, len(crops), 8)
    ]
    predicted = np.concatenate(parts)
    area = mouth_area(pictures)
    if strip is not None:
        _write_strip(strip, predicted, truths, area)
    errors = np.square(predicted.astype(np.float32) - truths)[:, area[0], area[1]].mean(axis=(1, 2, 3))
    return {
        "psnr_db": float(10 * np.log10(255**2 / errors.mean())),
        "psnr_median_db": float(10 * np.log10(255**2 / np.median(errors))),
        "mean_error": float(np.abs(predicted.astype(np.float32) - truths).mean()),
    }


def _write_strip(path: Path, predicted: Pixels, truths: Pixels, area: tuple[slice, slice]) -> None:
    """Two runs of mouths side by side, predictions above the truth."""
    from PIL import Image

    rows = []
    for first in range(0, min(48, len(truths)), 12):
        rows += [np.concatenate([p[area] for p in some[first : first + 12]], axis=1) for some in (predicted, truths)]
    Image.fromarray(np.concatenate(rows)).save(path)
