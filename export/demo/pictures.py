"""Pictures to train and judge the demo's U-Net with: the presenter saying frames of the corpus.

A second process draws ahead into memory-mapped arrays while the training runs:

- ``crops.npy`` uint8 [251, 320, 320, 3]: the template frames' inner crops, RGB, mouths at rest;
- ``mouths.npy`` float32 [pictures, 5]: the mouth that each picture shows, see `train.picture_mouths`;
- ``truths.npy`` uint8 [pictures, 320, 320, 3]: the template crops with these mouths;
- ``plan.npy`` int64 [pictures, 2]: template frame, and the corpus row at which the frame's 16 windows start;
- ``drawn.txt``: how many truths are finished, counted from the first.

Picture n depends on the corpus, the seed and n only.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from compositor_backend.blend import paste
from compositor_backend.geometry import FAMILIES
from export.demo.corpus import Corpus, Entry
from export.demo.mouth import REST, MouthShape, lip_openings
from export.demo.presenter import N_FRAMES, render_box

FAMILY = FAMILIES["328"]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class PictureSettings:
    """How many pictures are drawn; `validation` of them, the first ones, show held-out sentences."""

    training: int = 12000
    validation: int = 96
    seed: int = 5

    @property
    def total(self) -> int:
        """Pictures of both splits."""
        return self.training + self.validation


def inner_crop(box: Pixels) -> Pixels:
    """Face box uint8 [side, side, 3] to what the network sees of it, uint8 [320, 320, 3]."""
    size = (FAMILY.crop_px, FAMILY.crop_px)
    crop = np.asarray(Image.fromarray(box).resize(size, Image.Resampling.BICUBIC))
    return np.ascontiguousarray(crop[FAMILY.inner, FAMILY.inner])


def pasted(box: Pixels, mouth: Pixels) -> Pixels:
    """The network's picture over a copy of the face box, without a soft edge: as the server does."""
    shown = box.copy()
    paste(shown, mouth, FAMILY, "hard")
    return shown


def shape(mouth: NDArray[np.float32]) -> MouthShape:
    """A row of a track as a mouth shape."""
    return MouthShape(*(float(value) for value in mouth))


# --- the plan ---
def plan_pictures(corpus: Corpus, settings: PictureSettings) -> NDArray[np.int64]:
    """Template frame and first corpus row of each picture, int64 [pictures, 2].

    Validation pictures are runs of consecutive frames. Training pictures are drawn at random; frames in which
    the mouth moves fast or the lips are shut are picked more often than still ones, pauses less often.
    """
    rng = np.random.default_rng(settings.seed)
    validation = _runs(corpus.split("validation"), settings.validation, rng)
    rows, weights = _weighted_rows(corpus)
    training = rng.choice(rows, settings.training, p=weights / weights.sum())
    starts = np.concatenate([validation, training])
    return np.stack([rng.integers(N_FRAMES, size=len(starts)), starts], axis=1)


def _runs(entries: list[Entry], count: int, rng: np.random.Generator, run: int = 12) -> NDArray[np.int64]:
    rows: list[int] = []
    for n in range(-(-count // run)):
        entry = entries[n % len(entries)]
        first = entry.first_row + int(rng.integers(max(1, entry.frames - run)))
        rows += range(first, first + min(run, entry.frames))
    return np.asarray(rows[:count], np.int64)


def _weighted_rows(corpus: Corpus) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    rows, weights = [], []
    for entry in corpus.split("train"):
        mouth = np.asarray(corpus.mouths[entry.first_row : entry.first_row + entry.frames])
        moving = np.abs(np.gradient(lip_openings(mouth))) if len(mouth) > 1 else np.zeros(len(mouth))
        weight = 1 + 4 * moving + 0.7 * (mouth[:, 4] > 0.5) + 1.5 * mouth[:, 2] + 0.7 * np.abs(mouth[:, 1])
        weight[list(entry.silent)] = 0.35
        rows.append(entry.first_row + np.arange(entry.frames))
        weights.append(weight)
    return np.concatenate(rows), np.concatenate(weights)


# --- drawing ahead ---
def prepare(folder: Path, corpus: Corpus, settings: PictureSettings) -> None:
    """Write the template crops and the plan; pictures of another plan that lie there are given up."""
    folder.mkdir(parents=True, exist_ok=True)
    plan = plan_pictures(corpus, settings)
    if (folder / "plan.npy").exists() and np.array_equal(np.load(folder / "plan.npy"), plan):
        return
    _write_drawn(folder, 0)
    np.save(folder / "crops.npy", np.stack([inner_crop(render_box(n, REST)) for n in range(N_FRAMES)]))
    shape_ = (settings.total, FAMILY.network_px, FAMILY.network_px, 3)
    np.lib.format.open_memmap(folder / "truths.npy", "w+", np.uint8, shape_).flush()  # type: ignore[no-untyped-call]
    np.save(folder / "plan.npy", plan)


def assign_mouths(folder: Path, mouths: NDArray[np.float32]) -> None:
    """Say which mouth each planned picture shows, float32 [pictures, 5]; other mouths' pictures are given up."""
    path = folder / "mouths.npy"
    if path.exists() and np.array_equal(np.load(path), mouths):
        return
    _write_drawn(folder, 0)
    np.save(path, mouths)


def draw(folder: Path) -> None:
    """Draw what the plan holds and is not drawn yet; the entry point of the second process."""
    plan, mouths = np.load(folder / "plan.npy"), np.load(folder / "mouths.npy")
    truths = np.load(folder / "truths.npy", mmap_mode="r+")
    for n in range(drawn(folder), len(plan)):
        truths[n] = inner_crop(render_box(int(plan[n, 0]), shape(mouths[n])))
        if (n + 1) % 16 == 0 or n + 1 == len(plan):
            truths.flush()
            _write_drawn(folder, n + 1)


def drawn(folder: Path) -> int:
    """How many pictures are finished."""
    return int((folder / "drawn.txt").read_text())


def _write_drawn(folder: Path, count: int) -> None:
    unfinished = folder / "drawn.part"
    unfinished.write_text(str(count))
    unfinished.replace(folder / "drawn.txt")


class Pictures:
    """The pictures, opened for reading; waits where they are not drawn yet."""

    def __init__(self, folder: Path, settings: PictureSettings) -> None:
        self.settings = settings
        self.crops = np.load(folder / "crops.npy", mmap_mode="r")
        self.plan = np.load(folder / "plan.npy")
        self._truths = np.load(folder / "truths.npy", mmap_mode="r")
        self._folder = folder
        self._drawn = drawn(folder)

    def get(self, numbers: NDArray[np.int64]) -> tuple[Pixels, Pixels, NDArray[np.int64]]:
        """Reference crops and truths uint8 [n, 320, 320, 3], and corpus rows [n], of these pictures."""
        self._wait_for(int(numbers.max()) + 1)
        templates, rows = self.plan[numbers].T
        return np.asarray(self.crops[templates]), np.asarray(self._truths[numbers]), rows

    def _wait_for(self, count: int) -> None:
        while self._drawn < count:
            self._drawn = drawn(self._folder)
            if self._drawn < count:
                time.sleep(0.2)
