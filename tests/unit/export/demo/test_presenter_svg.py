import numpy as np

from export.demo.presenter_svg import area, over, rasterize, soft_gradient, spot


def test_a_view_shows_its_part_of_the_drawing():
    square = area("M10 20 H14 V26 H10 Z", "#ff8000")
    drawn = rasterize(square, (8, 18, 10, 12))
    assert drawn.shape == (12, 10, 4)
    inside = np.zeros((12, 10), bool)
    inside[2:8, 2:6] = True
    np.testing.assert_array_equal(drawn[..., 3], np.where(inside, 255, 0))
    np.testing.assert_array_equal(drawn[inside], np.tile((255, 128, 0, 255), (24, 1)))


def test_a_spot_fades_from_its_middle_to_nothing():
    drawn = rasterize(
        f"<defs>{soft_gradient('ffffff')}</defs>" + spot(20, 20, 16, 16, "ffffff", 0.5), (0, 0, 40, 40)
    )
    along = drawn[20, 20:38, 3].astype(int)
    assert 120 <= along[0] <= 130
    assert (np.diff(along) <= 0).all()
    assert along[-1] == 0


def test_over_is_rounded_alpha_blending():
    rng = np.random.default_rng(1)
    below = rng.integers(0, 256, (30, 20, 3), dtype=np.uint8)
    drawing = rng.integers(0, 256, (30, 20, 4), dtype=np.uint8)
    alpha = drawing[..., 3:].astype(float) / 255
    expected = np.floor(below * (1 - alpha) + drawing[..., :3] * alpha + 0.5)
    assert np.abs(over(below, drawing) - expected).max() <= 1
    assert (over(below, drawing) == expected).mean() > 0.999
