from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from compositor_backend.blend import BLENDS, FEATHER_SHARE, feather, hard, place_in_crop, resize
from compositor_backend.geometry import FAMILIES
from tests.support.scenes import textured


def bicubic_weights(source: int, target: int) -> NDArray[np.float64]:
    """[target, source]: Keys' cubic with a = -0.5, stretched where it shrinks, cut off at the ends and normed."""
    scale = source / target
    stretch = max(scale, 1.0)
    centres = (np.arange(target) + 0.5) * scale
    distance = np.abs((np.arange(source) + 0.5 - centres[:, None]) / stretch)
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    weights: NDArray[np.float64] = np.where(distance < 1, near, np.where(distance < 2, far, 0.0))
    weights /= weights.sum(axis=1, keepdims=True)
    return weights


@pytest.mark.parametrize(
    ("width", "height"), [(180, 180), (97, 203), (328, 328), (400, 350), (16, 700), (1, 1)]
)
def test_resize_is_bicubic_with_antialiasing(width: int, height: int) -> None:
    image = textured(328, 328, 1)
    rows = np.clip(
        np.rint(np.einsum("xs,hsc->hxc", bicubic_weights(328, width), image.astype(float))), 0, 255
    )
    expected = np.einsum("ys,swc->ywc", bicubic_weights(328, height), rows)
    found = resize(image, width, height)
    assert found.shape == (height, width, 3)
    np.testing.assert_allclose(found, np.clip(expected, 0, 255), atol=1.6)


def test_resize_takes_any_view() -> None:
    image = textured(300, 200, 1)
    view = image[20:101, 33:140]
    picture = Image.fromarray(view.copy()).resize((50, 60), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(resize(view, 50, 60), np.asarray(picture))


@pytest.mark.parametrize("name", ["328", "160"])
def test_the_crop_keeps_its_border(name: str) -> None:
    family = FAMILIES[name]
    crop = textured(family.crop_px, family.crop_px, 1)
    mouth = textured(family.network_px, family.network_px, 2)
    before = crop.copy()
    out = np.empty_like(crop)
    place_in_crop(crop, mouth, family, out)
    np.testing.assert_array_equal(
        out, np.pad(mouth, ((4, 4), (4, 4), (0, 0))) + np.where(border(out), crop, 0)
    )
    np.testing.assert_array_equal(crop, before)


def border(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    mask = np.ones(image.shape, bool)
    mask[4:-4, 4:-4] = False
    return mask


def test_hard_overwrites() -> None:
    under, face = textured(30, 20, 1), textured(30, 20, 2)
    hard(under, face)
    np.testing.assert_array_equal(under, face)


def smoothstep_alpha(side: int) -> NDArray[np.float64]:
    edge = max(1, round(side * FEATHER_SHARE))
    distance = np.minimum(np.arange(side), side - 1 - np.arange(side)) + 0.5
    part = np.minimum(distance / edge, 1.0)
    return 3 * part**2 - 2 * part**3


@pytest.mark.parametrize(("width", "height"), [(180, 180), (181, 97), (20, 300), (7, 7), (2, 3)])
def test_feather_mixes_by_a_smoothstep(width: int, height: int) -> None:
    under, face = textured(width, height, 1), textured(width, height, 2)
    alpha = np.outer(smoothstep_alpha(height), smoothstep_alpha(width))[..., None]
    expected = under + alpha * (face.astype(float) - under)
    feather(under, face)
    np.testing.assert_allclose(under, expected, atol=1.6)


def test_feather_rounds_to_the_nearest() -> None:
    under, face = textured(180, 180, 1), textured(180, 180, 2)
    alpha = np.outer(smoothstep_alpha(180), smoothstep_alpha(180))[..., None]
    expected = under + alpha * (face.astype(float) - under)
    feather(under, face)
    assert abs((under - expected).mean()) < 0.02


@pytest.mark.parametrize("ends", [(0, 255), (255, 0)])
def test_feather_holds_the_largest_contrast(ends: tuple[int, int]) -> None:
    under, over = (np.full((100, 100, 3), end, np.uint8) for end in ends)
    feather(under, over)
    assert (under[15:85, 15:85] == ends[1]).all()
    rows = under[50, :15, 0].astype(int) - ends[0]
    assert (np.diff(np.abs(rows)) >= 0).all()
    assert abs(rows[0]) <= 3
    assert np.abs(np.diff(under[50, :, 0].astype(int))).max() <= 1.6 * 255 / 10


@pytest.mark.parametrize("name", sorted(BLENDS))
@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 5), (3, 1), (2, 2), (400, 300)])
def test_a_face_like_what_is_under_it_changes_nothing(name: str, width: int, height: int) -> None:
    under = textured(width, height, 1)
    before = under.copy()
    BLENDS[name](under, before.copy())
    np.testing.assert_array_equal(under, before)


@pytest.mark.parametrize("name", sorted(BLENDS))
def test_a_blend_writes_into_a_part_of_a_larger_image(name: str) -> None:
    image = textured(100, 80, 1)
    before, face = image.copy(), textured(40, 30, 2)
    BLENDS[name](image[10:40, 20:60], face)
    np.testing.assert_array_equal(image[20:30, 30:50], face[10:20, 10:30])
    image[10:40, 20:60] = before[10:40, 20:60]
    np.testing.assert_array_equal(image, before)
