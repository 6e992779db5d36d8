from __future__ import annotations

from pathlib import Path

import numpy as np

from perf.baselines.material import Material
from perf.subjects import decode
from tests.unit.perf.baselines.scene import BOXES, FRAMES, pack_and_material


def test_pictures_are_those_given_or_the_packs_own_decoded(tmp_path: Path) -> None:
    pack, given = pack_and_material(tmp_path)
    np.testing.assert_array_equal(given.frames, FRAMES)
    decoded = Material.of_pack(pack)
    for number, (picture, region) in enumerate(zip(decoded.frames, pack.regions, strict=True)):
        x1, y1, x2, y2 = region.box
        inside = np.zeros(picture.shape[:2], bool)
        inside[y1:y2, x1:x2] = True
        np.testing.assert_array_equal(picture[inside], FRAMES[number][inside])
        np.testing.assert_array_equal(picture[~inside], decode(pack.frame_jpeg(number))[~inside])


def test_a_part_of_an_avatar_is_its_first_frames(tmp_path: Path) -> None:
    pack, whole = pack_and_material(tmp_path)
    part = Material.of_pack(pack, count=2)
    np.testing.assert_array_equal(part.faces, whole.faces[:2])
    assert part.rects.tolist() == [list(box) for box in BOXES[:2]]
    assert part.nbytes == 2 * (240 * 320 * 3 + 320 * 320 * 3)


def test_it_lives_on_when_the_pack_is_closed(tmp_path: Path) -> None:
    pack, material = pack_and_material(tmp_path)
    faces = pack.faces.copy()
    pack.close()
    np.testing.assert_array_equal(material.faces, faces)
