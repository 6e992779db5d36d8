import numpy as np
import pytest

from export.demo import pictures
from export.demo.corpus import CorpusSettings, build_corpus
from export.demo.mouth import REST
from export.demo.pictures import (
    Pictures,
    PictureSettings,
    assign_mouths,
    draw,
    drawn,
    inner_crop,
    pasted,
    plan_pictures,
    prepare,
    shape,
)
from export.demo.presenter import render_box

SETTINGS = PictureSettings(training=6, validation=4, seed=1)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return build_corpus(
        tmp_path_factory.mktemp("corpus"),
        CorpusSettings(natural=0, recorded=0, robotic=4, noise_only=0, validation=2),
    )


@pytest.fixture
def few_templates(monkeypatch):
    monkeypatch.setattr(pictures, "N_FRAMES", 2)


def test_the_plan_holds_validation_runs_first_and_repeats_from_its_seed(corpus):
    plan = plan_pictures(corpus, PictureSettings(training=300, validation=24, seed=2))
    assert plan.shape == (324, 2)
    validation, training = set(corpus.rows("validation")), set(corpus.rows("train"))
    assert set(plan[:24, 1]) <= validation
    assert set(plan[24:, 1]) <= training
    assert (np.diff(plan[:12, 1]) == 1).all()
    np.testing.assert_array_equal(plan, plan_pictures(corpus, PictureSettings(300, 24, 2)))
    assert not np.array_equal(plan, plan_pictures(corpus, PictureSettings(300, 24, 3)))


def test_moving_mouths_are_picked_more_often_than_still_ones(corpus):
    plan = plan_pictures(corpus, PictureSettings(training=4000, validation=0, seed=0))
    silent = [e.first_row + n for e in corpus.split("train") for n in e.silent]
    frames = sum(e.frames for e in corpus.split("train"))
    assert np.isin(plan[:, 1], silent).mean() < 0.7 * len(silent) / frames


@pytest.fixture
def mouths():
    return np.random.default_rng(1).random((SETTINGS.total, 5), np.float32)


def test_pictures_show_the_assigned_mouth_in_the_planned_template(corpus, tmp_path, few_templates, mouths):
    prepare(tmp_path, corpus, SETTINGS)
    assign_mouths(tmp_path, mouths)
    assert drawn(tmp_path) == 0
    draw(tmp_path)
    assert drawn(tmp_path) == SETTINGS.total
    crops, truths, rows = Pictures(tmp_path, SETTINGS).get(np.arange(SETTINGS.total))
    plan = plan_pictures(corpus, SETTINGS)
    np.testing.assert_array_equal(rows, plan[:, 1])
    for n in (0, 9):
        template = int(plan[n, 0])
        np.testing.assert_array_equal(truths[n], inner_crop(render_box(template, shape(mouths[n]))))
        np.testing.assert_array_equal(crops[n], inner_crop(render_box(template, REST)))


def test_what_is_drawn_is_kept_until_the_plan_or_the_mouths_change(corpus, tmp_path, few_templates, mouths):
    def prepare_and_assign(seed, assigned):
        prepare(tmp_path, corpus, PictureSettings(training=6, validation=4, seed=seed))
        assign_mouths(tmp_path, assigned)

    prepare_and_assign(1, mouths)
    draw(tmp_path)
    prepare_and_assign(1, mouths)
    assert drawn(tmp_path) == SETTINGS.total
    prepare_and_assign(1, mouths[::-1])
    assert drawn(tmp_path) == 0
    draw(tmp_path)
    prepare_and_assign(2, mouths[::-1])
    assert drawn(tmp_path) == 0


def test_pasting_what_was_cut_out_gives_the_box_back():
    box = render_box(0, REST)
    shown = pasted(box, inner_crop(box))
    assert shown.shape == box.shape
    assert np.abs(shown.astype(int) - box).mean() < 1  # there and back through two bicubic resizes


def test_what_is_pasted_into_is_left_alone():
    box = render_box(0, REST)
    before = box.copy()
    assert (pasted(box, np.zeros((320, 320, 3), np.uint8)) == 0)[10:-10, 10:-10].all()
    np.testing.assert_array_equal(box, before)
