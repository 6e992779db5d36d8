"""Trains the demo's U-Net: to draw the presenter's mouth into the template frame, as the speech has it.

Trained exactly as it will be used: reference and masked picture are the same template frame with the mouth at
rest, the audio is that of the trained encoder, the truth is the renderer's.
"""

from __future__ import annotations

import math
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn
from torch.nn import functional

from compositor_backend.contract import WINDOWS_PER_FRAME
from export.demo.pictures import FAMILY, Pictures, PictureSettings, Pixels
from export.demo.progress import TrainingLog, load_checkpoint, pick_device, save_checkpoint
from export.networks.families import FAMILIES, HALF_WIDTHS
from export.networks.unet import LipSyncUNet

Floats = NDArray[np.float32]
AUDIO_SHAPE = FAMILIES["328"].audio["ave"].shape


@dataclass(frozen=True)
class UNetSettings:
    """Training of the U-Net."""

    steps: int = 1400
    batch: int = 8
    peak_rate: float = 3e-3
    weight_decay: float = 1e-4
    average: float = 0.99
    """Decay of the moving average of the weights; the average is what is kept."""
    mouth_weight: float = 8.0
    ideal_steps: int = 200
    """Steps with ideal embeddings, made from the true mouths: to learn drawing, needs no encoder yet."""
    seed: int = 4
    validate_every: int = 100
    save_every: int = 25


@dataclass(frozen=True)
class UNetJob:
    """A training: `folder` holds ``pictures/``, ``ideal.npy``, ``embeddings.npy`` and gets the results."""

    folder: Path
    settings: UNetSettings
    pictures: PictureSettings
    device: str = "cpu"
    workers: int = 1
    budget_s: float = float("inf")
    """Time for all steps; on a slow machine the schedule is shortened to it."""


@dataclass
class Run:
    """What a training carries from step to step."""

    network: LipSyncUNet
    averaged: LipSyncUNet
    optimizer: torch.optim.Optimizer
    step: int = 0
    spent_s: float = 0.0
    done: float = 0.0
    """Share of the training that is behind it, by steps or by time, whichever says more."""


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


def train_unet(job: UNetJob, progress: Callable[[int, int], None] = lambda done, total: None) -> LipSyncUNet:
    """Train, or go on from the last checkpoint; leaves ``unet.pt`` and ``unet-final.pt`` in the job's folder.

    On a CPU each worker is a process with one thread and its share of the batch, which loses less to a busy
    machine than threads that wait for one another in every layer. Returns the averaged network.
    """
    if job.workers == 1:
        return _work(0, job, progress)
    with tempfile.TemporaryDirectory() as meeting:
        store = str(Path(meeting) / "store")
        others = [
            multiprocessing.get_context("spawn").Process(target=_join, args=(rank, job, store), daemon=True)
            for rank in range(1, job.workers)
        ]
        for other in others:
            other.start()
        network = _meet(0, job, store, progress)
        for other in others:
            other.join()
    return network


def _join(rank: int, job: UNetJob, store: str) -> None:
    """Entry point of the workers other than the first."""
    _meet(rank, job, store, lambda done, total: None)


def _meet(rank: int, job: UNetJob, store: str, progress: Callable[[int, int], None]) -> LipSyncUNet:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=job.workers,
        timeout=timedelta(minutes=30),
    )
    try:
        return _work(rank, job, progress)
    finally:
        distributed.destroy_process_group()


def _work(rank: int, job: UNetJob, progress: Callable[[int, int], None]) -> LipSyncUNet:
    settings, device = job.settings, pick_device(job.device)
    pictures = Pictures(job.folder / "pictures", job.pictures)
    run = _start(job.folder / "unet.pt", settings, device)
    weights = torch.from_numpy(pixel_weights(pictures, settings.mouth_weight)).to(device)
    log = TrainingLog(job.folder / "log.jsonl", "unet")
    sources = Embeddings(job.folder, settings)
    while run.done < 1:
        started = time.monotonic()
        loss = _step(run, rank, job, pictures, sources.at(run.step), weights, device)
        run.spent_s += time.monotonic() - started
        if rank == 0:
            _look_after(run, job, pictures, sources.at(run.step), loss, log, device)
            progress(round(run.done * settings.steps), settings.steps)
    if rank == 0:
        settle_statistics(run.averaged, pictures, sources.at(run.step), device, batches=40)
        save_checkpoint(job.folder / "unet-final.pt", run.averaged.state_dict())
    return run.averaged.eval()


class Embeddings:
    """Where the audio input comes from: for the first steps the ideal encoder's, then the trained one's."""

    def __init__(self, folder: Path, settings: UNetSettings) -> None:
        self._folder, self._ideal_steps = folder, settings.ideal_steps
        self._opened: dict[str, NDArray[np.float16]] = {}

    def at(self, step: int) -> NDArray[np.float16]:
        """Embeddings float16 [R, 512] for a step; waits until the encoder's have been stored."""
        name = "ideal.npy" if step < self._ideal_steps else "embeddings.npy"
        if name not in self._opened:
            while not (self._folder / name).exists():
                time.sleep(0.5)
            self._opened[name] = np.load(self._folder / name, mmap_mode="r")
        return self._opened[name]


def _look_after(
    run: Run,
    job: UNetJob,
    pictures: Pictures,
    embeddings: NDArray[np.float16],
    loss: float,
    log: TrainingLog,
    device: torch.device,
) -> None:
    """Save and validate when it is time for it."""
    settings, step = job.settings, run.step
    if step % settings.save_every == 0 or run.done >= 1:
        save_checkpoint(job.folder / "unet.pt", _state(run, settings))
    if step % settings.validate_every == 0 or run.done >= 1:
        settle_statistics(run.averaged, pictures, embeddings, device, batches=6)
        strip = job.folder / f"strip-{step:05d}.png"
        log.write(step=step, loss=loss, **validate_unet(run.averaged, pictures, embeddings, device, strip))


def _start(path: Path, settings: UNetSettings, device: torch.device) -> Run:
    torch.manual_seed(settings.seed)
    network, averaged = (new_network().to(device, memory_format=torch.channels_last) for _ in range(2))
    averaged.load_state_dict(network.state_dict())
    optimizer = torch.optim.AdamW(
        network.parameters(), settings.peak_rate, betas=(0.9, 0.98), weight_decay=settings.weight_decay
    )
    run = Run(network, averaged, optimizer)
    state = load_checkpoint(path)
    if state is not None and _comparable(state["settings"]) == _comparable(asdict(settings)):
        run.step, run.spent_s = int(state["step"]), float(state.get("spent_s", 0.0))
        run.done = run.step / settings.steps
        for name in ("network", "averaged", "optimizer"):
            getattr(run, name).load_state_dict(state[name])
    return run


def _comparable(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings without the length, which may change while a training goes on."""
    return {name: value for name, value in settings.items() if name != "steps"}


def learning_rate(run: Run, settings: UNetSettings) -> float:
    """Rises linearly over the first 60 steps, then falls along a cosine to a thousandth at the end."""
    warm = min(1.0, (run.step + 1) / 60)
    return settings.peak_rate * warm * (0.001 + 0.999 * (0.5 + 0.5 * math.cos(math.pi * min(run.done, 1.0))))


def new_network() -> LipSyncUNet:
    """The demo's network: the 328 family at half its width."""
    return LipSyncUNet("328", "ave", HALF_WIDTHS)


def _state(run: Run, settings: UNetSettings) -> dict[str, Any]:
    parts = ("network", "averaged", "optimizer")
    state = {name: getattr(run, name).state_dict() for name in parts}
    return {"settings": asdict(settings), "step": run.step, "spent_s": run.spent_s, **state}


def _step(
    run: Run,
    rank: int,
    job: UNetJob,
    pictures: Pictures,
    embeddings: NDArray[np.float16],
    weights: Tensor,
    device: torch.device,
) -> float:
    numbers = batch_numbers(pictures, job.settings, run.step)[rank :: job.workers]
    crops, truths, rows = pictures.get(numbers)
    run.network.train()
    with torch.autocast(device.type, torch.bfloat16):
        audio = network_audio(embeddings, rows).to(device)
        predicted = run.network(network_input(torch.from_numpy(crops).to(device)), audio)
    loss = picture_loss(predicted.float(), network_target(torch.from_numpy(truths).to(device)), weights)
    run.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    done = max(run.step / job.settings.steps, run.spent_s / job.budget_s)
    run.done = _share(run.network, job.workers, done)
    nn.utils.clip_grad_norm_(run.network.parameters(), 1.0)
    for group in run.optimizer.param_groups:
        group["lr"] = learning_rate(run, job.settings)
    run.optimizer.step()
    run.step += 1
    if run.step >= job.settings.steps:
        run.done = 1.0
    _average(run.averaged, run.network, min(job.settings.average, (1 + run.step) / (10 + run.step)))
    return float(loss.detach())


def _share(network: nn.Module, workers: int, done: float) -> float:
    """The mean of all workers' gradients, in one exchange; every worker then takes the same step.

    The mean of their `done` comes back, so that they also stop at the same step.
    """
    if workers == 1:
        return done
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    flat = torch.cat([*(gradient.reshape(-1) for gradient in gradients), torch.tensor([done])])
    distributed.all_reduce(flat)
    flat /= workers
    parts = torch.split(flat[:-1], [gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))
    return float(flat[-1])


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
    network: nn.Module,
    pictures: Pictures,
    embeddings: NDArray[np.float16],
    device: torch.device,
    batches: int,
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
        rows += [
            np.concatenate([p[area] for p in some[first : first + 12]], axis=1)
            for some in (predicted, truths)
        ]
    Image.fromarray(np.concatenate(rows)).save(path)
