"""Exchanges the segments of a region in a frame's JPEG for newly encoded ones.

Entropy-coded data is kept with its markers: each segment is followed by the two bytes of its restart
marker, the last one by EOI. So header and scan make a whole JPEG, a run of unchanged segments is one slice
of bytes, and all that changes in a region's segments is the number in each marker.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from compositor_backend.errors import PackError
from compositor_backend.geometry import Region, SegmentGrid
from compositor_backend.jpeg import MARKER_BYTES, Header, marker_codes, marker_offsets


@dataclass(frozen=True, eq=False)
class _Plan:
    """How a region lies in its frame; the same for all frames with their face in the same segments.

    `kept` [2(rows+1)]: first and one-past-last segment of each run that stays, in turn.
    `codes` [rows*columns]: second bytes of the markers after the region's segments.
    """

    kept: NDArray[np.intp]
    codes: NDArray[np.uint8]


@lru_cache(maxsize=4096)
def _plan(grid: SegmentGrid, region: Region) -> _Plan:
    starts = (region.row + np.arange(region.rows)) * grid.columns + region.column
    stops = starts + region.columns
    kept = np.concatenate([[0], np.stack([starts, stops], axis=1).ravel(), [grid.segments]])
    codes = [marker_codes(int(start), region.columns, grid.segments) for start in starts]
    return _Plan(kept, np.concatenate(codes))


@lru_cache(maxsize=4096)
def _codes_alone(segments: int) -> NDArray[np.uint8]:
    """Second bytes of the markers of a picture of that many segments."""
    return marker_codes(0, segments, segments)


@dataclass(frozen=True, eq=False)
class Segments:
    """Newly encoded segments, one after another: `data` uint8 [·], `markers` the offset of each one's marker."""

    data: NDArray[np.uint8]
    markers: NDArray[np.intp]


def cut(header: Header, jpeg: bytes) -> Segments:
    """The segments of regions that were encoded as an image of their own, with the settings of the frame.

    `PackError` if its tables differ from those that the frame's `header` has.
    """
    if not header.same_tables(jpeg):
        raise PackError("the pack's JPEG tables are not this encoder's; import the avatar again")
    data = np.frombuffer(jpeg, np.uint8)[len(header.encoded) :].copy()
    return Segments(data, marker_offsets(data))


def splice(
    header: Header,
    grid: SegmentGrid,
    scan: memoryview,
    offsets: NDArray[np.int64],
    region: Region,
    segments: Segments,
    first: int = 0,
) -> bytes:
    """The frame's JPEG with the segments of `region` taken from `segments`, from number `first` on.

    `scan` holds the frame's entropy-coded data with markers, `offsets` [segments+1] where each segment
    starts in it and where the last one's marker ends. `PackError` if there are fewer segments than the region has.
    """
    ends = place(grid, region, segments, first)
    return join(header, grid, scan, offsets, region, segments.data.data, ends)


def alone(header: Header, region: Region, segments: Segments, first: int = 0) -> bytes:
    """The region as a JPEG of its own: its segments from number `first` on, under a header of its size.

    It decodes to the pixels that the whole frame has in the region. `PackError` if there are too few segments.
    """
    markers = segments.markers[first : first + region.segments]
    if markers.size != region.segments:
        raise PackError(f"expected {region.segments} JPEG segments, got {markers.size}")
    start = int(segments.markers[first - 1]) + MARKER_BYTES if first else 0
    scan = segments.data[start : int(markers[-1]) + MARKER_BYTES].copy()
    scan[markers - start + 1] = _codes_alone(region.segments)
    return header.of_size(region.width, region.height) + scan.tobytes()


def place(grid: SegmentGrid, region: Region, segments: Segments, first: int = 0) -> list[int]:
    """Give the segments from number `first` on, as many as `region` has, the marker numbers of their places in a frame.

    Returns where in `segments.data` each row of the region starts, and where the last one ends, [rows+1].
    """
    codes = _plan(grid, region).codes
    markers = segments.markers[first : first + codes.size]
    if markers.size != codes.size:
        raise PackError(f"expected {codes.size} JPEG segments, got {markers.size}")
    segments.data[markers + 1] = codes
    start = int(segments.markers[first - 1]) + MARKER_BYTES if first else 0
    ends: list[int] = (markers[region.columns - 1 :: region.columns] + MARKER_BYTES).tolist()
    return [start, *ends]


def join(
    header: Header,
    grid: SegmentGrid,
    scan: memoryview,
    offsets: NDArray[np.int64],
    region: Region,
    fresh: memoryview,
    rows: Sequence[int],
) -> bytes:
    """The frame's JPEG with the rows of `region` taken from `fresh`, cut at `rows` [rows+1], markers in place."""
    kept = offsets[_plan(grid, region).kept].tolist()
    pieces: list[bytes | memoryview] = [header.data, scan[kept[0] : kept[1]]]
    for row, (start, end) in enumerate(itertools.pairwise(rows), 1):
        pieces += (fresh[start:end], scan[kept[2 * row] : kept[2 * row + 1]])
    return b"".join(pieces)
