"""`make demo`, as a new user types it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import av
import pytest
import simplejpeg
import soundfile

ROOT = Path(__file__).parents[2]
SPEECH = ROOT / "export" / "demo" / "speech" / "hello.flac"

pytestmark = [pytest.mark.functional, pytest.mark.slow]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `make demo` has filled. What is installed already is not installed again."""
    folder = tmp_path_factory.mktemp("demo")
    installed = f"{sys.prefix}/.serving-cpu"
    command = [
        "make",
        "demo",
        f"VENV={sys.prefix}",
        f"AVATARS={folder}/avatars",
        f"OUT={folder}",
        "-o",
        installed,
    ]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "frames/s" in run.stdout
    return folder / "demo"


def test_the_film_is_as_long_as_the_speech(out: Path) -> None:
    speech_s = soundfile.info(SPEECH).duration
    with av.open(str(out / "demo.mp4")) as film:
        picture, sound = film.streams.video[0], film.streams.audio[0]
        assert (picture.codec_context.name, sound.codec_context.name) == ("h264", "aac")
        assert (picture.width, picture.height) == (1280, 720)
        assert picture.frames == -(-int(speech_s * 16_000) // 640)
        assert picture.time_base is not None
        assert float(picture.duration * picture.time_base) == pytest.approx(speech_s, abs=0.04)


def test_every_frame_is_written(out: Path) -> None:
    frames = sorted((out / "frames").iterdir())
    report = json.loads((out / "report.json").read_text())
    assert [path.name for path in frames] == [f"{n:06d}.jpg" for n in range(report["frames"])]
    for path in frames:
        height, width, _, _ = simplejpeg.decode_jpeg_header(path.read_bytes())
        assert (width, height) == (1280, 720)


def test_the_report_says_how_it_went(out: Path) -> None:
    report = json.loads((out / "report.json").read_text())
    assert report["avatar"] == "demo"
    assert report["frames_per_s"] > 0
    assert report["time_to_first_frame_ms"] > 0
