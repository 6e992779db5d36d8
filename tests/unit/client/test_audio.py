import asyncio
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import signal

from client import AudioError, frame_count, paced, read_audio, to_pcm, to_recording
from tests.unit.client.speaker import noise

RATES_HZ = [8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000, 96000]


def tones(rate_hz: int, seconds: float = 1.0) -> NDArray[np.float64]:
    """Three tones that every rate from 8 kHz on can carry."""
    time_s = np.arange(int(rate_hz * seconds)) / rate_hz
    return sum(0.2 * np.sin(2 * np.pi * hz * time_s + hz) for hz in (200, 440, 3000))


@pytest.mark.parametrize("rate_hz", RATES_HZ)
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_any_rate_and_channel_count_gives_the_same_sound_at_16_khz(
    tmp_path: Path, rate_hz: int, channels: int
) -> None:
    path = tmp_path / "speech.wav"
    soundfile.write(path, np.repeat(tones(rate_hz)[:, None], channels, axis=1), rate_hz, subtype="PCM_24")
    pcm = read_audio(path).pcm()
    assert pcm.dtype == np.int16
    assert abs(len(pcm) - 16000) <= 1
    inner = slice(800, 15200)  # a resampler's edges are its own affair
    np.testing.assert_allclose(pcm[inner] / 32768, tones(16000)[inner], atol=2e-3)


@pytest.mark.parametrize("rate_hz", [24000, 48000])
def test_what_16_khz_cannot_carry_is_removed_not_folded_back(rate_hz: int) -> None:
    time_s = np.arange(rate_hz) / rate_hz
    pcm = to_pcm(0.5 * np.sin(2 * np.pi * 10_000 * time_s), rate_hz)
    assert np.abs(pcm[800:-800]).max() < 33  # 1/1000 of full scale; folded back it would be 16384


def test_resampling_agrees_with_another_resampler() -> None:
    sound = signal.lfilter(*signal.butter(10, 0.1), noise(48000).astype(np.float64)) / 32768
    other = signal.resample_poly(sound, 1, 3, window=("kaiser", 12.0))
    ours = to_pcm(sound, 48000) / 32768
    assert np.sqrt(np.mean((ours[800:-800] - other[800:-800]) ** 2)) < 2e-4


def test_16_khz_mono_int16_passes_bit_for_bit(tmp_path: Path) -> None:
    pcm = noise(16000)
    soundfile.write(tmp_path / "speech.wav", pcm, 16000, subtype="PCM_16")
    np.testing.assert_array_equal(read_audio(tmp_path / "speech.wav").pcm(), pcm)
    np.testing.assert_array_equal(to_pcm(pcm, 16000), pcm)


def test_channels_are_averaged() -> None:
    left, right = np.full(100, 0.5), np.full(100, -0.25)
    assert set(to_pcm(np.stack([left, right], axis=1), 16000).tolist()) == {4096}


def test_too_loud_is_clipped_and_not_wrapped() -> None:
    assert to_pcm(np.array([1.0, 2.0, 1e9, -1.0, -2.0]), 16000).tolist() == [32767] * 3 + [-32768] * 2


@pytest.mark.parametrize("name", ["speech.flac", "speech.ogg", "speech.mp3", "speech.aiff"])
def test_other_formats_are_read(tmp_path: Path, name: str) -> None:
    soundfile.write(tmp_path / name, tones(16000), 16000)
    pcm = read_audio(tmp_path / name).pcm()
    assert abs(frame_count(len(pcm)) - 25) <= 3  # MP3 pads
    assert 0.1 < np.sqrt(np.mean((pcm / 32768) ** 2)) < 0.5


def test_content_counts_and_not_the_names_ending(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", noise(1600), 16000, subtype="PCM_16")
    (tmp_path / "a.wav").rename(tmp_path / "speech.raw")
    assert len(read_audio(tmp_path / "speech.raw").pcm()) == 1600


def test_duration() -> None:
    assert to_recording(np.zeros(4410, np.float32), 44100).duration_s == pytest.approx(0.1)


class TestBadFiles:
    def check(self, path: Path, sentence: str) -> None:
        with pytest.raises(AudioError, match=sentence) as caught:
            read_audio(path)
        assert path.name in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        self.check(tmp_path / "none.wav", "cannot be read: No such file")

    def test_a_folder(self, tmp_path: Path) -> None:
        self.check(tmp_path, "cannot be read: Is a directory")

    def test_an_empty_file(self, tmp_path: Path) -> None:
        (tmp_path / "empty.wav").touch()
        self.check(tmp_path / "empty.wav", "is not a sound file")

    def test_a_wav_without_samples(self, tmp_path: Path) -> None:
        soundfile.write(tmp_path / "silent.wav", np.zeros(0, np.int16), 16000)
        self.check(tmp_path / "silent.wav", "holds 0 samples")

    def test_a_text_file_named_wav(self, tmp_path: Path) -> None:
        (tmp_path / "notes.wav").write_text("to be, or not to be\n" * 100)
        self.check(tmp_path / "notes.wav", "is not a sound file")

    def test_a_wav_cut_off_in_its_header(self, tmp_path: Path) -> None:
        soundfile.write(tmp_path / "cut.wav", noise(1600), 16000)
        (tmp_path / "cut.wav").write_bytes((tmp_path / "cut.wav").read_bytes()[:20])
        self.check(tmp_path / "cut.wav", "is not a sound file")

    def test_a_wav_of_no_channels(self, tmp_path: Path) -> None:
        soundfile.write(tmp_path / "none.wav", noise(1600), 16000)
        content = bytearray((tmp_path / "none.wav").read_bytes())
        content[22:24] = b"\0\0"  # the format chunk's channel count
        (tmp_path / "none.wav").write_bytes(content)
        self.check(tmp_path / "none.wav", "is not a sound file|no channels")

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_samples_that_are_no_numbers(self, tmp_path: Path, value: float) -> None:
        sound = np.zeros(1600, np.float32)
        sound[800] = value
        soundfile.write(tmp_path / "nan.wav", sound, 16000, subtype="FLOAT")
        self.check(tmp_path / "nan.wav", "holds NaN or infinity")


@pytest.mark.parametrize(
    ("samples", "rate_hz", "sentence"),
    [
        (np.zeros((2, 2, 2)), 16000, r"got \[2, 2, 2\]"),
        (np.zeros((9, 0)), 16000, "no channels"),
        (np.zeros(0), 16000, "0 samples"),
        (np.zeros(9, np.int32), 16000, "int16, or float .*, got int32"),
        (np.zeros(9), 0, "sample rate .*, got 0"),
        (np.zeros(9), -8000, "sample rate .*, got -8000"),
    ],
)
def test_bad_arrays_are_refused_in_one_sentence(
    samples: NDArray[np.float64], rate_hz: int, sentence: str
) -> None:
    with pytest.raises(AudioError, match=sentence):
        to_recording(samples, rate_hz)


class Clock:
    """Time that passes only where somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.slept_s: list[float] = []

    def __call__(self) -> float:
        return self.now_s

    async def sleep(self, delay_s: float) -> None:
        self.slept_s.append(delay_s)
        self.now_s += delay_s


@given(st.integers(1, 5000), st.sampled_from([10, 20, 40]))
def test_paced_blocks_come_when_they_would_have_been_spoken(samples: int, block_ms: int) -> None:
    pcm, clock = noise(samples), Clock()

    async def listen() -> list[tuple[float, NDArray[np.int16]]]:
        return [
            (clock.now_s, block)
            async for block in paced(pcm, block_ms=block_ms, clock=clock, sleep=clock.sleep)
        ]

    heard = asyncio.run(listen())
    np.testing.assert_array_equal(np.concatenate([block for _, block in heard]), pcm)
    spoken_s = np.cumsum([len(block) for _, block in heard]) / 16000
    np.testing.assert_allclose([at - 100 for at, _ in heard], spoken_s, atol=1e-9)


async def test_a_listener_that_is_late_does_not_make_later_blocks_late() -> None:
    clock = Clock()
    times_s = []
    async for _ in paced(noise(1600), block_ms=20, clock=clock, sleep=clock.sleep):
        times_s.append(clock.now_s - 100)
        if len(times_s) == 2:
            clock.now_s += 0.03
    assert times_s == pytest.approx([0.02, 0.04, 0.07, 0.08, 0.1])
