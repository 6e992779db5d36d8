import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from client import AudioError, frame_count
from client._speech import Chunk, SpeechBuffer, check_pcm
from tests.unit.client.speaker import FRAME, noise

LIMITS = st.sampled_from([5, 10, 15, 20, 25, 30])
PUSHES = st.lists(st.integers(0, 20 * FRAME), max_size=12)


def padded_slice(pcm: NDArray[np.int16], start: int, frames: int) -> NDArray[np.int16]:
    """The contract's slice, from an utterance padded with far more zeros than any slice can need."""
    zeros = np.zeros(100 * FRAME, np.int16)
    padded = np.concatenate([zeros, pcm, zeros])
    return padded[(100 + start - 10) * FRAME : (100 + start + frames + 12) * FRAME]


@given(PUSHES, LIMITS, st.booleans(), st.data())
def test_any_pushes_and_limits_give_the_slices_of_the_whole_utterance(
    pushes: list[int], limit: int, echo: bool, data: st.DataObject
) -> None:
    pcm = noise(sum(pushes))
    buffer, at = SpeechBuffer(echo), 0
    chunks: list[Chunk] = []
    for size in pushes:
        buffer.append(pcm[at : at + size])
        at += size
        if data.draw(st.booleans()):
            while chunk := buffer.take(limit):
                assert chunk.frames % 5 == 0
                assert (chunk.start + chunk.frames + 12) * FRAME <= at, "asked before its look-ahead came"
                chunks.append(chunk)
    buffer.end()
    while chunk := buffer.take(limit):
        chunks.append(chunk)
    assert buffer.finished
    assert sum(chunk.frames - chunk.idle for chunk in chunks) == frame_count(len(pcm))
    # Nobody can hear the utterance later than that.
    assert sum(chunk.idle for chunk in chunks) == (10 if echo and len(pcm) else 0)
    expected_start = 0
    for chunk in chunks:
        assert chunk.start == expected_start
        assert chunk.start % 5 == 0
        assert 1 <= chunk.frames <= limit
        np.testing.assert_array_equal(chunk.pcm, padded_slice(pcm, chunk.start, chunk.frames))
        expected_start += chunk.frames


@given(st.integers(0, 100_000))
def test_a_frame_for_every_40_ms_begun(samples: int) -> None:
    assert frame_count(samples) == len(range(0, samples, 640))


@pytest.mark.parametrize(
    ("frames_pushed", "frames_ready"), [(16, None), (17, 5), (21, 5), (22, 10), (42, 30), (60, 30)]
)
def test_a_chunk_is_ready_with_the_480_ms_after_it_and_no_sample_later(
    frames_pushed: int, frames_ready: int | None
) -> None:
    buffer = SpeechBuffer()
    buffer.append(noise(frames_pushed * FRAME))
    chunk = buffer.take(30)
    assert (chunk and chunk.frames) == frames_ready


def test_one_sample_short_of_the_look_ahead_is_too_few() -> None:
    buffer = SpeechBuffer()
    buffer.append(noise(17 * FRAME - 1))
    assert buffer.take(5) is None
    buffer.append(noise(1))
    assert buffer.take(5) is not None


def test_an_empty_utterance_is_finished_with_its_end() -> None:
    buffer = SpeechBuffer()
    assert not buffer.finished
    buffer.end()
    assert buffer.finished
    assert buffer.take(5) is None


def test_queued_samples_count_what_no_frame_has_been_made_of() -> None:
    buffer = SpeechBuffer()
    buffer.append(noise(30 * FRAME))
    assert buffer.queued_samples == 30 * FRAME
    buffer.take(10)
    assert buffer.queued_samples == 20 * FRAME


@pytest.mark.parametrize(
    ("pcm", "sentence"),
    [
        (np.zeros(640, np.float32), "expected PCM int16, got float32"),
        (np.zeros(640, np.int32), "expected PCM int16, got int32"),
        (np.zeros((640, 2), np.int16), r"expected PCM \[samples\], one channel, got \[640, 2\]"),
        (b"\0" * 1280, "expected PCM as a numpy array of int16, got bytes"),
    ],
)
def test_other_than_mono_int16_is_refused_in_one_sentence(pcm: NDArray[np.int16], sentence: str) -> None:
    with pytest.raises(AudioError, match=sentence):
        check_pcm(pcm)


def test_big_endian_samples_are_refused_not_misread() -> None:
    with pytest.raises(AudioError, match=">i2"):
        check_pcm(np.zeros(640, ">i2"))
