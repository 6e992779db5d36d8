from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from export.errors import ExportError
from export.face_rules import jaw_square, whole_face
from export.frames import Pixels, open_frames
from export.landmarks import N_POINTS, MediaPipeFinder, cut_out
from export.prepare import BoxSettings, find_boxes
from tests.support.videos import drawn_box, face_frame, moved, no_face, two_faces, write_video

ROOT = Path(__file__).parents[3]


@pytest.fixture
def finder() -> Iterator[MediaPipeFinder]:
    with MediaPipeFinder() as finder:
        yield finder


def test_a_face_is_found_where_it_was_drawn(finder: MediaPipeFinder) -> None:
    faces = finder.find(face_frame())
    assert faces.count == 1
    assert faces.points is not None
    assert faces.points.shape == (N_POINTS, 2)
    found, drawn = jaw_square(faces.points), np.array(drawn_box())
    assert np.abs(found - drawn).max() < 12
    assert found[2] - found[0] == pytest.approx(found[3] - found[1])
    x1, y1, x2, y2 = whole_face(faces.points)
    # From above her eyebrows to below her chin, which is drawn 157 px under the square's upper edge.
    assert y1 < drawn[1] - 60
    assert drawn[1] + 145 < y2 - 10 < drawn[1] + 180
    assert x2 - x1 == pytest.approx(drawn[2] - drawn[0], abs=20)


def test_faces_are_counted(finder: MediaPipeFinder) -> None:
    assert finder.find(no_face()).count == 0
    two = finder.find(two_faces())
    assert (two.count, two.points) == (2, None)
    assert finder.find(face_frame()).count == 1


def test_a_small_face_in_a_wide_frame_is_found(finder: MediaPipeFinder) -> None:
    small = np.asarray(Image.fromarray(face_frame()).resize((200, 200), Image.Resampling.LANCZOS))
    frame = np.full((720, 1280, 3), 110, np.uint8)
    frame[300:500, 800:1000] = small
    points = finder.find(frame).points
    assert points is not None
    scale = 200 / 640
    wanted = np.array(drawn_box()) * scale + (800, 300, 800, 300)
    assert np.abs(jaw_square(points) - wanted).max() < 6


def test_a_still_face_in_a_noisy_video_has_a_still_box(tmp_path: Path, finder: MediaPipeFinder) -> None:
    video = write_video(tmp_path / "still.mp4", [face_frame()] * 50, noise=5)
    found = find_boxes(open_frames(video), finder, BoxSettings())
    assert len(found.boxes) == 50
    assert np.abs(np.diff(found.measured, axis=0)).max() > 0.3, "the video trembles"
    assert np.abs(np.diff(found.boxes, axis=0)).max() <= 1


def test_a_moving_face_is_followed(tmp_path: Path, finder: MediaPipeFinder) -> None:
    seconds = np.arange(50) / 25
    across = np.round(90 * np.sin(np.pi * seconds)).astype(int)
    down = np.round(10 * np.sin(2 * np.pi * seconds)).astype(int)
    frames = [moved(int(x), int(y)) for x, y in zip(across, down, strict=True)]
    found = find_boxes(open_frames(write_video(tmp_path / "m.mp4", frames, noise=2)), finder, BoxSettings())
    off = np.array(found.boxes)[:, :2] - np.stack([across, down], axis=1)
    assert np.abs(off - np.median(off, axis=0)).max() <= 4
    assert all(x2 - x1 == y2 - y1 for x1, y1, x2, y2 in found.boxes)


@pytest.mark.parametrize(
    ("frame", "message"),
    [(no_face, "^frame 2: no face was found$"), (two_faces, "^frame 2: 2 faces were found; one is wanted$")],
)
def test_a_frame_without_one_face_is_named(
    tmp_path: Path, finder: MediaPipeFinder, frame: Callable[[], Pixels], message: str
) -> None:
    wrong = np.asarray(Image.fromarray(frame()).resize((640, 640)))
    if frame is two_faces:
        wrong = np.zeros((640, 640, 3), np.uint8)
        wrong[:512] = np.asarray(Image.fromarray(two_faces()).resize((640, 512)))
    video = write_video(tmp_path / "v.mp4", [face_frame(), face_frame(), wrong, face_frame()])
    with pytest.raises(ExportError, match=message):
        find_boxes(open_frames(video), finder, BoxSettings())


def test_nothing_else_is_imported_and_nothing_is_said(tmp_path: Path) -> None:
    Image.fromarray(face_frame()).save(tmp_path / "0.png")
    code = (
        "import sys; from pathlib import Path; from export.frames import read_picture\n"
        "from export.landmarks import MediaPipeFinder\n"
        "with MediaPipeFinder() as finder: faces = finder.find(read_picture(Path(sys.argv[1])))\n"
        "assert faces.count == 1\n"
        "print([name for name in ('mediapipe', 'matplotlib', 'cv2', 'jax', 'torch') if name in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "0.png")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "[]\n", "")


def test_without_mediapipe_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(
        ExportError, match=r"make install-prepare, or pip install --no-deps mediapipe==0\.10\.21"
    ):
        MediaPipeFinder()


def test_a_newer_mediapipe_without_the_mesh_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mediapipe" / "python").mkdir(parents=True)
    for folder in ("mediapipe", "mediapipe/python"):
        (tmp_path / folder / "__init__.py").touch()
    for name in [name for name in sys.modules if name.split(".")[0] == "mediapipe"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(
        ExportError, match=r"MediaPipe lacks .*face_detection.* here; version 0\.10\.21 is wanted"
    ):
        MediaPipeFinder()


@pytest.mark.parametrize(("left", "top"), [(2, 1), (-3, -2), (6, 5), (40, 40)])
def test_a_view_is_black_outside_of_the_frame(left: int, top: int) -> None:
    frame = np.arange(1, 10 * 8 * 3 + 1, dtype=np.uint8).reshape(8, 10, 3)
    padded = np.zeros((8 + 100, 10 + 100, 3), np.uint8)
    padded[50:58, 50:60] = frame
    wanted = padded[50 + top : 50 + top + 6, 50 + left : 50 + left + 6]
    np.testing.assert_array_equal(cut_out(frame, left, top, 6), wanted)
