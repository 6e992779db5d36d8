from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from export.errors import ExportError
from export.frames import PictureFolder, Pixels, Video, natural_order, open_frames, read_picture
from tests.support.scenes import textured


def write_pictures(folder: Path, names: Sequence[str], size: tuple[int, int] = (20, 12)) -> list[Pixels]:
    folder.mkdir(exist_ok=True)
    pictures = [textured(*size, seed) for seed in range(len(names))]
    for name, pixels in zip(names, pictures, strict=True):
        Image.fromarray(pixels).save(folder / name, quality=95)
    return pictures


def write_video(
    path: Path, times_ms: Sequence[int], size: tuple[int, int] = (64, 48), codec: str = "mpeg4"
) -> None:
    """Frame n has the grey level 10·n + 10 and is shown at times_ms[n]."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        for number, time_ms in enumerate(times_ms):
            frame = av.VideoFrame.from_ndarray(np.full((size[1], size[0], 3), 10 * number + 10, np.uint8))
            frame.pts, frame.time_base = time_ms, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def numbers(video: Video) -> list[int]:
    """Which of the video's own frames come, by their grey levels."""
    return [round((float(frame.mean()) - 10) / 10) for frame in video]


# --- pictures ---
def test_pictures_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    names = ["0.png", "2.png", "10.png", "1.png"]
    written = dict(zip(names, write_pictures(tmp_path / "f", names), strict=True))
    source = open_frames(tmp_path / "f")
    assert source.names == ["0", "1", "2", "10"]
    for name, frame in zip(("0.png", "1.png", "2.png", "10.png"), source, strict=True):
        assert np.array_equal(frame, written[name])


@pytest.mark.parametrize(
    "names",
    [
        ["frame_0001", "frame_0002", "frame_0010"],
        ["frame_9", "frame_10"],
        ["a1b2", "a1b10", "a2b1"],
        ["00000001", "00000002"],
    ],
)
def test_natural_order(names: list[str]) -> None:
    backwards = names[::-1]
    assert sorted(backwards, key=natural_order) == names


def test_a_folder_can_be_read_again_and_one_picture_at_a_time(tmp_path: Path) -> None:
    written = write_pictures(tmp_path / "f", ["0.png", "1.png", "2.png"])
    (tmp_path / "f" / "2.png").write_bytes(b"damaged")
    source = open_frames(tmp_path / "f")
    for _ in range(2):
        frames = iter(source)
        assert np.array_equal(next(frames), written[0])
        assert np.array_equal(next(frames), written[1])
        with pytest.raises(ExportError, match=r"2\.png cannot be read as a picture"):
            next(frames)
    assert source.size_px == (20, 12)
    assert list(source.origin) == [0, 1, 2]


def test_jpeg_of_odd_size(tmp_path: Path) -> None:
    (written,) = write_pictures(tmp_path / "f", ["0.jpg"], (21, 13))
    (frame,) = open_frames(tmp_path / "f")
    assert frame.shape == (13, 21, 3)
    assert np.abs(frame.astype(int) - written).mean() < 12


def test_hidden_files_are_no_frames(tmp_path: Path) -> None:
    write_pictures(tmp_path / "f", ["0.png"])
    (tmp_path / "f" / "._0.png").write_bytes(b"what one system leaves on another's disk")
    assert open_frames(tmp_path / "f").names == ["0"]


def test_two_pictures_for_a_frame_are_refused(tmp_path: Path) -> None:
    write_pictures(tmp_path / "f", ["0.png", "0.jpg"])
    with pytest.raises(ExportError, match=r"holds both 0\.(png and 0\.jpg|jpg and 0\.png)"):
        open_frames(tmp_path / "f")


def test_frames_of_different_sizes_are_refused(tmp_path: Path) -> None:
    write_pictures(tmp_path / "f", ["0.png"], (20, 12))
    write_pictures(tmp_path / "f", ["1.png"], (20, 12))
    Image.new("RGB", (20, 14)).save(tmp_path / "f" / "2.png")
    with pytest.raises(ExportError, match=r"2\.png is 20x14 px; 0\.png is 20x12 px"):
        list(open_frames(tmp_path / "f"))


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("gone", None, "is not there; a folder of pictures or a video is wanted"),
        ("notes.txt", b"hello", "is no folder and no video"),
        ("a.mp4", b"hello, I am no video at all", "cannot be read as a video"),
        ("empty.mp4", b"", "cannot be read as a video"),
    ],
)
def test_what_is_no_source_is_refused(tmp_path: Path, name: str, content: bytes | None, error: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ExportError, match=f"{name} {error}"):
        open_frames(tmp_path / name)


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ExportError, match="holds no pictures"):
        open_frames(tmp_path)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    zeros = zlib.compress(bytes(100_000))
    bomb = (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", zeros)
        + png_chunk(b"IEND", b"")
    )
    (tmp_path / "0.png").write_bytes(bomb)
    with pytest.raises(ExportError, match=r"0\.png claims"):
        read_picture(tmp_path / "0.png")


def test_pictures_of_16_bits_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(tmp_path / "0.png")
    with pytest.raises(ExportError, match="8 bits a channel are wanted"):
        read_picture(tmp_path / "0.png")


def test_a_picture_that_other_programs_would_have_to_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    )
    with pytest.raises(ExportError, match="cannot be read as a picture"):
        read_picture(tmp_path / "0.png")


def test_transparency_is_left_out(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (10, 20, 30, 0)).save(tmp_path / "0.png")
    assert read_picture(tmp_path / "0.png").tolist() == [[[10, 20, 30]] * 4] * 4


def test_a_picture_lies_as_its_exif_data_say(tmp_path: Path) -> None:
    pixels = textured(20, 12, 1)
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned by 90 degrees, clockwise
    Image.fromarray(pixels).save(tmp_path / "0.png", exif=turned)
    assert np.array_equal(read_picture(tmp_path / "0.png"), np.rot90(pixels, -1))


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_picture_is_read_or_refused_but_nothing_else(
    tmp_path: Path, suffix: str, data: st.DataObject
) -> None:
    path = tmp_path / f"0{suffix}"
    Image.fromarray(textured(20, 12, 1)).save(path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with suppress(ExportError):
        frame = read_picture(path)
        assert frame.dtype == np.uint8
        assert frame.ndim == 3
        assert frame.shape[2] == 3


# --- videos ---
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
def test_a_video_of_25_frames_a_second_is_taken_as_it_is(tmp_path: Path, name: str) -> None:
    write_video(tmp_path / name, [40 * n for n in range(12)])
    video = open_frames(tmp_path / name)
    assert isinstance(video, Video)
    assert numbers(video) == list(range(12))
    assert numbers(video) == list(range(12)), "it can be read again"
    assert video.note is None
    assert video.size_px == (64, 48)
    assert video.names is None


def test_a_coarse_clock_does_not_drop_frames(tmp_path: Path) -> None:
    jitter = (0, 3, -4, 2, 5, -5, 1, 0, 4, -3)
    write_video(tmp_path / "a.mkv", [40 * n + jitter[n] + 7 for n in range(10)])
    assert numbers(Video.at(tmp_path / "a.mkv")) == list(range(10))


@pytest.mark.parametrize("rate_hz", [10, 12.5, 24, 30, 50, 60])
def test_another_rate_is_brought_to_25_by_the_nearest_frame(tmp_path: Path, rate_hz: float) -> None:
    times = [round(1000 * n / rate_hz) for n in range(20)]
    write_video(tmp_path / "a.mkv", times)
    video = Video.at(tmp_path / "a.mkv")
    found = numbers(video)
    assert found == list(video.origin)
    assert len(found) == pytest.approx(20 / rate_hz * 25, abs=0.51)
    for tick, number in enumerate(found):
        off = [abs(time - 40 * tick) for time in times]
        assert off[number] <= min(off) + 1, (tick, number)
    assert video.source_count == 20
    assert video.note is not None
    assert video.rate_hz == pytest.approx(rate_hz, rel=0.01)
    assert f"{video.rate_hz:.2f} frames a second" in video.note
    assert f"{len(found)} at 25 a second" in video.note


def test_one_frame_is_a_video_too(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", [0])
    assert numbers(Video.at(tmp_path / "a.mp4")) == [0]


def test_a_video_held_sideways_is_turned(tmp_path: Path) -> None:
    plain, turned = tmp_path / "plain.mp4", tmp_path / "turned.mp4"
    write_video(plain, [0, 40])
    content = bytearray(plain.read_bytes())
    # The matrix of the track header: a quarter turn clockwise (ISO 14496-12, 8.3.2).
    matrix = struct.pack(">9i", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
    quarter = struct.pack(">9i", 0, 0x10000, 0, -0x10000, 0, 0, 48 << 16, 0, 0x40000000)
    at = content.index(matrix, content.index(b"tkhd"))
    content[at : at + len(matrix)] = quarter
    turned.write_bytes(content)
    video = Video.at(turned)
    assert video.size_px == (48, 64)
    assert [frame.shape for frame in video] == [(64, 48, 3)] * 2


def test_a_turned_video_shows_its_top_on_top(tmp_path: Path) -> None:
    """The left edge of the stored picture is the top of the one that is shown, after a turn clockwise."""
    path = tmp_path / "a.mp4"
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:, :32] = 200
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height = 64, 48
        container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
        container.mux(stream.encode())
    content = bytearray(path.read_bytes())
    matrix = struct.pack(">9i", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
    at = content.index(matrix, content.index(b"tkhd"))
    content[at : at + len(matrix)] = struct.pack(
        ">9i", 0, 0x10000, 0, -0x10000, 0, 0, 48 << 16, 0, 0x40000000
    )
    path.write_bytes(content)
    (frame,) = Video.at(path)
    assert frame[:24].mean() > 150
    assert frame[40:].mean() < 50


def test_a_video_without_pictures_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16_000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1600), np.int16), format="s16", layout="mono")
        sound.sample_rate = 16_000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    with pytest.raises(ExportError, match="has no picture track"):
        Video.at(path)


def test_a_truncated_video_is_refused(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", [40 * n for n in range(12)])
    content = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "a.mp4").write_bytes(content[: len(content) // 2])
    with pytest.raises(ExportError, match=r"a\.mp4 (cannot be read as a video|has no picture track)"):
        Video.at(tmp_path / "a.mp4")


def test_folders_and_videos_are_told_apart(tmp_path: Path) -> None:
    write_pictures(tmp_path / "looks-like.mp4", ["0.png"])
    assert isinstance(open_frames(tmp_path / "looks-like.mp4"), PictureFolder)
