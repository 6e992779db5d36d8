from __future__ import annotations

import hashlib
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from compositor_backend.errors import PackError
from compositor_backend.manifest import MANIFEST_NAME, PACK_FILES, Manifest
from compositor_backend.pack import AvatarPack
from export.pack_writer import PackWriter, write_pack
from tests.support.scenes import KEY, Box, Pixels, settings, textured

BOX = (40, 30, 101, 91)


def test_the_manifest_describes_the_files(tmp_path: Path) -> None:
    frames = [textured(150, 100, seed) for seed in range(3)]
    manifest = write_pack(tmp_path / "ann", settings(), [(frame, BOX) for frame in frames])
    assert Manifest.load(tmp_path / "ann") == manifest
    assert (manifest.id, manifest.width, manifest.height, manifest.frames) == ("ann", 150, 100, 3)
    assert manifest.network_key == KEY
    assert manifest.graphs == settings().graphs
    assert manifest.restart_interval == 5  # a row has 10 MCUs; 5 is as a ratio nearer to 4 than 2
    assert manifest.created_by.startswith("lipstream ")
    for name in PACK_FILES:
        path = tmp_path / "ann" / f"{name}.npy"
        entry, array = manifest.files[name], np.load(path)
        assert (entry.dtype, entry.shape) == (array.dtype.name, array.shape)
        assert entry.bytes == path.stat().st_size
        assert entry.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert {path.name for path in (tmp_path / "ann").iterdir()} == {
        MANIFEST_NAME,
        *(f"{name}.npy" for name in PACK_FILES),
    }


@pytest.mark.parametrize(("family", "crop_px"), [("328", 328), ("160", 168)])
def test_faces_are_the_inner_squares_of_the_face_boxes_resized(
    tmp_path: Path, family: str, crop_px: int
) -> None:
    frame = textured(150, 100, 1)
    write_pack(tmp_path / "ann", settings(family=family), [(frame, BOX)])
    face = Image.fromarray(frame).crop(BOX).resize((crop_px, crop_px), Image.Resampling.BICUBIC)
    with AvatarPack(tmp_path / "ann") as pack:
        np.testing.assert_array_equal(pack.faces[0], np.moveaxis(np.asarray(face)[4:-4, 4:-4], 2, 0))


def test_frames_are_written_as_they_come(tmp_path: Path) -> None:
    """Sixty frames take no more memory than six."""

    def frames(count: int) -> Iterator[tuple[Pixels, Box]]:
        for seed in range(count):
            yield np.full((400, 600, 3), seed, np.uint8), (100, 100, 300, 300)

    peaks = []
    for count in (6, 60):
        tracemalloc.start()
        write_pack(tmp_path / str(count), settings(), frames(count))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 400 * 600 * 3


def test_progress_counts_the_frames(tmp_path: Path) -> None:
    seen: list[int] = []
    write_pack(
        tmp_path / "ann", settings(), [(textured(64, 48, n), (0, 0, 9, 9)) for n in range(3)], seen.append
    )
    assert seen == [1, 2, 3]


@pytest.mark.parametrize(
    ("frame", "box", "complaint"),
    [
        (textured(150, 101, 1), BOX, "frame 1: a frame is 150x101 px; the first is 150x100"),
        (textured(150, 100, 1), (40, 30, 40, 91), r"frame 1: the face box \[40, 30, 40, 91\] is empty"),
        (textured(150, 100, 1), (90, 30, 151, 91), "frame 1: .* is not inside the frame of 150x100 px"),
        (np.zeros((100, 150, 4), np.uint8), BOX, r"frame 1: a frame is uint8 \[100, 150, 4\]"),
        (np.zeros((100, 150, 3), np.float32), BOX, "frame 1: a frame is float32"),
    ],
)
def test_a_bad_frame_is_named_and_nothing_stays(
    tmp_path: Path, frame: Pixels, box: Box, complaint: str
) -> None:
    with pytest.raises(PackError, match=complaint):
        write_pack(tmp_path / "ann", settings(), [(textured(150, 100, 0), BOX), (frame, box)])
    assert list(tmp_path.iterdir()) == []


def test_an_avatar_without_frames_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PackError, match="the avatar has no frames"):
        write_pack(tmp_path / "ann", settings(), [])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"quality": 0}, "quality in the new manifest is 0; 1 to 100 is wanted"),
        ({"subsampling": "411"}, "subsampling in the new manifest is '411'"),
        ({"family": "96"}, "family in the new manifest is '96'"),
        ({"blend": "soft"}, "blend in the new manifest is 'soft'"),
        ({"avatar_id": "../x"}, "id in the new manifest is '../x'"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(
    tmp_path: Path, changes: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(PackError, match=complaint):
        PackWriter(tmp_path / "ann", settings(**changes))
    assert list(tmp_path.iterdir()) == []


def test_a_pack_that_is_there_is_not_written_to(tmp_path: Path) -> None:
    write_pack(tmp_path / "ann", settings(), [(textured(64, 48, 1), (0, 0, 9, 9))])
    before = {path: path.read_bytes() for path in (tmp_path / "ann").iterdir()}
    with pytest.raises(PackError, match="holds a pack already"):
        write_pack(tmp_path / "ann", settings(), [(textured(64, 48, 2), (0, 0, 9, 9))])
    assert {path: path.read_bytes() for path in (tmp_path / "ann").iterdir()} == before


@pytest.mark.parametrize("name", PACK_FILES)
def test_a_full_disk_is_said_and_nothing_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """`/dev/full` takes the place of one file: the kernel itself says that no space is left."""
    plain_open = Path.open

    def redirected(self: Path, mode: str = "r", *rest: Any, **more: Any) -> Any:
        if self.name == f"{name}.npy" and mode == "xb":
            return plain_open(Path("/dev/full"), "r+b", *rest, **more)
        return plain_open(self, mode, *rest, **more)

    monkeypatch.setattr(Path, "open", redirected)
    with pytest.raises(PackError, match="ann cannot be written: No space left on device"):
        write_pack(tmp_path / "ann", settings(), [(textured(150, 100, n), BOX) for n in range(3)])
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_leaves_nothing(tmp_path: Path) -> None:
    def frames() -> Iterator[tuple[Pixels, Box]]:
        yield textured(64, 48, 1), (0, 0, 9, 9)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_pack(tmp_path / "ann", settings(), frames())
    assert list(tmp_path.iterdir()) == []


def test_a_strangers_file_in_the_folder_stays(tmp_path: Path) -> None:
    (tmp_path / "config.pbtxt").write_text("name: 'ann'")
    with pytest.raises(PackError, match="is empty"):
        write_pack(
            tmp_path, settings(), [(textured(64, 48, 1), (0, 0, 9, 9)), (textured(64, 48, 1), (9, 9, 9, 9))]
        )
    assert [path.name for path in tmp_path.iterdir()] == ["config.pbtxt"]
