from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from compositor_backend.geometry import Box
from export.frames import PictureFolder
from export.prepare_sheet import draw_prepared, shown_frames

RED = np.array((0xE0, 0x35, 0x2B))
BACKGROUND = (40, 90, 60)


def sheet_of(tmp_path: Path, size: tuple[int, int], boxes: list[Box]) -> np.ndarray:
    for number in range(len(boxes)):
        Image.new("RGB", size, BACKGROUND).save(tmp_path / f"{number}.png")
    drawn = draw_prepared(PictureFolder.at(tmp_path), boxes, np.array(boxes, float))
    return np.asarray(drawn).astype(int)


def test_a_dozen_frames_from_first_to_last() -> None:
    shown = shown_frames(251)
    assert (len(shown), shown[0], shown[-1]) == (12, 0, 250)
    assert set(np.diff(shown)) <= {22, 23}
    assert shown_frames(3) == [0, 1, 2]
    assert shown_frames(1) == [0]


def test_a_box_is_drawn_where_it_is(tmp_path: Path) -> None:
    # The first tile stands at the margin of 24 px and is 302 px wide: the scale is 302/604.
    pixels = sheet_of(tmp_path, (604, 400), [(100, 80, 300, 280)] * 4)
    tile = pixels[24 : 24 + 200, 24 : 24 + 302]
    red = (np.abs(tile - RED).max(axis=-1) < 12).nonzero()
    assert (red[1].min(), red[0].min(), red[1].max(), red[0].max()) == (50, 40, 149, 139)
    assert (tile[60:120, 60:140] == BACKGROUND).all()


@pytest.mark.parametrize(
    ("size", "count"), [((320, 180), 30), ((180, 320), 30), ((320, 180), 1)], ids=["wide", "upright", "one"]
)
def test_every_shape_of_video_has_a_sheet(tmp_path: Path, size: tuple[int, int], count: int) -> None:
    boxes = [(20 + number, 30, 100 + number, 110) for number in range(count)]
    pixels = sheet_of(tmp_path, size, boxes)
    assert pixels.shape[1] == 1280
    frames = (np.abs(pixels - BACKGROUND).max(axis=-1) < 3).sum()
    assert frames > min(count, 12) * 15_000
