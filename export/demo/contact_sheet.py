"""The README's picture: frames of the demo saying a sentence, close-ups of the mouth, and the sound below them.

The sentence is cut in two rows. A close-up stands above the stretch of sound that it is from; on the sound lies
the mouth's opening, measured in the frames' own pixels.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from compositor_backend.contract import FRAME_RATE_HZ
from compositor_backend.timeline import template_frames
from export.atomic import replacing
from export.demo import presenter
from export.errors import ExportError
from export.frames import PictureFolder, Pixels, read_picture

MAX_BYTES = 600_000
WIDTHS_PX = (1280, 1200, 1120)
"""Of the picture, tried in turn."""
FULL_FRAMES, COLUMNS, ROWS = 3, 9, 2

PAPER, INK, MUTED, SOUND, OPENING = "#f7f5f1", "#26313b", "#7d8790", "#b9d3d6", "#c2493d"
# Everything is laid out for a picture this wide, and drawn larger so that lines come out smooth.
_LAYOUT_PX, _SCALE = 1280, 2
_MARGIN, _GAP, _WAVE, _LABEL, _RADIUS = 28, 10, 64, 22, 10
# The mouth and some of what is around it, in the face box.
_CLOSE_UP_PX = (20, 34, 170, 184)

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Utterance:
    """What the sheet shows: the frames' files, the sound (-1 to 1, a mean of channels) and its rate.

    `openings` are the mouth's opening in each frame, in frame pixels.
    """

    paths: Sequence[Path]
    samples: Floats
    rate_hz: int
    openings: Floats

    def sound_of(self, first: int, last: int) -> Floats:
        """The samples under frames `first` … `last` - 1, silence where the sound has ended."""
        start, stop = (round(frame * self.rate_hz / FRAME_RATE_HZ) for frame in (first, last))
        found = self.samples[start:stop]
        return np.pad(found, (0, stop - start - len(found)))


def draw_sheet(frames: Path, audio: Path, out: Path) -> Image.Image:
    """Write the picture to `out` as a PNG of at most `MAX_BYTES`, and return it; `ExportError` says what is wrong.

    `frames` holds the demo's frames from the start of its timeline, `audio` is what they say.
    """
    for sheet in _candidates(_draw(read_utterance(frames, audio))):
        sheet.save(data := io.BytesIO(), "PNG", optimize=True)
        if data.tell() <= MAX_BYTES:
            break
    else:
        raise ExportError(
            f"{out} has {data.tell()} bytes at {sheet.width} px; at most {MAX_BYTES} are wanted"
        )
    with replacing(out) as draft:
        draft.write_bytes(data.getvalue())
    return sheet


def _candidates(drawn: Image.Image) -> Iterator[Image.Image]:
    """The picture in all its colours at each width, then with a palette; the best that is small enough is taken."""
    sizes = [(width, round(drawn.height * width / drawn.width)) for width in WIDTHS_PX]
    for size in sizes:
        yield drawn.resize(size, Image.Resampling.LANCZOS)
    for size in sizes:
        sheet = drawn.resize(size, Image.Resampling.LANCZOS)
        # Diffused errors: the studio's soft light would show bands otherwise.
        yield sheet.quantize(palette=sheet.quantize(256), dither=Image.Dither.FLOYDSTEINBERG)


def read_utterance(frames: Path, audio: Path) -> Utterance:
    """Read frames and sound, and measure the mouth."""
    folder = PictureFolder.at(frames)
    if folder.size_px != presenter.FRAME_SIZE:
        found, wanted = ("{}x{}".format(*size) for size in (folder.size_px, presenter.FRAME_SIZE))
        raise ExportError(f"{frames} holds frames of {found} px; the demo's are {wanted} px")
    if folder.source_count < COLUMNS * ROWS:
        raise ExportError(f"{frames} holds {folder.source_count} frames; {COLUMNS * ROWS} or more are wanted")
    samples, rate_hz = _read_sound(audio)
    openings = []
    for number, frame in enumerate(folder):
        template = _template(number)
        x1, y1, x2, y2 = presenter.face_box(template)
        openings.append(presenter.measure_opening(frame[y1:y2, x1:x2], template))
    return Utterance(folder.paths, samples, rate_hz, np.array(openings, np.float32))


def close_ups(openings: Floats, first: int, last: int, count: int) -> list[int]:
    """`count` of the frames `first` … `last` - 1, one from each equal stretch: the widest and the most shut in turn.

    Even spacing alone would often catch the same half-open mouth.
    """
    edges = np.linspace(first, last, count + 1).round().astype(int).tolist()
    pick: tuple[Callable[[Floats], np.intp], ...] = (np.argmax, np.argmin)
    return [
        start + int(pick[number % 2](openings[start:stop]))
        for number, (start, stop) in enumerate(itertools.pairwise(edges))
    ]


def _read_sound(path: Path) -> tuple[Floats, int]:
    try:
        samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    except (OSError, soundfile.LibsndfileError) as error:
        raise ExportError(f"{path} cannot be read as sound: {error}") from error
    if not len(samples):
        raise ExportError(f"{path} holds no sound")
    return samples.mean(axis=1), int(rate_hz)


def _template(number: int) -> int:
    return int(template_frames(np.array([number], np.int32), presenter.N_FRAMES)[0])


# --- drawing ---
class _Sheet:
    """A canvas that takes places and lengths in layout pixels."""

    def __init__(self, height: int) -> None:
        self.image = Image.new("RGB", (_LAYOUT_PX * _SCALE, height * _SCALE), PAPER)
        self._draw = ImageDraw.Draw(self.image)

    def picture(self, pixels: Pixels, x: float, y: float, width: float, height: float) -> None:
        size = round(width * _SCALE), round(height * _SCALE)
        mask = Image.new("L", size)
        ImageDraw.Draw(mask).rounded_rectangle((0, 0, size[0] - 1, size[1] - 1), _RADIUS * _SCALE, fill=255)
        picture = Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS)
        self.image.paste(picture, (round(x * _SCALE), round(y * _SCALE)), mask)

    def line(self, points: Sequence[tuple[float, float]], colour: str, width: float) -> None:
        scaled = [(x * _SCALE, y * _SCALE) for x, y in points]
        self._draw.line(scaled, fill=colour, width=max(1, round(width * _SCALE)), joint="curve")

    def dot(self, x: float, y: float, radius: float, colour: str) -> None:
        box = [(side + sign * radius) * _SCALE for sign in (-1, 1) for side in (x, y)]
        self._draw.ellipse(tuple(box), fill=colour)

    def text(self, x: float, y: float, text: str, colour: str, size: float, anchor: str) -> None:
        font = ImageFont.load_default(size * _SCALE)
        self._draw.text((x * _SCALE, y * _SCALE), text, fill=colour, font=font, anchor=anchor)


_INNER = _LAYOUT_PX - 2 * _MARGIN
_FRAME_WIDTH = (_INNER - (FULL_FRAMES - 1) * _GAP) / FULL_FRAMES
_FRAME_HEIGHT = _FRAME_WIDTH * presenter.FRAME_SIZE[1] / presenter.FRAME_SIZE[0]
_TILE = (_INNER - (COLUMNS - 1) * _GAP) / COLUMNS
_ROW_HEIGHT = _TILE + _GAP + _WAVE + _LABEL + _GAP
_HEIGHT = round(_MARGIN + _FRAME_HEIGHT + 2 * _GAP + ROWS * _ROW_HEIGHT + _LABEL + _MARGIN / 2)


def _draw(utterance: Utterance) -> Image.Image:
    sheet = _Sheet(_HEIGHT)
    count = len(utterance.paths)
    thirds = np.linspace(0, count, FULL_FRAMES + 1).round().astype(int).tolist()
    for column, (first, last) in enumerate(itertools.pairwise(thirds)):
        widest = first + int(np.argmax(utterance.openings[first:last]))
        x = _MARGIN + column * (_FRAME_WIDTH + _GAP)
        sheet.picture(read_picture(utterance.paths[widest]), x, _MARGIN, _FRAME_WIDTH, _FRAME_HEIGHT)
    edges = np.linspace(0, count, ROWS + 1).round().astype(int).tolist()
    top = _MARGIN + _FRAME_HEIGHT + 2 * _GAP
    for first, last in itertools.pairwise(edges):
        _draw_row(sheet, utterance, first, last, top)
        top += _ROW_HEIGHT
    _draw_legend(sheet, top + _LABEL / 2)
    return sheet.image


def _draw_row(sheet: _Sheet, utterance: Utterance, first: int, last: int, top: float) -> None:
    """Close-ups of the frames `first` … `last` - 1, and below them their sound and opening."""
    wave_top = top + _TILE + _GAP

    def place(frame: float) -> float:
        return float(np.interp(frame, (first, last), (_MARGIN, _LAYOUT_PX - _MARGIN)))

    peak = max(float(np.abs(utterance.samples).max()), 1e-6)
    _draw_sound(sheet, utterance.sound_of(first, last) / peak, wave_top)
    highest = max(float(utterance.openings.max()), 1.0)
    heights = wave_top + _WAVE * (1 - utterance.openings / highest)
    curve = [(place(n + 0.5), float(heights[n])) for n in range(first, last)]
    sheet.line(curve, OPENING, 1.6)
    for column, number in enumerate(close_ups(utterance.openings, first, last, COLUMNS)):
        sheet.picture(_close_up(utterance, number), _MARGIN + column * (_TILE + _GAP), top, _TILE, _TILE)
        x, y = place(number + 0.5), float(heights[number])
        sheet.line([(x, wave_top - _GAP + 3), (x, y)], OPENING, 0.8)
        sheet.dot(x, y, 3.2, OPENING)
        sheet.text(x, wave_top + _WAVE + 4, f"{number / FRAME_RATE_HZ:.2f}", MUTED, 12, "mt")


def _draw_sound(sheet: _Sheet, samples: Floats, top: float) -> None:
    """A column for each pixel of the row, as high as its loudest sample (0 to 1)."""
    columns = np.array_split(np.abs(samples), _INNER)
    middle = top + _WAVE / 2
    for x, column in enumerate(columns):
        half = 0.5 + float(column.max(initial=0)) * (_WAVE / 2 - 1)
        sheet.line([(_MARGIN + x, middle - half), (_MARGIN + x, middle + half)], SOUND, 1)


def _draw_legend(sheet: _Sheet, y: float) -> None:
    sheet.line([(_MARGIN, y), (_MARGIN + 18, y)], SOUND, 6)
    sheet.text(_MARGIN + 26, y, "speech", INK, 13, "lm")
    sheet.line([(_MARGIN + 94, y), (_MARGIN + 112, y)], OPENING, 1.6)
    sheet.text(_MARGIN + 120, y, "opening of the mouth, measured in the frames", INK, 13, "lm")
    sheet.text(_LAYOUT_PX - _MARGIN, y, "seconds", MUTED, 12, "rm")


def _close_up(utterance: Utterance, number: int) -> Pixels:
    x, y, _, _ = presenter.face_box(_template(number))
    left, top, right, bottom = _CLOSE_UP_PX
    return read_picture(utterance.paths[number])[y + top : y + bottom, x + left : x + right]
