"""Trains the demo's networks from nothing: says the corpus, trains the encoder, then the U-Net, and exports both.

Everything is kept in a work folder and taken up again where it was left. With the same settings on the same
number of workers the result is the same but for the order of floating-point sums and the flutter that espeak-ng
adds to its voices unseeded.
"""

from __future__ import annotations

import json
import multiprocessing
import platform
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from compositor_backend.contract import EMBEDDING_SIZE
from compositor_backend.pack import file_sha256
from export.demo.corpus import Corpus, CorpusSettings, build_corpus
from export.demo.half_storage import store_half
from export.demo.pictures import PictureSettings, assign_mouths, draw, prepare
from export.demo.progress import TrainingLog, pick_device
from export.demo.train_encoder import (
    EncoderSettings,
    embed,
    told_mouths,
    train_encoder,
    validate_encoder,
)
from export.demo.train_unet import (
    UNetJob,
    UNetSettings,
    new_network,
    open_material,
    planned_rows,
    train_unet,
    validate_unet,
)
from export.limits import Limits
from export.networks.audio_encoder import AudioEncoder
from export.onnx_export import write_encoder, write_unet

Progress = Callable[[str, int, int], None]
"""Called with a stage's name, what is done of it, and how much there is."""

LIMITS = Limits(equal_share=0.99, encoder_relative=5e-4)
"""Looser than usual by as much as the float16 weights make a difference anyway."""


@dataclass(frozen=True)
class TrainSettings:
    """A whole training. `minutes` bounds it: the U-Net gets what corpus and encoder leave."""

    work: Path
    weights: Path
    minutes: float = 110.0
    device: str = "auto"
    workers: int = 2
    corpus: CorpusSettings = field(default_factory=CorpusSettings)
    encoder: EncoderSettings = field(default_factory=EncoderSettings)
    pictures: PictureSettings = field(default_factory=PictureSettings)
    unet: UNetSettings = field(default_factory=UNetSettings)


def train(settings: TrainSettings, progress: Progress = lambda stage, done, total: None) -> dict[str, Any]:
    """Do all that is not done yet; the recipe that lies beside the weights comes back."""
    started = time.monotonic()
    device = pick_device(settings.device)
    corpus = build_corpus(settings.work / "corpus", settings.corpus, _stage(progress, "speech"))
    prepare(settings.work / "pictures", corpus, settings.pictures)
    log = TrainingLog(settings.work / "log.jsonl", "encoder")
    encoder = train_encoder(
        corpus, settings.work, settings.encoder, log, device, _stage(progress, "audio encoder")
    )
    store_embeddings(settings.work, corpus, encoder, device, _stage(progress, "embeddings"))
    assign_mouths(settings.work / "pictures", picture_mouths(settings, corpus))
    left_s = settings.minutes * 60 - (time.monotonic() - started)
    job = UNetJob(
        settings.work, settings.unet, settings.pictures, str(device), workers(settings, device), left_s
    )
    with _drawing_ahead(settings.work / "pictures"):
        train_unet(job, _stage(progress, "U-Net"))
    return export_weights(settings)


def workers(settings: TrainSettings, device: torch.device) -> int:
    """Processes that share a batch: one on a GPU."""
    return settings.workers if device.type == "cpu" else 1


def _stage(progress: Progress, name: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(name, done, total)


def picture_mouths(settings: TrainSettings, corpus: Corpus) -> NDArray[np.float32]:
    """The mouths that the planned pictures show, float32 [pictures, 5].

    Validation pictures show the true mouth. Training pictures show the mouth that the trained encoder hears:
    where it is in doubt, that is one mouth with a middling opening, sharply drawn; learnt from true mouths, the
    answer to doubt would be the mean of all their pictures, which is a blur.
    """
    rows = np.load(settings.work / "pictures" / "plan.npy")[:, 1]
    embeddings = np.load(settings.work / "embeddings.npy", mmap_mode="r")
    mouths = told_mouths(embeddings, rows)
    validation = slice(0, settings.pictures.validation)
    mouths[validation] = corpus.mouths[rows[validation]]
    return mouths


@contextmanager
def _drawing_ahead(pictures: Path) -> Iterator[None]:
    """Draw the pictures in a second process meanwhile."""
    process = multiprocessing.get_context("spawn").Process(target=draw, args=(pictures,), daemon=True)
    process.start()
    try:
        yield
    finally:
        process.terminate()
        process.join()


def store_embeddings(
    work: Path,
    corpus: Corpus,
    encoder: AudioEncoder,
    device: torch.device,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write ``embeddings.npy``, float16 [R, 512]: the encoder's, where a planned picture needs them, else 0."""
    rows = planned_rows(np.load(work / "pictures" / "plan.npy"))
    stored = np.zeros((len(corpus.windows), EMBEDDING_SIZE), np.float16)
    for n in range(0, len(rows), 2048):
        some = rows[n : n + 2048]
        stored[some] = embed(encoder, corpus.windows[some], device, fast=True)
        progress(min(n + 2048, len(rows)), len(rows))
    _save(work / "embeddings.npy", stored)


def _save(path: Path, values: NDArray[np.float16]) -> None:
    unfinished = path.with_name(f"unfinished-{path.name}")
    np.save(unfinished, values)
    unfinished.replace(path)


# --- export ---
def export_weights(settings: TrainSettings) -> dict[str, Any]:
    """Write both graphs, weights stored as float16, and ``recipe.json`` beside them."""
    settings.weights.mkdir(parents=True, exist_ok=True)
    encoder = AudioEncoder()
    encoder_sha256 = _load(encoder, settings.work / "encoder.pt", "model")
    unet = new_network()
    unet_sha256 = _load(unet, settings.work / "unet-final.pt")
    files = {"audio_encoder.onnx": encoder_sha256, "unet.onnx": unet_sha256}
    write_encoder(encoder.eval(), encoder_sha256, settings.weights / "audio_encoder.onnx", LIMITS)
    write_unet(unet.eval(), unet_sha256, settings.weights / "unet.onnx", LIMITS)
    for name in files:
        store_half(settings.weights / name)
    recipe = _recipe(settings, files, encoder, unet)
    (settings.weights / "recipe.json").write_text(json.dumps(recipe, indent=2) + "\n")
    return recipe


def _load(network: torch.nn.Module, path: Path, part: str | None = None) -> str:
    """Load a network's weights; the SHA-256 (hex) of the checkpoint's file."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    network.load_state_dict(state[part] if part else state)
    return file_sha256(path)


def _recipe(
    settings: TrainSettings, files: dict[str, str], encoder: AudioEncoder, unet: torch.nn.Module
) -> dict[str, Any]:
    cpu = torch.device("cpu")
    corpus = Corpus(settings.work / "corpus")
    material = open_material(UNetJob(settings.work, settings.unet, settings.pictures))
    return {
        "command": "python -m export demo-train",
        "files": {
            name: {
                "sha256": file_sha256(settings.weights / name),
                "bytes": (settings.weights / name).stat().st_size,
                "checkpoint_sha256": checkpoint,
            }
            for name, checkpoint in files.items()
        },
        "settings": {
            name: asdict(getattr(settings, name)) for name in ("corpus", "encoder", "pictures", "unet")
        },
        "workers": settings.workers,
        "data": _data_figures(corpus),
        "validation": {
            "encoder": validate_encoder(encoder, corpus, cpu),
            "unet": validate_unet(unet, material, cpu),
        },
        "revision": _revision(),
        "software": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
    }


def _data_figures(corpus: Corpus) -> dict[str, float]:
    entries = corpus.split("train")
    return {
        "training_utterances": len(entries),
        "training_minutes": round(sum(e.frames for e in entries) / 25 / 60, 1),
        "voices": len({e.voice for e in entries}),
        "encoder_windows": int(corpus.windows.shape[0]),
    }


def _revision() -> str:
    """The commit that the working tree is on, or ``unknown``."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
