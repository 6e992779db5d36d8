from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from compositor_backend.geometry import check_box
from export.box_smoothing import held, is_jump, local_fit, scenes, smooth_boxes

WIDTH, HEIGHT = 1280, 720
Floats = NDArray[np.float64]


def squares(x1: Floats | float, y1: Floats | float, side: Floats | float, count: int) -> Floats:
    x1, y1, side = (np.broadcast_to(np.asarray(value, float), count) for value in (x1, y1, side))
    return np.stack([x1, y1, x1 + side, y1 + side], axis=1)


def smoothed(measured: Floats, square: bool = True) -> NDArray[np.int64]:
    return np.array(smooth_boxes(measured, square, WIDTH, HEIGHT))


@pytest.mark.parametrize("seed", range(8))
def test_a_still_face_with_a_trembling_measurement_stays_within_a_pixel(seed: int) -> None:
    rng = np.random.default_rng(seed)
    place = rng.uniform(300, 301, 2)
    noise = rng.normal(0, 0.8, (3, 400))
    measured = squares(place[0] + noise[0], place[1] + noise[1], 180.4 + noise[2], 400)
    boxes = smoothed(measured)
    assert np.abs(np.diff(measured, axis=0)).max() > 2
    assert np.abs(np.diff(boxes, axis=0)).max() <= 1
    # Held, and not flickering between two neighbours.
    assert (np.diff(boxes, axis=0) != 0).any(axis=1).mean() < 0.1
    assert np.abs(boxes - [*place, *(place + 180.4)]).max() <= 2


def test_a_nodding_and_walking_face_is_followed_without_lag() -> None:
    seconds = np.arange(200) / 25
    x1, y1 = 200 + 60 * seconds, 300 + 20 * np.sin(2 * np.pi * seconds)
    rng = np.random.default_rng(1)
    measured = squares(x1 + rng.normal(0, 0.4, 200), y1 + rng.normal(0, 0.4, 200), 180, 200)
    boxes = smoothed(measured)
    errors = boxes[:, :2] - np.stack([x1, y1], axis=1)
    assert np.abs(errors[10:-10]).max() <= 2
    assert np.abs(errors).max() <= 4
    # A lag would show as an error in the direction of motion: there is none, up or down.
    velocity = np.gradient(y1)
    assert abs(float((errors[:, 1] * velocity).sum() / (velocity**2).sum())) < 0.1


def test_nothing_is_smoothed_across_a_cut() -> None:
    measured = np.concatenate([squares(200.0, 300.0, 180.0, 30), squares(320.0, 250.0, 150.0, 30)])
    boxes = smoothed(measured)
    assert set(map(tuple, boxes[:30].tolist())) == {(200, 300, 380, 480)}
    assert set(map(tuple, boxes[30:].tolist())) == {(320, 250, 470, 400)}
    assert [len(scene) for scene in scenes(measured)] == [30, 30]


def test_one_wrong_frame_is_passed_over() -> None:
    measured = squares(200.0, 300.0, 180.0, 40)
    measured[17] += (90, -40, 150, 20)
    assert set(map(tuple, smoothed(measured).tolist())) == {(200, 300, 380, 480)}


@pytest.mark.parametrize(
    ("after", "jump"),
    [((240, 300, 420, 480), False), ((250, 300, 430, 480), True), ((200, 300, 435, 535), True)],
    ids=["fast", "moved", "grown"],
)
def test_what_is_a_jump(after: tuple[int, ...], jump: bool) -> None:
    before = np.array([200.0, 300.0, 380.0, 480.0])
    assert is_jump(before, np.array(after, float)) == jump


def test_a_fit_is_the_weighted_parabola_around_each_frame() -> None:
    values = np.random.default_rng(2).normal(size=(60, 2))
    fitted = local_fit(values, 3.0)
    for frame in (12, 30, 47):
        distance = np.arange(-9, 10)
        weight = np.sqrt(np.exp(-0.5 * (distance / 3.0) ** 2))  # polyfit squares it
        for column in range(2):
            line = np.polyfit(distance, values[frame - 9 : frame + 10, column], 2, w=weight)
            assert fitted[frame, column] == pytest.approx(line[-1])


def test_a_fit_looks_as_far_ahead_as_back() -> None:
    values = np.random.default_rng(3).normal(size=(50, 1))
    np.testing.assert_allclose(local_fit(values[::-1], 3.0), local_fit(values, 3.0)[::-1], atol=1e-9)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_videos_of_few_frames(count: int) -> None:
    boxes = smoothed(squares(200.2 + np.arange(count), 300.0, 180.0, count))
    assert boxes.shape == (count, 4)
    assert np.abs(boxes[:, 0] - (200.2 + np.arange(count))).max() <= 1.5


def test_whole_numbers_are_held_until_the_value_has_left_them() -> None:
    assert held(np.array([10.4, 10.9, 9.1, 10.7, 11.2, 10.3, 9.9])).tolist() == [10, 10, 10, 10, 11, 11, 10]


def test_rectangles_keep_their_two_sides() -> None:
    measured = np.tile([100.0, 50.0, 300.0, 330.0], (20, 1))
    assert set(map(tuple, smoothed(measured, square=False).tolist())) == {(100, 50, 300, 330)}


@pytest.mark.parametrize(
    ("measured", "wanted"),
    [
        ((-30, 600, 170, 800), (0, 520, 200, 720)),
        ((1200, -10, 1400, 190), (1080, 0, 1280, 200)),
        ((200, -40, 1000, 760), (240, 0, 960, 720)),
    ],
    ids=["lower-left", "upper-right", "larger-than-the-frame"],
)
def test_a_box_is_shifted_into_the_frame_and_shrunk_only_where_it_must_be(
    measured: tuple[int, ...], wanted: tuple[int, ...]
) -> None:
    boxes = smoothed(np.tile(np.array(measured, float), (5, 1)))
    assert set(map(tuple, boxes.tolist())) == {wanted}


@given(
    st.lists(
        st.tuples(st.floats(-500, 1500), st.floats(-500, 1500), st.floats(48, 2000), st.floats(48, 2000)),
        min_size=1,
        max_size=12,
    ),
    st.booleans(),
)
def test_whatever_was_measured_boxes_fit_the_frame(
    rows: list[tuple[float, float, float, float]], square: bool
) -> None:
    measured = np.array([(x, y, x + w, y + (w if square else h)) for x, y, w, h in rows])
    boxes = smooth_boxes(measured, square, WIDTH, HEIGHT)
    assert len(boxes) == len(rows)
    for box in boxes:
        check_box(box, WIDTH, HEIGHT)
        assert not square or box[2] - box[0] == box[3] - box[1]
