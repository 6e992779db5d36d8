from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from compositor_backend.pack import AvatarPack
from perf.subjects import FramesOfPack, decode
from tests.support.scenes import open_avatar, textured

BOXES = [(40 + n, 30, 80 + n, 70) for n in range(3)]


@pytest.fixture
def pack(tmp_path: Path) -> AvatarPack:
    return open_avatar(tmp_path, [textured(160, 90, seed) for seed in range(3)], BOXES)


def test_frames_of_the_same_size_are_the_packs_own(pack: AvatarPack) -> None:
    source = FramesOfPack(pack, (160, 90), 5)
    assert [source.box(number) for number in source.origin] == [*BOXES, BOXES[1], BOXES[0]]
    for number, frame in enumerate(source):
        np.testing.assert_array_equal(frame, decode(pack.frame_jpeg([0, 1, 2, 1, 0][number])))


def test_a_larger_frame_keeps_the_size_and_the_pixels_of_the_face(pack: AvatarPack) -> None:
    source = FramesOfPack(pack, (480, 270), 3)
    for number, frame in enumerate(source):
        assert frame.shape == (270, 480, 3)
        x1, y1, x2, y2 = source.box(number)
        a, b, c, d = BOXES[number]
        assert (x2 - x1, y2 - y1) == (c - a, d - b)
        np.testing.assert_array_equal(frame[y1:y2, x1:x2], decode(pack.frame_jpeg(number))[b:d, a:c])
        # The middle of the face stays where it was in the picture.
        assert (x1 + x2) / 480 == pytest.approx((a + c) / 160, abs=0.01)
        assert (y1 + y2) / 270 == pytest.approx((b + d) / 90, abs=0.01)
