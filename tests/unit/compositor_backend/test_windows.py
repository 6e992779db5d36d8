from __future__ import annotations

from math import floor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from compositor_backend import windows
from compositor_backend.contract import check_pcm, pcm_samples
from compositor_backend.errors import TensorError
from compositor_backend.mel import mel_spectrogram

FRAME = 640


def make_noise(samples: int, seed: int = 0) -> NDArray[np.int16]:
    return (np.random.default_rng(seed).standard_normal(samples) * 4000).astype(np.int16)


def cut_request(pcm: NDArray[np.int16], first_frame: int, frames: int) -> NDArray[np.int16]:
    """What a client sends: 10 frames before, the frames, 12 after, zeros past either end."""
    around = np.concatenate([np.zeros(10 * FRAME, np.int16), pcm, np.zeros(60 * FRAME, np.int16)])
    return around[first_frame * FRAME :][: pcm_samples(frames)]


@pytest.mark.parametrize("frames", [1, 5, 25, 32])
def test_request_windows_follow_the_formula(frames: int) -> None:
    pcm = make_noise(pcm_samples(frames))
    result = windows.request_windows(check_pcm(pcm, frames))
    assert result.shape == (frames + 15, 1, 80, 16)
    assert result.dtype == np.float32
    mel = mel_spectrogram(pcm).T
    for row, encoder_frame in enumerate(range(-9, frames + 6)):
        start = floor(32 * (encoder_frame + 10) / 10)
        np.testing.assert_array_equal(result[row, 0], mel[:, start : start + 16])


def test_window_starts_are_floor_of_3_2_times_the_frame() -> None:
    wanted = [3, 6, 9, 12, 16, 19, 22, 25, 28, 32, 35, 38, 41, 44, 48, 51]
    assert windows.window_starts(1).tolist() == wanted


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5, 17, 32])
def test_samples_outside_the_used_range_change_nothing(frames: int) -> None:
    pcm = make_noise(pcm_samples(frames))
    starts = windows.window_starts(frames)
    first_used, last_used = starts[0] * 200 - 401, (starts[-1] + 15) * 200 + 399
    assert first_used > 0
    assert last_used < pcm.size - 1
    changed = pcm.copy()
    changed[:first_used] = 32_767
    changed[last_used + 1 :] = -32_768
    assert windows.request_windows(changed).tobytes() == windows.request_windows(pcm).tobytes()


def test_samples_inside_the_used_range_do_change_something() -> None:
    pcm = make_noise(pcm_samples(5))
    starts = windows.window_starts(5)
    for used in (starts[0] * 200 - 390, (starts[-1] + 15) * 200 + 390):
        changed = pcm.copy()
        changed[used] = 32_767
        assert windows.request_windows(changed).tobytes() != windows.request_windows(pcm).tobytes()


@pytest.mark.parametrize("frames", [5, 10, 15, 25, 30])
def test_chunks_on_the_grid_give_the_bits_of_the_whole_utterance(frames: int) -> None:
    pcm = make_noise(61 * FRAME + 333)
    whole = windows.utterance_windows(pcm)
    for first in range(0, 62, frames):
        part = windows.request_windows(cut_request(pcm, first, frames))
        rows = min(frames + 15, len(whole) - first)
        assert part[:rows].tobytes() == whole[first : first + rows].tobytes()


@settings(max_examples=40, deadline=None)
@given(first=st.integers(0, 11).map(lambda n: 5 * n), frames=st.integers(1, 32), seed=st.integers(0, 3))
def test_any_chunk_on_the_grid_gives_the_bits_of_the_whole(first: int, frames: int, seed: int) -> None:
    pcm = make_noise(90 * FRAME, seed)
    whole = windows.utterance_windows(pcm)
    part = windows.request_windows(cut_request(pcm, first, frames))
    assert part.tobytes() == whole[first : first + frames + 15].tobytes()


@pytest.mark.parametrize(("samples", "frames"), [(1, 1), (640, 1), (641, 2), (6400, 10)])
def test_utterance_buffer_is_one_long_request(samples: int, frames: int) -> None:
    pcm = make_noise(samples)
    buffer = windows.utterance_buffer(pcm)
    assert buffer.dtype == np.int16
    assert buffer.size == pcm_samples(frames)
    np.testing.assert_array_equal(buffer[6400 : 6400 + samples], pcm)
    assert not buffer[:6400].any()
    assert not buffer[6400 + samples :].any()
    assert windows.utterance_windows(pcm).shape == (frames + 15, 1, 80, 16)


def test_a_click_shows_in_the_windows_around_it_and_in_no_others() -> None:
    """Mel frames 64 … 67 see the middle of frame 20, so encoder frames 16 (mel 51 … 66) to 21 (67 …) do."""
    pcm = np.zeros(40 * FRAME, np.int16)
    pcm[20 * FRAME + 320] = 30_000
    loud = windows.utterance_windows(pcm).max(axis=(1, 2, 3)) > -4
    assert (np.flatnonzero(loud) - 9).tolist() == [16, 17, 18, 19, 20, 21]


@pytest.mark.parametrize("frames", [1, 5, 32])
def test_a_network_of_mel_hears_the_16_mel_frames_from_each_frame_on(frames: int) -> None:
    pcm = make_noise(pcm_samples(frames))
    heard = windows.frame_windows(windows.request_windows(pcm), (1, 80, 16))
    mel = mel_spectrogram(pcm).T
    starts = [floor(32 * (frame + 10) / 10) for frame in range(frames)]
    np.testing.assert_array_equal(heard[:, 0], [mel[:, start : start + 16] for start in starts])


def test_windows_refuse_a_network_that_hears_something_else() -> None:
    with pytest.raises(TensorError, match=r"network takes \[32, 16, 16\]"):
        windows.frame_windows(np.zeros((16, 1, 80, 16), np.float32), (32, 16, 16))


def test_network_audio_stacks_each_frames_16_embeddings() -> None:
    embedding = np.random.default_rng(0).standard_normal((25, 512)).astype(np.float32)
    audio = windows.network_audio(embedding, (32, 16, 16))
    assert audio.shape == (10, 32, 16, 16)
    assert audio.dtype == np.float32
    assert audio.flags.c_contiguous
    for frame in range(10):
        np.testing.assert_array_equal(audio[frame], embedding[frame : frame + 16].reshape(32, 16, 16))


def test_network_audio_takes_any_shape_of_that_size() -> None:
    embedding = np.arange(16 * 512, dtype=np.float32).reshape(16, 512)
    assert windows.network_audio(embedding, (16, 512)).shape == (1, 16, 512)


def test_network_audio_refuses_another_modes_shape() -> None:
    with pytest.raises(TensorError, match=r"\[16, 32, 32\].*ready audio features"):
        windows.network_audio(np.zeros((16, 512), np.float32), (16, 32, 32))
