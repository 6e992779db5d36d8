from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compositor_backend.geometry import Box
from export.boxes import box_of_landmarks, boxes_of_frames, read_boxes
from export.errors import ExportError
from export.frames import Pixels


@dataclass(frozen=True)
class Frames:
    """Frames of which nothing but number and size matters."""

    origin: Sequence[int]
    source_count: int
    size_px: tuple[int, int] = (100, 80)
    names: None = None
    note: None = None

    def __iter__(self) -> Iterator[Pixels]:
        raise AssertionError("the frames need not be read")


def write_landmarks(path: Path, x1: float = 10.9, x2: float = 50.2, y1: float = 20.7) -> None:
    points = np.full((110, 2), 7.5)
    points[1], points[31], points[52] = (x1, 3), (x2, 4), (5, y1)
    path.write_text("".join(f"{x} {y}\n" for x, y in points), encoding="ascii")


@pytest.mark.parametrize(
    "content",
    [
        [[1, 2, 30, 40], [5, 6, 70.9, 80]],
        {"1": {"rect": [5, 6, 70, 80], "score": 0.9}, "0": {"rect": [1.5, 2, 30, 40]}},
    ],
)
def test_both_kinds_of_json_are_read(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "crop_rects.json"
    path.write_text(json.dumps(content))
    assert read_boxes(path) == [(1, 2, 30, 40), (5, 6, 70, 80)]


def test_the_box_of_landmarks_is_the_published_one(tmp_path: Path) -> None:
    """x1 = p[1].x, x2 = p[31].x, y1 = p[52].y, as high as wide; fractions are cut off before."""
    write_landmarks(tmp_path / "0.lms")
    assert box_of_landmarks(tmp_path / "0.lms") == (10, 20, 50, 60)


def test_landmarks_come_in_the_frames_order(tmp_path: Path) -> None:
    for number in range(12):
        write_landmarks(tmp_path / f"{number}.lms", x1=number, x2=number + 30)
    assert [box[0] for box in read_boxes(tmp_path)] == list(range(12))
    assert [box[0] for box in read_boxes(tmp_path, ["3", "10", "2"])] == [3, 10, 2]


def test_landmarks_missing_for_a_frame(tmp_path: Path) -> None:
    for number in (0, 1, 3):
        write_landmarks(tmp_path / f"{number}.lms")
    with pytest.raises(ExportError, match=r"2\.lms is not there; frame 2 wants its landmarks"):
        read_boxes(tmp_path, ["0", "1", "2", "3"])
    with pytest.raises(ExportError, match="has no landmarks of frame 2, but of 1 and 3"):
        read_boxes(tmp_path)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("1 2\n" * 109, "has 109 lines; 110 lines of x and y are wanted"),
        ("", "has 0 lines"),
        ("1 2\n" * 9 + "1 2 3\n" + "1 2\n" * 100, r"line 10: \[1.0, 2.0, 3.0\] is no point"),
        ("1 2\n" * 31 + "nan 2\n" + "1 2\n" * 78, r"line 32: \[nan, 2.0\] is no point"),
        ("1 2\n" * 109 + "1 inf\n", "line 110: .* is no point"),
        ("1 2\n" * 109 + "one two\n", "cannot be read as landmarks: .*'one'"),
        ("ä" * 9, "cannot be read as landmarks"),
    ],
)
def test_landmarks_that_are_none(tmp_path: Path, content: str, error: str) -> None:
    path = tmp_path / "0.lms"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ExportError, match=rf"0\.lms.*{error}"):
        box_of_landmarks(path)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("not JSON", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ("[]", r"holds \[\]; a list of \[x1, y1, x2, y2\] is wanted"),
        ("7", "holds 7"),
        ('"text"', "holds 'text'"),
        ("[[1, 2, 3]]", r"frame 0: \[1, 2, 3\] is no box"),
        ("[[1, 2, 3, 4], null]", "frame 1: None is no box"),
        ('[[1, 2, 3, "4"]]', "frame 0: .* is no box"),
        ("[[1, 2, 3, true]]", "frame 0: .* is no box"),
        ("[[1, 2, NaN, 4]]", "frame 0: .* is no box"),
        ("[[1, 2, 1e99, 4]]", "frame 0: .* is no box"),
        ('{"0": {"rect": [1, 2, 3, 4]}, "2": {"rect": [1, 2, 3, 4]}}', 'has no "1"'),
        ('{"0": [1, 2, 3, 4]}', 'has no "0"'),
    ],
)
def test_json_that_holds_no_boxes(tmp_path: Path, content: str, error: str) -> None:
    path = tmp_path / "crop_rects.json"
    path.write_text(content)
    with pytest.raises(ExportError, match=rf"crop_rects\.json.*{error}"):
        read_boxes(path)


def test_boxes_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"is not there; a crop_rects\.json or a folder of landmarks"):
        read_boxes(tmp_path / "gone.json")
    with pytest.raises(ExportError, match=r"holds no \.lms files"):
        read_boxes(tmp_path)


BOXES: list[Box] = [(n, n, n + 20, n + 20) for n in range(6)]


def test_each_frame_has_its_box() -> None:
    assert boxes_of_frames(BOXES, Frames(range(6), 6)) == BOXES


def test_boxes_of_a_videos_own_frames_follow_the_frames_that_were_taken() -> None:
    assert boxes_of_frames(BOXES, Frames((0, 2, 4, 5), 6)) == [BOXES[n] for n in (0, 2, 4, 5)]
    assert boxes_of_frames(BOXES[:4], Frames((0, 2, 4, 5), 6)) == BOXES[:4]


@pytest.mark.parametrize("count", [0, 5, 7])
def test_another_number_of_boxes_than_frames(count: int) -> None:
    with pytest.raises(ExportError, match=f"there are 6 frames and {count} face boxes"):
        boxes_of_frames((BOXES * 2)[:count], Frames(range(6), 6))


@pytest.mark.parametrize(
    ("box", "error"),
    [
        ((-1, 0, 20, 20), "is not inside the frame of 100x80 px"),
        ((0, 0, 101, 20), "is not inside the frame of 100x80 px"),
        ((0, 61, 20, 81), "is not inside the frame of 100x80 px"),
        ((20, 0, 20, 20), "is empty"),
        ((30, 0, 20, 20), "is empty"),
    ],
)
def test_a_box_that_is_not_in_its_frame(box: Box, error: str) -> None:
    boxes = [*BOXES[:3], box, *BOXES[4:]]
    numbers = ", ".join(map(str, box))
    with pytest.raises(ExportError, match=rf"frame 3: the face box \[{numbers}\] {error}"):
        boxes_of_frames(boxes, Frames(range(6), 6))


def test_a_box_may_touch_the_frames_edges() -> None:
    assert boxes_of_frames([(0, 0, 100, 80)], Frames(range(1), 1)) == [(0, 0, 100, 80)]
