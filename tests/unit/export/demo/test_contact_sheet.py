from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from export.demo import contact_sheet, presenter
from export.demo.contact_sheet import COLUMNS, MAX_BYTES, ROWS, close_ups, draw_sheet, read_utterance
from export.demo.mouth import MouthShape
from export.errors import ExportError

COUNT = COLUMNS * ROWS
OPEN = (0.0, 0.6, 0.0, 0.3, 0.9, 0.1)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with frames of the presenter, as the client writes them, and a tone for each of them."""
    folder = tmp_path_factory.mktemp("demo")
    (folder / "frames").mkdir()
    for number in range(COUNT):
        pixels = presenter.render_frame(number, MouthShape(OPEN[number % 6], 0.0, 0.0, 0.0, 0.0))
        Image.fromarray(pixels).save(folder / "frames" / f"{number:06d}.jpg", quality=90)
    loudness = np.repeat([OPEN[number % 6] for number in range(COUNT)], 640)
    tone = 0.8 * loudness * np.sin(np.arange(loudness.size) / 5)
    soundfile.write(folder / "speech.wav", np.stack([tone, tone], axis=1), 16_000)
    return folder


def test_the_sheet_is_a_small_picture_with_the_frames_on_it(demo: Path, tmp_path: Path) -> None:
    out = tmp_path / "docs" / "sheet.png"
    returned = draw_sheet(demo / "frames", demo / "speech.wav", out)
    assert out.stat().st_size <= MAX_BYTES
    with Image.open(out) as picture:
        picture.load()
        assert picture.format == "PNG"
        assert picture.size == returned.size
        assert 1000 <= picture.width <= 1300
        pixels = np.asarray(picture.convert("RGB"), np.int16)
    # The first full frame is the widest open one of the first third: the fifth.
    scale = picture.width / 1280
    with Image.open(demo / "frames" / "000004.jpg") as frame:
        width = round(contact_sheet._FRAME_WIDTH * scale)
        small = np.asarray(frame.resize((width, round(width * 9 / 16))), np.int16)
    x = y = round(contact_sheet._MARGIN * scale)
    shown = pixels[y : y + small.shape[0], x : x + small.shape[1]]
    assert np.abs(shown - small)[20:-20, 20:-20].mean() < 4


def test_the_opening_is_the_one_in_the_pixels(demo: Path) -> None:
    utterance = read_utterance(demo / "frames", demo / "speech.wav")
    true = [presenter.opening_px(n, MouthShape(OPEN[n % 6], 0.0, 0.0, 0.0, 0.0)) for n in range(COUNT)]
    assert np.corrcoef(utterance.openings, true)[0, 1] > 0.95
    assert utterance.rate_hz == 16_000


def test_sound_is_cut_where_its_frames_are_and_ends_in_silence(demo: Path) -> None:
    utterance = read_utterance(demo / "frames", demo / "speech.wav")
    whole, _ = soundfile.read(demo / "speech.wav", dtype="float32")
    assert np.array_equal(utterance.sound_of(2, 5), whole[1280:3200, 0])
    late = utterance.sound_of(COUNT - 1, COUNT + 1)
    assert late.size == 1280
    assert late[:640].any()
    assert not late[640:].any()


@pytest.mark.parametrize(
    ("openings", "expected"),
    [
        ([1, 5, 2, 4, 0, 3, 7, 8, 6], [1, 4, 7]),
        ([5, 1, 1, 5, 5, 1], [0, 2, 4]),
        ([0, 0, 0], [0, 1, 2]),
    ],
)
def test_close_ups_are_wide_and_shut_in_turn(openings: Sequence[int], expected: list[int]) -> None:
    found = close_ups(np.array(openings, np.float32), 0, len(openings), 3)
    assert found == expected


def test_close_ups_stay_in_their_row() -> None:
    openings = np.random.default_rng(0).uniform(0, 9, 100).astype(np.float32)
    found = close_ups(openings, 40, 73, COLUMNS)
    assert found == sorted(found)
    assert len(set(found)) == COLUMNS
    assert found[0] >= 40
    assert found[-1] < 73


def test_a_sheet_that_cannot_be_made_small_is_refused(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contact_sheet, "MAX_BYTES", 1000)
    with pytest.raises(ExportError, match="at most 1000 are wanted"):
        draw_sheet(demo / "frames", demo / "speech.wav", tmp_path / "sheet.png")
    assert list(tmp_path.iterdir()) == []


def test_a_palette_is_taken_before_the_sheet_is_given_up(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contact_sheet, "MAX_BYTES", 300_000)
    assert draw_sheet(demo / "frames", demo / "speech.wav", tmp_path / "sheet.png").mode == "P"
    assert (tmp_path / "sheet.png").stat().st_size <= 300_000


def test_what_is_not_the_demo_is_refused(demo: Path, tmp_path: Path) -> None:
    Image.new("RGB", (64, 48)).save(tmp_path / "000000.jpg")
    with pytest.raises(ExportError, match=r"frames of 64x48 px; the demo's are 1280x720 px"):
        read_utterance(tmp_path, demo / "speech.wav")
    shutil.copy(demo / "frames" / "000000.jpg", tmp_path / "000000.jpg")
    with pytest.raises(ExportError, match=f"holds 1 frames; {COUNT} or more are wanted"):
        read_utterance(tmp_path, demo / "speech.wav")


@pytest.mark.parametrize("content", [b"", b"I am a text"])
def test_sound_that_is_none(demo: Path, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "speech.wav"
    path.write_bytes(content)
    with pytest.raises(ExportError, match=r"speech\.wav cannot be read as sound"):
        read_utterance(demo / "frames", path)


def test_sound_of_no_length(demo: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "speech.wav", np.zeros((0, 1)), 16_000)
    with pytest.raises(ExportError, match=r"speech\.wav holds no sound"):
        read_utterance(demo / "frames", tmp_path / "speech.wav")
