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
from export.demo.corpus import Corpus
from export.demo.pictures import FAMILY, Pictures, PictureSettings, Pixels
from export.demo.progress import TrainingLog, load_checkpoint, mixed_precision, pick_device, save_checkpoint
from export.demo.track import CHANNELS
from export.networks.families import FAMILIES, HALF_WIDTHS
from export.networks.unet import LipSyncUNet

Floats = NDArray[np.float32]
WORST_SHARE, WORST_WEIGHT = 0.01, 2.0
"""Of a picture's pixels those that differ most, and what they weigh in the loss beside the mean of all."""
AUDIO_SHAPE = FAMILIES["328"].audio["ave"].shape


@dataclass(frozen=True)
class UNetSettings:
    """Training of the U-Net."""

    steps: int = 2400
    batch: int = 8
    peak_rate: float = 2.5e-3
    weight_decay: float = 1e-4
    average: float = 0.99
    """Decay of the moving average of the weights; the average is what is kept."""
    mouth_weight: float = 8.0
    audio_steps: int = 800
    """Steps of the audio branch alone, before all others, with batches of `audio_batch`."""
    audio_batch: int = 64
    reader_weight: float = 0.5
    seed: int = 4
    validate_every: int = 100
    save_every: int = 25


@dataclass(frozen=True)
class UNetJob:
    """A training: `folder` holds ``corpus/``, ``pictures/`` and ``embeddings.npy``, and gets the results."""

    folder: Path
    settings: UNetSettings
    pictures: PictureSettings
    device: str = "cpu"
    workers: int = 1
    budget_s: float = float("inf")
    """Time for all steps; on a slow machine the schedule is shortened to it."""


class CoachedUNet(nn.Module):
    """A U-Net with two readers that exist in training only.

    They read the mouth's five numbers off the audio branch's map and off the fused map, at every place. That
    tells the audio branch at once what it is for; from the picture alone it learns it slowly, through the
    whole decoder.
    """

    def __init__(self, network: LipSyncUNet) -> None:
        super().__init__()
        self.network = network
        widest = network.widths[-1]
        self.audio_reader = nn.Conv2d(widest, CHANNELS, 1)
        self.fused_reader = nn.Conv2d(widest // 2, CHANNELS, 1)
        self._fused: list[Tensor] = []
        self._heard: list[Tensor] = []
        network.audio_model.register_forward_hook(lambda module, given, made: self._heard.append(made))
        network.fuse_conv.register_forward_hook(lambda module, given, made: self._fused.append(made))

    def forward(self, x: Tensor, audio: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The picture, and what the readers read: float32 [B, 5, 10, 10] each."""
        self._heard.clear()
        self._fused.clear()
        picture: Tensor = self.network(x, audio)
        return picture, self.audio_reader(self._heard.pop()), self.fused_reader(self._fused.pop())

    def hear(self, audio: Tensor) -> Tensor:
        """What is read off the audio branch alone, [B, 5, 10, 10]."""
        read: Tensor = self.audio_reader(self.network.audio_model(audio))
        self._heard.clear()
        return read


@dataclass
class Run:
    """What a training carries from step to step."""

    coached: CoachedUNet
    averaged: LipSyncUNet
    optimizer: torch.optim.Optimizer
    step: int = 0
    spent_s: float = 0.0
    done: float = 0.0
    """Share of the training that is behind it, by steps or by time, whichever says more."""


@dataclass(frozen=True)
class Material:
    """What is learnt from."""

    pictures: Pictures
    embeddings: NDArray[np.float16]
    mouths: NDArray[np.float32]


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
    teach_audio_branch(job)
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
    settings, device, material = job.settings, pick_device(job.device), open_material(job)
    run = _start(job.folder / "unet.pt", settings, device)
    weights = torch.from_numpy(pixel_weights(material.pictures, settings.mouth_weight)).to(device)
    log = TrainingLog(job.folder / "log.jsonl", "unet")
    while run.done < 1:
        started = time.monotonic()
        loss = _step(run, rank, job, material, weights, device)
        run.spent_s += time.monotonic() - started
        if rank == 0:
            _look_after(run, job, material, loss, log, device)
            progress(max(run.step, round(run.done * settings.steps)), settings.steps)
    if rank == 0:
        settle_statistics(run.averaged, material, device, batches=40)
        save_checkpoint(job.folder / "unet-final.pt", run.averaged.state_dict())
    return run.averaged.eval()


def open_material(job: UNetJob) -> Material:
    """The job's pictures, embeddings and true mouths."""
    embeddings = np.load(job.folder / "embeddings.npy", mmap_mode="r")
    mouths = np.load(job.folder / "corpus" / "mouths.npy", mmap_mode="r")
    return Material(Pictures(job.folder / "pictures", job.pictures), embeddings, mouths)


def _look_after(
    run: Run, job: UNetJob, material: Material, loss: float, log: TrainingLog, device: torch.device
) -> None:
    """Save and validate when it is time for it."""
    settings, step = job.settings, run.step
    if step % settings.save_every == 0 or run.done >= 1:
        save_checkpoint(job.folder / "unet.pt", _state(run, settings))
    if step % settings.validate_every == 0 or run.done >= 1:
        settle_statistics(run.averaged, material, device, batches=6)
        strip = job.folder / f"strip-{step:05d}.png"
        log.write(step=step, loss=loss, **validate_unet(run.averaged, material, device, strip))


def _start(path: Path, settings: UNetSettings, device: torch.device) -> Run:
    torch.manual_seed(settings.seed)
    network, averaged = (new_network().to(device) for _ in range(2))
    for part in (network, averaged):
        part.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    coached = CoachedUNet(network).to(device)
    averaged.load_state_dict(network.state_dict())
    optimizer = torch.optim.AdamW(
        coached.parameters(), settings.peak_rate, betas=(0.9, 0.98), weight_decay=settings.weight_decay
    )
    run = Run(coached, averaged, optimizer)
    state = load_checkpoint(path)
    if state is not None and _comparable(state["settings"]) == _comparable(asdict(settings)):
        run.step, run.spent_s = int(state["step"]), float(state["spent_s"])
        run.done = run.step / settings.steps
        for name in ("coached", "averaged", "optimizer"):
            getattr(run, name).load_state_dict(state[name])
    return run


def _comparable(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings without the length, which may change while a training goes on."""
    return {name: value for name, value in settings.items() if name != "steps"}


def teach_audio_branch(
    job: UNetJob, progress: Callable[[int, int], None] = lambda done, total: None
) -> float:
    """Train the audio branch alone to tell the mouth; leaves a checkpoint of step 0. The last loss comes back.

    Does nothing (and gives 0) where a checkpoint of these settings lies already.
    """
    settings, device, material = job.settings, pick_device(job.device), open_material(job)
    path = job.folder / "unet.pt"
    state = load_checkpoint(path)
    if state is not None and _comparable(state["settings"]) == _comparable(asdict(settings)):
        return 0.0
    run = _start(path, settings, device)
    loss, heard = 0.0, audible_rows(Corpus(job.folder / "corpus"), material.pictures.plan)
    for step in range(settings.audio_steps):
        loss = _audio_step(run, material, heard, settings, step, device)
        progress(step + 1, settings.audio_steps)
    run.averaged.load_state_dict(run.coached.network.state_dict())
    save_checkpoint(path, _state(run, settings))
    return loss


def planned_rows(plan: NDArray[np.int64]) -> NDArray[np.int64]:
    """The corpus rows whose embeddings the planned pictures need, ascending."""
    return np.unique(plan[:, 1, None] + np.arange(WINDOWS_PER_FRAME))


def audible_rows(corpus: Corpus, plan: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows of all training frames, planned or not, whose 16 embeddings are among those that the plan needs."""
    stored = np.zeros(len(corpus.windows), bool)
    stored[planned_rows(plan)] = True
    spans = [np.arange(e.first_row, e.first_row + e.frames) for e in corpus.split("train")]
    rows = np.concatenate(spans)
    audible: NDArray[np.int64] = rows[stored[rows[:, None] + np.arange(WINDOWS_PER_FRAME)].all(axis=1)]
    return audible


def _audio_step(
    run: Run,
    material: Material,
    heard: NDArray[np.int64],
    settings: UNetSettings,
    step: int,
    device: torch.device,
) -> float:
    rng = np.random.default_rng((settings.seed, 1, step))
    rows = rng.choice(heard, settings.audio_batch)
    run.coached.train()
    audio = _noisy(network_audio(material.embeddings, rows), rng)
    loss = reader_loss(run.coached.hear(audio.to(device)), material.mouths[rows])
    warm = min(1.0, (step + 1) / 30)
    rate = settings.peak_rate * warm * (0.5 + 0.5 * math.cos(math.pi * step / settings.audio_steps))
    for group in run.optimizer.param_groups:
        group["lr"] = max(rate, 1e-5)
    run.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(run.coached.parameters(), 1.0)
    run.optimizer.step()
    return float(loss.detach())


def reader_loss(read: Tensor, mouths: Floats) -> Tensor:
    """Mean squared difference of what is read at all places, [B, 5, h, w], from the true mouths [B, 5]."""
    true = torch.from_numpy(np.array(mouths)).to(read.device)
    return (read.float() - true[:, :, None, None]).square().mean()


def _noisy(audio: Tensor, rng: np.random.Generator) -> Tensor:
    """Features with a little noise on each: no step sees quite the same sound twice."""
    noise = torch.from_numpy(rng.standard_normal(audio.shape, np.float32))
    return (audio + 0.03 * noise).clamp_min(0)


def learning_rate(run: Run, settings: UNetSettings) -> float:
    """Rises linearly over the first 60 steps, then falls along a cosine to a thousandth at the end."""
    warm = min(1.0, (run.step + 1) / 60)
    return settings.peak_rate * warm * (0.001 + 0.999 * (0.5 + 0.5 * math.cos(math.pi * min(run.done, 1.0))))


def new_network() -> LipSyncUNet:
    """The demo's network: the 328 family at half its width."""
    return LipSyncUNet("328", "ave", HALF_WIDTHS)


def _state(run: Run, settings: UNetSettings) -> dict[str, Any]:
    parts = {name: getattr(run, name).state_dict() for name in ("coached", "averaged", "optimizer")}
    return {"settings": asdict(settings), "step": run.step, "spent_s": run.spent_s, **parts}


def _step(
    run: Run, rank: int, job: UNetJob, material: Material, weights: Tensor, device: torch.device
) -> float:
    settings = job.settings
    numbers = batch_numbers(material.pictures, settings, run.step)[rank :: job.workers]
    crops, truths, rows = material.pictures.get(numbers)
    rng = np.random.default_rng((settings.seed, 2, run.step, rank))
    audio = _noisy(network_audio(material.embeddings, rows), rng).to(device)
    run.coached.train()
    with mixed_precision(device):
        picture, heard, fused = run.coached(network_input(torch.from_numpy(crops).to(device)), audio)
    loss = picture_loss(picture.float(), network_target(torch.from_numpy(truths).to(device)), weights)
    mouths = material.mouths[rows]
    coached = loss + settings.reader_weight * (reader_loss(heard, mouths) + reader_loss(fused, mouths))
    run.optimizer.zero_grad(set_to_none=True)
    coached.backward()  # type: ignore[no-untyped-call]
    done = max(run.step / settings.steps, run.spent_s / job.budget_s)
    run.done = _share(run.coached, job.workers, done)
    nn.utils.clip_grad_norm_(run.coached.parameters(), 1.0)
    for group in run.optimizer.param_groups:
        group["lr"] = learning_rate(run, settings)
    run.optimizer.step()
    run.step += 1
    if run.step >= settings.steps:
        run.done = 1.0
    _average(run.averaged, run.coached.network, min(settings.average, (1 + run.step) / (10 + run.step)))
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
    """Weighted mean of the pixels' absolute and squared differences and their gradients', and `worst_pixels`."""
    difference = predicted - target
    across = (difference[..., 1:] - difference[..., :-1]).abs() * weights[:, 1:]
    down = (difference[..., 1:, :] - difference[..., :-1, :]).abs() * weights[1:]
    pixels = (weights * (difference.abs() + 4 * difference.square())).mean()
    return pixels + 0.5 * (across.mean() + down.mean()) + WORST_WEIGHT * worst_pixels(difference)


def worst_pixels(difference: Tensor) -> Tensor:
    """Mean of the squared differences [B, 3, S, S] of the worst pixels of each picture.

    A blotch on the cheek is a hundredth of the picture, so a mean over all of it hardly notices it; a viewer does.
    """
    squared = difference.square().mean(dim=1).flatten(1)
    return squared.topk(max(1, int(WORST_SHARE * squared.shape[1])), dim=1).values.mean()


@torch.no_grad()
def _average(averaged: nn.Module, network: nn.Module, decay: float) -> None:
    for mean, new in zip(averaged.parameters(), network.parameters(), strict=True):
        mean.lerp_(new, 1 - decay)
    for kept, newest in zip(averaged.buffers(), network.buffers(), strict=True):
        kept.copy_(newest)


@torch.no_grad()
def settle_statistics(network: nn.Module, material: Material, device: torch.device, batches: int) -> None:
    """Compute the batch norms' statistics afresh: those of the network in training are not the average's."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over the batches
    network.train()
    pictures = material.pictures
    training = pictures.settings.training
    for n in range(min(batches, -(-training // 8))):
        numbers = pictures.settings.validation + np.arange(n * 8, n * 8 + 8) % training
        crops, _, rows = pictures.get(numbers)
        audio = network_audio(material.embeddings, rows).to(device)
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
    network: nn.Module, material: Material, device: torch.device, strip: Path | None = None
) -> dict[str, float]:
    """PSNR of the mouth area and the mean absolute error of the whole picture, on held-out speech."""
    pictures = material.pictures
    crops, truths, rows = pictures.get(np.arange(pictures.settings.validation))
    parts = [
        predict(network, crops[n : n + 8], network_audio(material.embeddings, rows[n : n + 8]), device)
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
