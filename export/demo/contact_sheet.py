"""One picture of a talking avatar: a frame, the waveform, and close-ups of the mouth along it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from compositor_backend.contract import FRAME_RATE_HZ
from compositor_backend.geometry import Box
from export.demo import presenter
from export.errors import ExportError
from export.frames import PictureFolder, read_picture

COLUMNS, ROWS = 8, 2
WIDTH_PX, MARGIN_PX, GAP_PX, WAVE_PX = 1280, 24, 8, 90
PAPER, INK, MUTED, ACCENT = (250, 249, 246), (38, 44, 52), (130, 138, 148), (38, 110, 128)


@dataclass(frozen=True)
class SheetSettings:
    """What to draw; `box` is the part of the frames to show close, the demo's mouth by default."""

    frames: Path
    audio: Path
    out: Path
    box: Box | None = None


def draw_sheet(settings: SheetSettings) -> None:
    """Write the sheet as a PNG; `ExportError` if frames or sound cannot be read."""
    frames = PictureFolder.at(settings.frames).paths
    waveform, rate_hz = _read_sound(settings.audio)
    chosen = _chosen(frames, waveform, rate_hz)
    tile = (WIDTH_PX - 2 * MARGIN_PX - (COLUMNS - 1) * GAP_PX) // COLUMNS
    heads = [_head(read_picture(frames[n]), settings.box or _demo_box()) for n in chosen]
    height = 3 * MARGIN_PX + WAVE_PX + ROWS * (tile + 2 * GAP_PX + 14)
    sheet = Image.new("RGB", (WIDTH_PX, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    _draw_wave(draw, waveform, [n / FRAME_RATE_HZ * rate_hz / len(waveform) for n in chosen])
    for position, (number, head) in enumerate(zip(chosen, heads, strict=True)):
        x = MARGIN_PX + (position % COLUMNS) * (tile + GAP_PX)
        y = 2 * MARGIN_PX + WAVE_PX + (position // COLUMNS) * (tile + 2 * GAP_PX + 14)
        sheet.paste(head.resize((tile, tile), Image.Resampling.LANCZOS), (x, y))
        draw.text((x, y + tile + 4), f"{number / FRAME_RATE_HZ:.2f} s", fill=MUTED, font=_font(12))
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    sheet.quantize(192, dither=Image.Dither.FLOYDSTEINBERG).save(settings.out, optimize=True)


def _demo_box() -> Box:
    """The middle of the demo's face, with some of what is around it."""
    x1, y1, x2, y2 = presenter.face_box(0)
    grow = (x2 - x1) // 8
    return x1 - grow, y1 - 2 * grow, x2 + grow, y2


def _head(frame: NDArray[np.uint8], box: Box) -> Image.Image:
    x1, y1, x2, y2 = box
    return Image.fromarray(frame[max(0, y1) : y2, max(0, x1) : x2])


def _read_sound(path: Path) -> tuple[NDArray[np.float32], int]:
    try:
        samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    except (OSError, soundfile.LibsndfileError) as error:
        raise ExportError(f"{path} cannot be read as sound: {error}") from error
    if not len(samples):
        raise ExportError(f"{path} holds no sound")
    return samples.mean(axis=1), rate_hz


def _chosen(frames: tuple[Path, ...], waveform: NDArray[np.float32], rate_hz: int) -> list[int]:
    """Frame numbers spread over the utterance, each moved to where its neighbourhood is loudest or most quiet.

    Even spacing alone would often catch the same half-open mouth.
    """
    count = min(len(frames), int(len(waveform) / rate_hz * FRAME_RATE_HZ))
    if count < COLUMNS * ROWS:
        raise ExportError(
            f"there are {count} frames; {COLUMNS * ROWS} or more are wanted for a contact sheet"
        )
    samples = rate_hz // FRAME_RATE_HZ
    loudness = np.sqrt((waveform[: count * samples].reshape(count, samples) ** 2).mean(axis=1))
    edges = np.linspace(0, count, COLUMNS * ROWS + 1).astype(int)
    return [
        int(low + (np.argmax if n % 3 else np.argmin)(loudness[low:high]))
        for n, (low, high) in enumerate(itertools.pairwise(edges))
    ]


def _draw_wave(draw: ImageDraw.ImageDraw, waveform: NDArray[np.float32], marks: list[float]) -> None:
    """The waveform across the page, and a mark where each close-up is from."""
    inner = WIDTH_PX - 2 * MARGIN_PX
    middle = MARGIN_PX + WAVE_PX // 2
    columns = np.array_split(np.abs(waveform), inner)
    peak = max(float(np.abs(waveform).max()), 1e-6)
    for x, column in enumerate(columns):
        half = int(column.max() / peak * (WAVE_PX // 2 - 4)) if len(column) else 0
        draw.line([(MARGIN_PX + x, middle - half), (MARGIN_PX + x, middle + half)], fill=ACCENT)
    for mark in marks:
        x = MARGIN_PX + int(mark * inner)
        draw.line([(x, MARGIN_PX), (x, MARGIN_PX + WAVE_PX)], fill=INK)


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)
