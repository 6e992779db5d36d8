from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compositor_backend.errors import PackError
from compositor_backend.geometry import FAMILIES, SegmentGrid, check_box, restart_interval


def test_families_have_the_published_measures() -> None:
    large, small = FAMILIES["328"], FAMILIES["160"]
    assert (large.crop_px, large.network_px, large.inner) == (328, 320, slice(4, 324))
    assert (small.crop_px, small.network_px, small.inner) == (168, 160, slice(4, 164))


@pytest.mark.parametrize("side_px", [96, 128, 256, 288, 384])
def test_wav2lip_sees_all_of_a_box_with_its_lower_half_black(side_px: int) -> None:
    family = FAMILIES[f"wav2lip-{side_px}"]
    assert (family.crop_px, family.network_px, family.inner) == (side_px, side_px, slice(0, side_px))
    assert family.mask == (0, side_px // 2, side_px, side_px)
    assert family.masked_first
    assert not family.square_boxes


def test_a_graphs_family_is_known_by_its_size() -> None:
    assert len({family.network_px for family in FAMILIES.values()}) == len(FAMILIES)
    assert all(name == family.name for name, family in FAMILIES.items())


@pytest.mark.parametrize(("name", "last_x", "last_y"), [("328", 314, 309), ("160", 154, 149)])
def test_the_mask_keeps_five_pixels_and_ten_at_the_bottom(name: str, last_x: int, last_y: int) -> None:
    x1, y1, x2, y2 = FAMILIES[name].mask
    assert (x1, y1, x2 - 1, y2 - 1) == (5, 5, last_x, last_y)


@pytest.mark.parametrize("box", [(0, 0, 10, 10), (0, 0, 1, 1), (9, 9, 10, 10)])
def test_a_box_in_the_frame_is_taken(box: tuple[int, int, int, int]) -> None:
    assert check_box(box, 10, 10) == box


@pytest.mark.parametrize(
    ("box", "complaint"),
    [
        ((5, 5, 5, 9), r"the face box \[5, 5, 5, 9\] is empty"),
        ((5, 9, 8, 5), "is empty"),
        ((-1, 0, 5, 5), "is not inside the frame of 10x20 px"),
        ((0, 0, 11, 5), "is not inside"),
        ((0, 0, 5, 21), "is not inside"),
        ((0, -3, 5, 5), "is not inside"),
    ],
)
def test_a_box_that_is_none_is_refused(box: tuple[int, int, int, int], complaint: str) -> None:
    with pytest.raises(PackError, match=complaint):
        check_box(box, 10, 20)


@pytest.mark.parametrize(
    ("width", "subsampling", "wanted", "interval"),
    [
        (1280, "420", 4, 4),  # 80 MCUs
        (1920, "420", 4, 4),  # 120
        (3840, "420", 4, 4),  # 240
        (720, "420", 4, 5),  # 45: 5 is nearer than 3
        (854, "420", 4, 3),  # 54
        (1366, "420", 4, 2),  # 86 = 2 x 43
        (848, "420", 4, 1),  # 53, a prime
        (848, "420", 30, 53),
        (1280, "444", 4, 4),  # 160
        (1, "420", 4, 1),
        (1280, "420", 1000, 80),
    ],
)
def test_the_interval_divides_the_row(width: int, subsampling: str, wanted: int, interval: int) -> None:
    assert restart_interval(width, subsampling, wanted) == interval


def test_an_interval_below_one_is_refused() -> None:
    with pytest.raises(PackError, match="the restart interval wanted is 0"):
        restart_interval(1280, "420", 0)


def test_an_interval_that_does_not_divide_the_row_is_refused() -> None:
    with pytest.raises(PackError, match="3 does not divide the 80 MCUs of a row"):
        SegmentGrid(1280, 720, "420", 3)


def test_a_region_by_hand() -> None:
    region = SegmentGrid(1280, 720, "420", 4).region((500, 220, 680, 400))
    assert region.box == (448, 208, 704, 400)
    assert (region.column, region.columns, region.row, region.rows) == (7, 4, 13, 12)


def test_a_region_at_ragged_edges_ends_with_the_frame() -> None:
    grid = SegmentGrid(854, 478, "420", 3)
    region = grid.region((700, 400, 854, 478))
    assert region.box == (672, 400, 854, 478)
    assert (region.width, region.height) == (182, 78)
    assert region.column + region.columns == grid.columns
    assert region.row + region.rows == grid.rows


def test_a_region_of_whole_mcus_by_hand() -> None:
    grid = SegmentGrid(1280, 720, "420", 4)
    region = grid.mcu_region((500, 220, 680, 400))
    assert region.box == (496, 208, 688, 400)
    assert (region.rows, region.segments) == (12, 12)
    pixels = np.arange(256 * 192 * 3).astype(np.uint8).reshape(192, 256, 3)
    part = region.within(grid.region((500, 220, 680, 400)), pixels)
    np.testing.assert_array_equal(part, pixels[:, 48:240])


@given(st.data())
def test_a_region_is_the_least_number_of_whole_segments(data: st.DataObject) -> None:
    subsampling = data.draw(st.sampled_from(["420", "422", "444"]))
    width, height = data.draw(st.integers(1, 3000)), data.draw(st.integers(1, 3000))
    grid = SegmentGrid(
        width, height, subsampling, restart_interval(width, subsampling, data.draw(st.integers(1, 20)))
    )
    x1, y1 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    x2, y2 = data.draw(st.integers(x1 + 1, width)), data.draw(st.integers(y1 + 1, height))
    region = grid.region((x1, y1, x2, y2))
    left = np.arange(grid.columns) * grid.segment_width
    top = np.arange(grid.rows) * grid.mcu_height
    touched_x = np.flatnonzero((left < x2) & (left + grid.segment_width > x1))
    touched_y = np.flatnonzero((top < y2) & (top + grid.mcu_height > y1))
    assert (region.column, region.columns) == (touched_x[0], touched_x.size)
    assert (region.row, region.rows) == (touched_y[0], touched_y.size)
    assert (region.x1, region.y1) == (left[touched_x[0]], top[touched_y[0]])
    assert region.x2 == min(width, left[touched_x[-1]] + grid.segment_width)
    assert region.y2 == min(height, top[touched_y[-1]] + grid.mcu_height)
    assert grid.segments == grid.columns * grid.rows
    assert grid.columns * grid.interval == math.ceil(width / (8 if subsampling == "444" else 16))
