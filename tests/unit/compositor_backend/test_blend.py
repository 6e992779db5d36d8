from __future__ import annotations

import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional

from compositor_backend import blend
from compositor_backend.blend import (
    BLENDS,
    FEATHER_SHARE,
    crop_face,
    feather,
    hard,
    paste,
    paste_area,
    resize,
)
from compositor_backend.geometry import FAMILIES
from compositor_backend.native import load_kernel
from tests.support.rendering import sampled
from tests.support.scenes import Pixels, mouths, textured


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


# --- paste ---
@pytest.fixture(params=["compiled", "Pillow"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each of the two ways of pasting."""
    kernel = load_kernel() if request.param == "compiled" else None
    if request.param == "compiled" and kernel is None:
        pytest.skip("the kernel was not built: there is no C compiler here")
    monkeypatch.setattr(blend, "_KERNEL", kernel)
    return str(request.param)


def span_weights(side: int, crop_px: int, network_px: int) -> tuple[slice, NDArray[np.float64]]:
    """Pixels of the box that lie in the mouth, and how each is made of the mouth's: from the definition, in floats."""
    edges = np.arange(side + 1) * crop_px / side - 4
    inside = [t for t in range(side) if edges[t] >= -1e-9 and edges[t + 1] <= network_px + 1e-9]
    chosen = slice(inside[0], inside[-1] + 1)
    scale = crop_px / side
    centres = (np.arange(side)[chosen] + 0.5) * scale - 4
    distance = np.abs((np.arange(network_px) + 0.5 - centres[:, None]) / max(scale, 1.0))
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    weights: NDArray[np.float64] = np.where(distance < 1, near, np.where(distance < 2, far, 0.0))
    weights /= weights.sum(axis=1, keepdims=True)
    return chosen, weights


def pasted(under: Pixels, mouth: Pixels, name: str, feathered: bool) -> NDArray[np.float64]:
    family = FAMILIES[name]
    rows, down = span_weights(under.shape[0], family.crop_px, family.network_px)
    columns, across = span_weights(under.shape[1], family.crop_px, family.network_px)
    lines = np.clip(np.rint(np.einsum("ys,swc->ywc", down, mouth.astype(float))), 0, 255)
    face = np.clip(np.einsum("xs,hsc->hxc", across, lines), 0, 255)
    alpha = np.ones(face.shape[:2])[..., None]
    if feathered:
        alpha = np.outer(smoothstep_alpha(len(down)), smoothstep_alpha(len(across)))[..., None]
    result = under.astype(float)
    result[rows, columns] += alpha * (face - result[rows, columns])
    return result


@pytest.mark.parametrize("name", ["328", "160"])
@pytest.mark.parametrize(
    ("width", "height"), [(190, 190), (97, 203), (328, 328), (640, 500), (9, 700), (5, 6)]
)
@pytest.mark.parametrize("style", sorted(BLENDS))
def test_a_mouth_is_the_inner_square_of_the_face_box(
    engine: str, name: str, width: int, height: int, style: str
) -> None:
    family = FAMILIES[name]
    under, mouth = textured(width, height, 1), mouths(1, family.network_px)[0]
    expected = pasted(under, mouth, name, style == "feather")
    paste(under, mouth, family, style)
    np.testing.assert_allclose(under, expected, atol=3.1)
    assert abs((under - expected).mean()) < 0.1


@pytest.mark.parametrize("side_px", [96, 256])
@pytest.mark.parametrize(("width", "height"), [(181, 240), (97, 61), (256, 256), (401, 333)])
def test_wav2lips_mouth_fills_the_box_linearly(engine: str, side_px: int, width: int, height: int) -> None:
    under, mouth = textured(width, height, 1), mouths(1, side_px)[0]
    planes = torch.from_numpy(mouth.transpose(2, 0, 1).astype(np.float32))[None]
    drawn = functional.interpolate(planes, (height, width), mode="bilinear", antialias=True)
    paste(under, mouth, FAMILIES[f"wav2lip-{side_px}"], "hard")
    np.testing.assert_allclose(under, drawn[0].numpy().transpose(1, 2, 0), atol=2)


@pytest.mark.parametrize(("width", "height"), [(190, 181), (50, 77), (96, 96), (400, 333), (1, 2)])
def test_wav2lips_crop_is_that_of_opencv(width: int, height: int) -> None:
    face = textured(width, height, 1)
    expected = cv2.resize(face, (96, 96), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(crop_face(face, FAMILIES["wav2lip-96"]), expected, atol=1)
    np.testing.assert_array_equal(crop_face(face, FAMILIES["wav2lip-96"]), sampled(face, 96, 96))


@pytest.mark.parametrize(("width", "height"), [(1, 1), (2, 1), (1, 2), (2, 500)])
def test_a_box_too_small_for_a_border_is_filled(engine: str, width: int, height: int) -> None:
    under = np.zeros((height, width, 3), np.uint8)
    paste(under, np.full((320, 320, 3), 200, np.uint8), FAMILIES["328"], "hard")
    assert (under[height // 2] == 200).all()


@pytest.mark.parametrize("style", sorted(BLENDS))
@pytest.mark.parametrize("level", [0, 1, 77, 254, 255])
def test_a_flat_colour_stays_what_it_is(engine: str, style: str, level: int) -> None:
    under = np.full((171, 233, 3), level, np.uint8)
    paste(under, np.full((320, 320, 3), level, np.uint8), FAMILIES["328"], style)
    assert (under == level).all()


@pytest.mark.parametrize("style", sorted(BLENDS))
def test_nothing_beside_the_box_is_touched(engine: str, style: str) -> None:
    image = textured(300, 250, 1)
    before = image.copy()
    paste(image[20:210, 33:224], mouths(1, 320)[0], FAMILIES["328"], style)
    area = paste_area(191, 190, FAMILIES["328"])
    assert (area.rows, area.columns) == (slice(3, 187), slice(3, 188))
    assert (image[33:197, 46:211] != before[33:197, 46:211]).any(axis=(1, 2)).all()
    image[23:207, 36:221] = before[23:207, 36:221]
    np.testing.assert_array_equal(image, before)


def test_the_two_ways_differ_by_two_steps_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = load_kernel()
    if kernel is None:
        pytest.skip("the kernel was not built: there is no C compiler here")
    for side in (50, 190, 327, 500):
        results = []
        for engine in (kernel, None):
            monkeypatch.setattr(blend, "_KERNEL", engine)
            under = textured(side, side, 1)
            paste(under, mouths(1, 320)[0], FAMILIES["328"], "feather")
            results.append(under.astype(int))
        assert np.abs(results[0] - results[1]).max() <= 2


# --- blends ---
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


@pytest.mark.skipif(load_kernel() is None, reason="no compiler has built the kernel")
def test_a_compositor_with_the_kernel_does_without_pillow() -> None:
    code = "import sys, compositor_backend.compositor; sys.exit('PIL' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
