from __future__ import annotations

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from compositor_backend.errors import PackError
from compositor_backend.geometry import Region, SegmentGrid, restart_interval
from compositor_backend.jpeg import (
    Header,
    JpegSettings,
    encode,
    marker_codes,
    marker_offsets,
    read_header,
    with_comment,
)
from compositor_backend.splice import cut, splice
from tests.support.scenes import Pixels, textured


class Background:
    """A frame encoded with restart markers, cut the way a pack holds it."""

    def __init__(self, frame: Pixels, subsampling: str = "420", wanted: int = 4, quality: int = 75) -> None:
        height, width = frame.shape[:2]
        self.grid = SegmentGrid(width, height, subsampling, restart_interval(width, subsampling, wanted))
        self.settings = JpegSettings(quality, subsampling, self.grid.interval)
        self.frame = frame
        self.jpeg = encode(frame, self.settings)
        self.header: Header = read_header(self.jpeg)
        self.scan = self.jpeg[len(self.header.data) :]
        ends = marker_offsets(np.frombuffer(self.scan, np.uint8)) + 2
        self.offsets: NDArray[np.int64] = np.concatenate([[0], ends]).astype(np.int64)

    def spliced(self, region: Region, pixels: Pixels) -> bytes:
        fresh = cut(self.header, encode(pixels, self.settings))
        return splice(self.header, self.grid, memoryview(self.scan), self.offsets, region, fresh)


def part(frame: Pixels, region: Region) -> Pixels:
    return frame[region.y1 : region.y2, region.x1 : region.x2]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_splice_is_byte_for_byte_the_encode_of_the_changed_frame(data: st.DataObject) -> None:
    """With the same markers in both, not only the pixels are equal."""
    subsampling = data.draw(st.sampled_from(["420", "422", "444"]))
    width, height = data.draw(st.integers(1, 200)), data.draw(st.integers(1, 150))
    quality = data.draw(st.sampled_from([1, 30, 75, 95, 100]))
    before = Background(textured(width, height, 1), subsampling, data.draw(st.integers(1, 12)), quality)
    x1, y1 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    x2, y2 = data.draw(st.integers(x1 + 1, width)), data.draw(st.integers(y1 + 1, height))
    changed = before.frame.copy()
    changed[y1:y2, x1:x2] = textured(x2 - x1, y2 - y1, 2)[::-1]
    region = before.grid.region((x1, y1, x2, y2))
    assert before.spliced(region, part(changed, region)) == encode(changed, before.settings)


def test_a_region_of_its_own_pixels_changes_nothing() -> None:
    background = Background(textured(320, 240, 1))
    region = background.grid.region((70, 50, 200, 190))
    assert background.spliced(region, part(background.frame, region)) == background.jpeg


def test_a_frame_keeps_the_comment_of_its_header() -> None:
    background = Background(textured(320, 240, 1))
    region = background.grid.region((70, 50, 200, 190))
    other = textured(region.width, region.height, 2)
    plain = background.spliced(region, other)
    background.header = read_header(with_comment(background.header.data, b"whose"))
    assert background.spliced(region, other) == with_comment(plain, b"whose")


def test_the_whole_frame_may_be_the_region() -> None:
    background = Background(textured(320, 240, 1))
    other = textured(320, 240, 2)
    region = background.grid.region((0, 0, 320, 240))
    assert background.spliced(region, other) == encode(other, background.settings)


def test_marker_numbers_run_through_the_frame() -> None:
    background = Background(textured(320, 240, 1))
    region = background.grid.region((70, 50, 200, 190))
    jpeg = np.frombuffer(
        background.spliced(region, np.zeros((region.height, region.width, 3), np.uint8)), np.uint8
    )
    scan = jpeg[len(background.header.data) :]
    codes = scan[marker_offsets(scan) + 1]
    np.testing.assert_array_equal(codes, marker_codes(0, background.grid.segments, background.grid.segments))


def test_pixels_outside_the_region_stay() -> None:
    background = Background(textured(320, 240, 1))
    region = background.grid.region((70, 50, 200, 190))
    jpeg = background.spliced(region, np.zeros((region.height, region.width, 3), np.uint8))
    # Decoders smooth chroma over the edges of blocks, so two pixels beyond the region may differ.
    outside = np.ones((240, 320), bool)
    outside[region.y1 - 2 : region.y2 + 2, region.x1 - 2 : region.x2 + 2] = False
    before, after = simplejpeg.decode_jpeg(background.jpeg), simplejpeg.decode_jpeg(jpeg)
    np.testing.assert_array_equal(before[outside], after[outside])
    assert after[region.y1 + 8 : region.y2 - 8, region.x1 + 8 : region.x2 - 8].max() == 0


def test_a_region_of_other_tables_is_refused() -> None:
    background = Background(textured(320, 240, 1))
    region = background.grid.region((70, 50, 200, 190))
    other = encode(part(background.frame, region), JpegSettings(60, "420", background.grid.interval))
    with pytest.raises(PackError, match="tables"):
        cut(background.header, other)


def test_regions_encoded_as_one_picture_are_told_apart() -> None:
    background = Background(textured(320, 240, 1))
    regions = [
        background.grid.region(box) for box in ((70, 50, 200, 190), (66, 10, 250, 60), (70, 90, 200, 240))
    ]
    changed = [textured(320, 240, seed) for seed in (2, 3, 4)]
    stacked = np.concatenate([part(frame, region) for frame, region in zip(changed, regions, strict=True)])
    segments = cut(background.header, encode(stacked, background.settings))
    first = 0
    for frame, region in zip(changed, regions, strict=True):
        place = (background.header, background.grid, memoryview(background.scan), background.offsets)
        assert splice(*place, region, segments, first) == background.spliced(region, part(frame, region))
        first += region.segments
    assert first == segments.markers.size


def test_a_region_of_another_size_is_refused() -> None:
    background = Background(textured(320, 240, 1))
    region = background.grid.region((70, 50, 200, 190))
    with pytest.raises(PackError, match="expected 27 JPEG segments, got 3"):
        background.spliced(region, np.zeros((16, 192, 3), np.uint8))
