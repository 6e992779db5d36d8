import dataclasses

import numpy as np

from export.demo.presenter_motion import BLINK_FRAMES, N_FRAMES, pose_at


def track():
    return np.array([dataclasses.astuple(pose_at(index)) for index in range(N_FRAMES)])


def lids():
    return np.array([pose_at(index).lid for index in range(N_FRAMES)])


def test_everything_stands_still_where_the_clip_turns_round():
    speeds = np.abs(np.diff(track(), axis=0))
    fastest = speeds.max(axis=0)
    assert (fastest > 0).all()
    assert (speeds[0] <= 0.12 * fastest).all()
    assert (speeds[-1] <= 0.12 * fastest).all()


def test_blinks_shut_the_eye_and_are_as_short_as_peoples():
    shut = lids()
    assert (shut[list(BLINK_FRAMES)] == 1.0).all()
    edges = np.diff(np.concatenate([[0], (shut > 0).astype(int), [0]]))
    durations = np.nonzero(edges == -1)[0] - np.nonzero(edges == 1)[0]
    assert len(durations) == len(BLINK_FRAMES)
    assert (durations * 40 >= 120).all()
    assert (durations * 40 <= 400).all()


def test_no_blink_is_cut_by_an_end():
    assert not lids()[:10].any()
    assert not lids()[-10:].any()
