import io
import itertools

import numpy as np
import pytest
from PIL import Image, ImageFilter

from export.demo import presenter
from export.demo.mouth import REST, MouthShape

FRAMES = (0, 77, 200)
SHAPES = [
    MouthShape(*channels, press)
    for channels in itertools.product((0.0, 0.2, 0.5, 0.8, 1.0), (-0.8, 0.0, 0.8), (0.0, 0.8), (0.0, 0.9))
    for press in (0.0, 0.5)
]
CLOSED = [
    REST,
    MouthShape(0.6, 0.0, 0.0, 0.0, 1.0),
    MouthShape(0.0, 0.8, 0.0, 0.0, 0.0),
    MouthShape(0.0, -0.8, 0.0, 0.0, 0.4),
]
FULL_PX = presenter.opening_px(0, MouthShape(1.0, 0.0, 0.0, 0.0, 0.0))


def through_the_network_size_and_jpeg(box):
    """What a soft 328 network and a JPEG encoder leave of the box."""
    side = box.shape[0]
    large = (
        Image.fromarray(box)
        .resize((328, 328), Image.Resampling.BICUBIC)
        .filter(ImageFilter.GaussianBlur(1.0))
    )
    stream = io.BytesIO()
    large.resize((side, side), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=75)
    with Image.open(stream) as decoded:
        return np.asarray(decoded.convert("RGB"))


@pytest.mark.parametrize("index", FRAMES)
@pytest.mark.parametrize("shape", [REST, MouthShape(0.7, 0.4, 0.1, 0.5, 0.1)])
def test_the_box_is_exactly_the_frames_crop(index, shape):
    frame = presenter.render_frame(index, shape)
    assert frame.shape == (720, 1280, 3)
    assert frame.dtype == np.uint8
    x1, y1, x2, y2 = presenter.face_box(index)
    np.testing.assert_array_equal(presenter.render_box(index, shape), frame[y1:y2, x1:x2])


@pytest.mark.parametrize("index", FRAMES)
def test_only_the_networks_masked_area_changes_with_the_mouth(index):
    rest = presenter.render_box(index).astype(int)
    side = rest.shape[0]
    changed = np.zeros((side, side), bool)
    for width in (-1.0, 0.0, 1.0):
        for opening in (0.15, 0.5, 1.0):
            changed |= (presenter.render_box(index, MouthShape(opening, width, 0, 0, 0)) != rest).any(axis=2)
    rows, columns = (np.nonzero(changed.any(axis=axis))[0] * 328 / side for axis in (1, 0))
    assert rows.min() >= 9
    assert rows.max() + 328 / side <= 313
    assert columns.min() >= 9
    assert columns.max() + 328 / side <= 318


def test_boxes_are_square_inside_the_frame_and_move_smoothly():
    boxes = np.array([presenter.face_box(index) for index in range(presenter.N_FRAMES)])
    sides = boxes[:, 2:] - boxes[:, :2]
    assert ((sides >= 176) & (sides <= 192)).all()
    np.testing.assert_array_equal(sides[:, 0], sides[:, 1])
    assert (boxes >= 0).all()
    assert (boxes[:, 2] <= 1280).all()
    assert (boxes[:, 3] <= 720).all()
    assert np.abs(np.diff(boxes, axis=0)).max() <= 1
    assert np.ptp(boxes[:, 0]) >= 4


def test_neighbouring_frames_differ_little_and_the_ends_stand_still():
    first, second = (presenter.render_frame(index).astype(int) for index in (0, 1))
    assert np.abs(first - second).mean() < 0.1
    last, before = (presenter.render_frame(index).astype(int) for index in (250, 249))
    assert np.abs(last - before).mean() < 0.1


@pytest.mark.parametrize(
    "passed_on", [lambda box: box, through_the_network_size_and_jpeg], ids=["drawn", "degraded"]
)
def test_the_opening_is_measured_from_pixels(passed_on):
    pairs = np.array(
        [
            (
                presenter.opening_px(index, shape),
                presenter.measure_opening(passed_on(presenter.render_box(index, shape)), index),
            )
            for index in FRAMES
            for shape in SHAPES[::3]
        ]
    )
    assert np.corrcoef(pairs.T)[0, 1] > 0.98
    assert np.abs(pairs[:, 0] - pairs[:, 1]).mean() < 0.08 * FULL_PX
    closed = [
        presenter.measure_opening(passed_on(presenter.render_box(index, shape)), index)
        for index in FRAMES
        for shape in CLOSED
    ]
    assert max(closed) < 0.04 * FULL_PX


def test_a_wider_mouth_is_a_wider_gap():
    assert 26.0 <= FULL_PX <= 34.0
    gaps = [presenter.opening_px(5, MouthShape(opening, 0, 0, 0, 0)) for opening in (0.0, 0.3, 0.6, 1.0)]
    assert gaps == sorted(gaps)
    assert gaps[0] == 0.0


def test_the_drawing_does_not_depend_on_what_was_drawn_before():
    shape = MouthShape(0.4, -0.3, 0.0, 0.2, 0.0)
    before = presenter.render_box(12, shape)
    presenter.render_box(90, MouthShape(1.0, 1.0, 0, 0, 0))
    np.testing.assert_array_equal(presenter.render_box(12, shape), before)


@pytest.mark.parametrize("index", [-1, 251])
def test_frames_outside_the_clip_are_refused(index):
    with pytest.raises(ValueError, match=f"frame {index} .* 0 to 250"):
        presenter.render_box(index)


def test_a_box_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"\(10, 10, 3\)"):
        presenter.measure_opening(np.zeros((10, 10, 3), np.uint8), 0)
