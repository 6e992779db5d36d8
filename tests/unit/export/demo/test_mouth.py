import numpy as np
import pytest

from export.demo.mouth import MOUTH_CHANNELS, REST, MouthShape, clip_shape, lip_opening, lip_openings


def test_channels_are_the_fields_in_order():
    assert MouthShape._fields == MOUTH_CHANNELS


@pytest.mark.parametrize("wide", [0.0, 0.4, 1.0])
def test_pressed_lips_are_shut_however_far_the_jaw_is(wide):
    assert lip_opening(MouthShape(wide, 0.0, 0.0, 0.0, 1.0)) == 0.0
    assert lip_opening(MouthShape(wide, 0.0, 0.0, 0.0, 0.0)) == wide


def test_a_tucked_lip_leaves_a_smaller_gap():
    assert 0.0 < lip_opening(MouthShape(0.5, 0.0, 1.0, 0.0, 0.0)) < 0.25


def test_rest_is_closed():
    assert lip_opening(REST) == 0.0


def test_out_of_range_channels_are_brought_back():
    assert clip_shape(MouthShape(1.2, -1.5, -0.1, 2.0, 0.5)) == MouthShape(1.0, -1.0, 0.0, 1.0, 0.5)


def test_many_shapes_agree_with_one_by_one():
    shapes = np.random.default_rng(3).uniform(-1.3, 1.3, (200, 5)).astype(np.float32)
    expected = [lip_opening(MouthShape(*map(float, row))) for row in shapes]
    np.testing.assert_allclose(lip_openings(shapes), expected, atol=1e-6)


def test_a_wrong_array_is_refused_with_its_shape():
    with pytest.raises(ValueError, match=r"\(4, 3\)"):
        lip_openings(np.zeros((4, 3), np.float32))
