from __future__ import annotations

import numpy as np
import pytest

from export.errors import ExportError
from export.face_rules import rule_of
from export.landmarks import N_POINTS

# Points of the mesh by the names that its canonical model gives them.
CHEEKS, BRIDGE, FOREHEAD, CHIN = (234, 454), (6, 197), 10, 152


def face() -> np.ndarray:
    points = np.full((N_POINTS, 2), (300.0, 200.0))
    points[CHEEKS[0]], points[CHEEKS[1]] = (210, 190), (390, 196)
    points[BRIDGE[0]], points[BRIDGE[1]] = (300, 170), (300, 180)
    points[FOREHEAD], points[CHIN] = (300, 90), (302, 320)
    return points


@pytest.mark.parametrize("family", ["328", "160"])
def test_the_square_goes_from_cheek_to_cheek_below_the_bridge_of_the_nose(family: str) -> None:
    assert rule_of(family)(face()).tolist() == [210, 175, 390, 355]


@pytest.mark.parametrize("family", ["wav2lip-96", "wav2lip-384"])
def test_wav2lip_gets_all_of_the_face_and_ten_pixels_below_the_chin(family: str) -> None:
    assert rule_of(family)(face()).tolist() == [210, 90, 390, 330]


def test_an_unknown_family() -> None:
    with pytest.raises(ExportError, match="the family is 'x'; 328, 160, wav2lip-96"):
        rule_of("x")
