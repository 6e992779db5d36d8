"""Where things lie: the crop of each network family, face boxes, and the grid of restart segments in a frame.

A JPEG frame is a grid of MCUs (minimum coded units, 16x16 px at 4:2:0). Every `interval` MCUs of a row make a
segment that ends in a restart marker, so a segment can be exchanged without touching its neighbours.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from compositor_backend.errors import PackError

Box: TypeAlias = tuple[int, int, int, int]
"""x1, y1, x2, y2 in px; x2 and y2 are the first column and row outside."""

_Picture = TypeVar("_Picture")


@dataclass(frozen=True, eq=False)  # compared by identity: it is a key of what is looked up for every frame
class Family:
    """What sets a family of networks apart in pictures: how a face becomes its input, and its output a face again.

    The face box is resized to a square of `crop_px` by `crop_filter`; the network sees it without a border of
    `border_px`, which keeps the frame's own pixels: a square of `network_px`. Its visual input is this twice, one of
    them with `mask` (x1, y1, x2, y2; x2 and y2 outside) black: the first if `masked_first`, else the second.
    What it draws is brought to the box's size by `paste_filter`. The filters are those of `compositor_backend.blend`.
    `square_boxes`: its networks were trained on square face boxes, and see the faces in others stretched.
    `any_face`: a network of the family draws whatever face it sees, so that one serves many avatars.
    """

    name: str
    crop_px: int
    network_px: int
    mask: Box
    border_px: int = 4
    masked_first: bool = False
    crop_filter: str = "bicubic"
    paste_filter: str = "bicubic"
    square_boxes: bool = True
    any_face: bool = False

    @property
    def inner(self) -> slice:
        """Rows, and columns, of the crop that the network sees."""
        return slice(self.border_px, self.border_px + self.network_px)

    def in_order(self, reference: _Picture, masked: _Picture) -> tuple[_Picture, _Picture]:
        """The whole and the masked picture as they follow each other in the visual input."""
        return (masked, reference) if self.masked_first else (reference, masked)


def _wav2lip(side_px: int) -> Family:
    """Wav2Lip and networks like it: the whole of any box, its lower half black."""
    return Family(
        f"wav2lip-{side_px}",
        crop_px=side_px,
        network_px=side_px,
        mask=(0, side_px // 2, side_px, side_px),
        border_px=0,
        masked_first=True,
        crop_filter="sampled",
        paste_filter="bilinear",
        square_boxes=False,
        any_face=True,
    )


WAV2LIP_SIZES_PX = (96, 128, 256, 288, 384)
"""The first is the original's."""
FAMILIES = {
    "328": Family("328", crop_px=328, network_px=320, mask=(5, 5, 315, 310)),
    "160": Family("160", crop_px=168, network_px=160, mask=(5, 5, 155, 150)),
    **{family.name: family for family in map(_wav2lip, WAV2LIP_SIZES_PX)},
}
"""By name. No two families have the same `network_px`, by which a graph's family is known."""

MCU_SIZES_PX = {"420": (16, 16), "422": (16, 8), "444": (8, 8)}
"""Width and height of an MCU by chroma subsampling."""


def check_box(box: Box, width: int, height: int) -> Box:
    """`box` itself if it is not empty and lies inside a frame of that size, `PackError` otherwise."""
    x1, y1, x2, y2 = box
    if x1 >= x2 or y1 >= y2:
        raise PackError(f"the face box {list(box)} is empty; x1 < x2 and y1 < y2 are wanted")
    if x1 < 0 or y1 < 0 or x2 > width or y2 > height:
        raise PackError(f"the face box {list(box)} is not inside the frame of {width}x{height} px")
    return box


def restart_interval(width: int, subsampling: str, wanted: int) -> int:
    """The divisor of the MCUs in a row of `width` px that is nearest, as a ratio, to `wanted`.

    A row whose number of MCUs is prime gets 1 or the whole row; of two equally near the smaller is taken.
    """
    if wanted < 1:
        raise PackError(f"the restart interval wanted is {wanted} MCUs; 1 or more are wanted")
    mcus = math.ceil(width / MCU_SIZES_PX[subsampling][0])
    divisors = [n for n in range(1, mcus + 1) if mcus % n == 0]
    return min(divisors, key=lambda n: abs(math.log(n / wanted)))


@dataclass(frozen=True, slots=True)
class Region:
    """The part of a frame that is encoded anew: whole segments around a face box, clipped to the frame.

    x1 … y2 in px; `row` and `rows` count MCU rows, `column` and `columns` segments of a row.
    """

    x1: int
    y1: int
    x2: int
    y2: int
    row: int
    rows: int
    column: int
    columns: int

    @property
    def width(self) -> int:
        """Width in px; no whole number of MCUs where the region ends at the frame's ragged right edge."""
        return self.x2 - self.x1

    @property
    def height(self) -> int:
        """Height in px; no whole number of MCUs where the region ends at the frame's ragged bottom edge."""
        return self.y2 - self.y1

    @property
    def segments(self) -> int:
        """Segments in the region."""
        return self.rows * self.columns

    @property
    def box(self) -> Box:
        """The same as x1, y1, x2, y2."""
        return self.x1, self.y1, self.x2, self.y2

    def within(self, around: Region, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Its part of the pixels (uint8 [H,W,3]) of a region that it lies in."""
        x, y = self.x1 - around.x1, self.y1 - around.y1
        return pixels[y : y + self.height, x : x + self.width]


@dataclass(frozen=True, slots=True)
class SegmentGrid:
    """The segments of a frame of `width` x `height` px with a restart marker each `interval` MCUs.

    `interval` divides the MCUs of a row (`PackError` otherwise), so no segment runs over a row's end.
    """

    width: int
    height: int
    subsampling: str
    interval: int

    def __post_init__(self) -> None:
        if self.mcus_per_row % self.interval:
            raise PackError(
                f"the restart interval {self.interval} does not divide the {self.mcus_per_row} MCUs of a row"
            )

    @property
    def segment_width(self) -> int:
        """Width of a segment in px."""
        return self.interval * self.mcu_width

    @property
    def mcu_width(self) -> int:
        """Width of an MCU in px."""
        return MCU_SIZES_PX[self.subsampling][0]

    @property
    def mcu_height(self) -> int:
        """Height of an MCU, and so of a segment, in px."""
        return MCU_SIZES_PX[self.subsampling][1]

    @property
    def mcus_per_row(self) -> int:
        """MCUs in a row, the last of which may reach beyond the frame."""
        return math.ceil(self.width / self.mcu_width)

    @property
    def rows(self) -> int:
        """Rows of MCUs."""
        return math.ceil(self.height / self.mcu_height)

    @property
    def columns(self) -> int:
        """Segments in a row."""
        return self.mcus_per_row // self.interval

    @property
    def segments(self) -> int:
        """Segments in the frame."""
        return self.rows * self.columns

    def region(self, box: Box) -> Region:
        """`box` (inside the frame, not empty) grown to whole segments and clipped to the frame."""
        return self._grown(box, self.segment_width)

    def mcu_region(self, box: Box) -> Region:
        """`box` (inside the frame, not empty) grown to whole MCUs and clipped to the frame: one segment a row."""
        return dataclasses.replace(self._grown(box, self.mcu_width), column=0, columns=1)

    def _grown(self, box: Box, step_x: int) -> Region:
        x1, y1, x2, y2 = box
        step_y = self.mcu_height
        column, row = x1 // step_x, y1 // step_y
        end_column, end_row = math.ceil(x2 / step_x), math.ceil(y2 / step_y)
        return Region(
            x1=column * step_x,
            y1=row * step_y,
            x2=min(end_column * step_x, self.width),
            y2=min(end_row * step_y, self.height),
            row=row,
            rows=end_row - row,
            column=column,
            columns=end_column - column,
        )
