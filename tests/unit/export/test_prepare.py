from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from compositor_backend.errors import LipstreamError
from export.boxes import boxes_of_frames, read_boxes
from export.errors import ExportError
from export.frames import PictureFolder, Pixels
from export.landmarks import N_POINTS, Faces
from export.prepare import BoxSettings, FaceBoxes, find_boxes, prepared_folder

WIDTH, HEIGHT = 640, 480


@dataclass
class Scripted:
    """Frames and a finder of their faces in one: each frame's face lies at x, is missing (None), or is not alone."""

    faces: Sequence[int | Faces | None]
    repeats: int = 1
    size_px: tuple[int, int] = (WIDTH, HEIGHT)
    side_px: int = 100
    asked: list[int] = field(default_factory=list)
    names: None = None
    note: None = None

    @property
    def origin(self) -> range:
        return range(self.source_count)

    @property
    def source_count(self) -> int:
        return len(self.faces) * self.repeats

    def __iter__(self) -> Iterator[Pixels]:
        for number in range(len(self.faces)):
            frame = np.full((1, 1, 3), number, np.uint8)
            for _ in range(self.repeats):
                yield frame

    def find(self, frame: Pixels) -> Faces:
        number = int(frame[0, 0, 0])
        self.asked.append(number)
        face = self.faces[number]
        if isinstance(face, Faces):
            return face
        if face is None:
            return Faces(0)
        points = np.full((N_POINTS, 2), (face + 50.0, 100.0))
        points[234, 0], points[454, 0] = face, face + self.side_px
        return Faces(1, points)


def boxes_of(script: Scripted, fill: int = 0) -> FaceBoxes:
    return find_boxes(script, script, BoxSettings(fill_frames=fill))


def test_a_box_for_each_frame() -> None:
    told: list[tuple[str, int, int]] = []
    script = Scripted([200] * 6)
    found = find_boxes(script, script, BoxSettings(), lambda *progress: told.append(progress))
    assert found.boxes == ((200, 100, 300, 200),) * 6
    assert found.measured.tolist() == [[200, 100, 300, 200]] * 6
    assert found.notes == ()
    assert told[-1] == ("faces", 6, 6)


def test_a_frame_that_is_repeated_is_looked_at_once() -> None:
    script = Scripted([200, 202, 204], repeats=3)
    assert len(boxes_of(script).boxes) == 9
    assert script.asked == [0, 1, 2]


@pytest.mark.parametrize(
    ("faces", "fill", "message"),
    [
        ([None, 200, 200], 0, "frame 0: no face was found"),
        ([None, 200, 200], 5, "frame 0: no face was found"),
        ([200] * 17 + [None] + [200] * 3, 0, "frame 17: no face was found"),
        ([200] * 4 + [None] * 3 + [200], 2, "frame 4: no face was found"),
        ([200] * 4 + [None] * 2, 2, "frame 4: no face was found, nor in any frame after it"),
        ([200] * 4 + [None] * 2 + [300] * 4, 2, "frames 4 to 5: no face was found, and it is elsewhere"),
        ([200] * 3 + [Faces(2)], 0, "frame 3: 2 faces were found; one is wanted"),
        ([200] * 3 + [Faces(2)] + [200], 9, "frame 3: 2 faces were found; one is wanted"),
    ],
)
def test_a_frame_without_one_face_is_named(faces: list[int | Faces | None], fill: int, message: str) -> None:
    with pytest.raises(ExportError, match=f"^{message}"):
        boxes_of(Scripted(faces), fill)


def test_it_stops_at_the_first_frame_that_is_wrong() -> None:
    script = Scripted([200, None, 200, 200])
    with pytest.raises(ExportError):
        boxes_of(script)
    assert script.asked == [0, 1]


def test_short_gaps_are_filled_where_that_is_asked_for_and_said() -> None:
    found = boxes_of(Scripted([200, 200, 200, None, None, 206, 206, 206, None, 206, 206]), fill=2)
    assert found.measured[:, 0].tolist() == [200, 200, 200, 202, 204, 206, 206, 206, 206, 206, 206]
    assert len(found.boxes) == 11
    assert [note.split(":")[0] for note in found.notes] == ["frames 3 to 4", "frame 8"]


@pytest.mark.parametrize(("side", "said"), [(31, 31), (-20, 0)])
def test_a_face_too_small_for_a_box(side: int, said: int) -> None:
    with pytest.raises(ExportError, match=f"^frame 0: the face is {said} px wide; 48 px or more are wanted"):
        boxes_of(Scripted([200], side_px=side))


def test_wrong_settings() -> None:
    with pytest.raises(ExportError, match="--fill is -1"):
        BoxSettings(fill_frames=-1)
    with pytest.raises(ExportError, match="the family is 'x'"):
        BoxSettings(family="x")


# --- the folder ---
@pytest.fixture
def pictures(tmp_path: Path) -> PictureFolder:
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(14):
        Image.new("RGB", (160, 120), (10 * number, 80, 120)).save(folder / f"{number}.png")
    return PictureFolder.at(folder)


BOXES = FaceBoxes(tuple((20 + n, 30, 80 + n, 90) for n in range(14)), np.full((14, 4), 40.0), ("a note",))


def write(tmp_path: Path, pictures: PictureFolder, replace: bool = False) -> Path:
    source = (tmp_path / "frames", pictures)
    with prepared_folder(tmp_path / "out", "ann", source, BOXES, "328", replace):
        pass
    return tmp_path / "out" / "ann"


def test_the_folder_holds_boxes_that_avatar_reads_a_sheet_and_a_record(
    tmp_path: Path, pictures: PictureFolder
) -> None:
    folder = write(tmp_path, pictures)
    boxes = read_boxes(folder / "crop_rects.json", pictures.names)
    assert tuple(boxes_of_frames(boxes, pictures)) == BOXES.boxes
    record = json.loads((folder / "prepare.json").read_text())
    assert (record["frames"], record["count"], record["family"]) == (str(tmp_path / "frames"), 14, "328")
    assert record["notes"] == ["a note"]
    with Image.open(folder / "contact-sheet.png") as sheet:
        assert (sheet.format, sheet.width) == ("PNG", 1280)


def test_boxes_that_may_have_been_corrected_are_kept_unless_told(
    tmp_path: Path, pictures: PictureFolder
) -> None:
    folder = write(tmp_path, pictures)
    (folder / "crop_rects.json").write_text("[[1, 2, 3, 4]]")
    with pytest.raises(ExportError, match="ann is there already; say --replace"):
        write(tmp_path, pictures)
    assert read_boxes(folder / "crop_rects.json") == [(1, 2, 3, 4)]
    write(tmp_path, pictures, replace=True)
    assert len(read_boxes(folder / "crop_rects.json")) == 14


def test_nothing_appears_when_what_follows_fails(tmp_path: Path, pictures: PictureFolder) -> None:
    source = (tmp_path / "frames", pictures)

    def fail_later() -> None:
        with prepared_folder(tmp_path / "out", "ann", source, BOXES, "328", False) as folder:
            assert (folder / "crop_rects.json").exists()
            raise ExportError("the network is bad")

    with pytest.raises(ExportError, match="the network is bad"):
        fail_later()
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".import.lock"]


@pytest.mark.parametrize("name", ["../ann", "a/b", ".hidden", ""])
def test_no_path_is_made_of_an_unchecked_name(tmp_path: Path, pictures: PictureFolder, name: str) -> None:
    source = (tmp_path / "frames", pictures)
    with (
        pytest.raises(LipstreamError),
        prepared_folder(tmp_path / "out", name, source, BOXES, "328", False),
    ):
        pass
    assert not (tmp_path / "out").exists()
