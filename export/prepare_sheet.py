"""The sheet by which a user checks face boxes: frames with their boxes, the crops, and the boxes over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from compositor_backend.contract import FRAME_RATE_HZ
from compositor_backend.geometry import Box
from export.errors import ExportError
from export.frames import FrameSource, Pixels

SHOWN = 12
_WIDTH, _MARGIN, _GAP, _LABEL, _PLOT = 1280, 24, 8, 18, 170
_INNER = _WIDTH - 2 * _MARGIN
_COLUMNS, _COLUMNS_UPRIGHT = 4, 6
PAPER, INK, MUTED = "#f7f5f1", "#26313b", "#7d8790"
BOX, ACROSS, DOWN, SIZE = "#e0352b", "#c2493d", "#2f7f8c", "#8a6bb0"

Measured = NDArray[np.float64]


@dataclass(frozen=True)
class _Tile:
    """A frame as it is shown: small, with its box drawn, and the crop."""

    number: int
    picture: Image.Image
    crop: Image.Image


def draw_prepared(frames: FrameSource, boxes: Sequence[Box], measured: Measured) -> Image.Image:
    """The sheet: `SHOWN` frames spread over all, their crops, and how the boxes move; thin lines are as `measured`.

    Takes what memory a dozen small pictures do; the frames are read once.
    """
    width, height = frames.size_px
    columns = _COLUMNS if width >= height else _COLUMNS_UPRIGHT
    tile_width = (_INNER - (columns - 1) * _GAP) // columns
    crop_px = (_INNER - (SHOWN - 1) * _GAP) // SHOWN
    tiles = _tiles(frames, boxes, tile_width, crop_px)
    rows = -(-len(tiles) // columns)
    tile_height = round(tile_width * height / width) + _LABEL
    crops_top = _MARGIN + rows * (tile_height + _GAP) + _GAP
    plot_top = crops_top + crop_px + _LABEL + 2 * _GAP
    sheet = Image.new("RGB", (_WIDTH, plot_top + _PLOT + _LABEL + _MARGIN), PAPER)
    for place, tile in enumerate(tiles):
        row, column = divmod(place, columns)
        x, y = _MARGIN + column * (tile_width + _GAP), _MARGIN + row * (tile_height + _GAP)
        _paste(sheet, tile.picture, x, y, f"{tile.number}")
        _paste(sheet, tile.crop, _MARGIN + place * (crop_px + _GAP), crops_top, f"{tile.number}")
    _draw_plot(sheet, np.array(boxes, np.float64), measured, plot_top)
    return sheet


def shown_frames(count: int) -> list[int]:
    """The frames that are shown, the first and the last among them."""
    spread = np.linspace(0, count - 1, min(SHOWN, count)).round()
    return [int(number) for number in spread]


def _tiles(frames: FrameSource, boxes: Sequence[Box], tile_width: int, crop_px: int) -> list[_Tile]:
    wanted = set(shown_frames(len(boxes)))
    tiles = [
        _tile(number, frame, boxes[number], tile_width, crop_px)
        for number, frame in enumerate(frames)
        if number in wanted
    ]
    if len(tiles) != len(wanted):
        raise ExportError(f"{len(boxes)} frames were found at first, and fewer when they were read again")
    return tiles


def _tile(number: int, frame: Pixels, box: Box, tile_width: int, crop_px: int) -> _Tile:
    picture = Image.fromarray(frame)
    scale = tile_width / picture.width
    small = picture.resize((tile_width, round(picture.height * scale)), Image.Resampling.LANCZOS)
    x1, y1, x2, y2 = (round(side * scale) for side in box)
    ImageDraw.Draw(small).rectangle((x1, y1, x2 - 1, y2 - 1), outline=BOX, width=2)
    crop = picture.crop(box)
    crop.thumbnail((crop_px, crop_px), Image.Resampling.LANCZOS)
    return _Tile(number, small, crop)


def _paste(sheet: Image.Image, picture: Image.Image, x: int, y: int, label: str) -> None:
    sheet.paste(picture, (x, y))
    _text(sheet, x, y + picture.height + 2, label, MUTED)


def _text(sheet: Image.Image, x: float, y: float, text: str, colour: str, anchor: str = "la") -> None:
    ImageDraw.Draw(sheet).text((x, y), text, fill=colour, font=ImageFont.load_default(12), anchor=anchor)


# --- boxes over time ---
def _draw_plot(sheet: Image.Image, boxes: Measured, measured: Measured, top: int) -> None:
    """How far the boxes are from their mean place and size, in px of the frame, over the seconds."""
    curves = {"left to right": (_across, ACROSS), "up and down": (_down, DOWN), "width": (_size, SIZE)}
    deviations = [(read(boxes) - read(boxes).mean(), colour) for read, colour in curves.values()]
    raw = [(read(measured) - read(boxes).mean(), colour) for read, colour in curves.values()]
    reach = max(5.0, *(float(np.abs(values).max()) for values, _ in deviations + raw))
    middle = top + _PLOT / 2
    draw = ImageDraw.Draw(sheet)
    draw.rectangle((_MARGIN, top, _WIDTH - _MARGIN, top + _PLOT), outline=MUTED)
    draw.line((_MARGIN, middle, _WIDTH - _MARGIN, middle), fill="#d5d2cc")
    for width, lines in ((1, raw), (2, deviations)):
        for values, colour in lines:
            _curve(
                draw, values, middle, (_PLOT / 2 - 4) / reach, colour if width > 1 else _paler(colour), width
            )
    _legend(sheet, [(name, colour) for name, (_, colour) in curves.items()], reach, len(boxes), top + _PLOT)


def _across(boxes: Measured) -> NDArray[np.float64]:
    return (boxes[:, 0] + boxes[:, 2]) / 2


def _down(boxes: Measured) -> NDArray[np.float64]:
    return boxes[:, 1]


def _size(boxes: Measured) -> NDArray[np.float64]:
    return boxes[:, 2] - boxes[:, 0]


def _curve(
    draw: ImageDraw.ImageDraw,
    values: NDArray[np.float64],
    middle: float,
    scale: float,
    colour: str,
    width: int,
) -> None:
    x = np.linspace(_MARGIN + 1, _WIDTH - _MARGIN - 1, len(values))
    y = middle + values * scale
    draw.line(list(zip(x.tolist(), y.tolist(), strict=True)), fill=colour, width=width)


def _paler(colour: str) -> str:
    channels = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
    return "#" + "".join(f"{(channel + 2 * 247) // 3:02x}" for channel in channels)


def _legend(sheet: Image.Image, names: Sequence[tuple[str, str]], reach: float, count: int, y: int) -> None:
    x = float(_MARGIN)
    for name, colour in names:
        _text(sheet, x, y + 4, name, colour)
        x += 110
    _text(sheet, x, y + 4, f"box of the frame, \u00b1{reach:.0f} px about its mean; pale: as measured", MUTED)
    seconds = f"{count} frames, {count / FRAME_RATE_HZ:.1f} s"
    _text(sheet, _WIDTH - _MARGIN, y + 4, seconds, MUTED, "ra")
