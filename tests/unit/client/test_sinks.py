import io
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from client import Frame, JpegFolderSink, Mp4Sink, NullSink, Recording, SinkError

FRAME_S = 0.04


def picture(index: int, width: int = 160, height: int = 96) -> NDArray[np.uint8]:
    """Smooth colours and, as large black and white blocks, the index in binary."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    pixels = np.stack([40 + 180 * x, 200 - 160 * y, 60 + 120 * x * y], axis=2)
    for bit in range(8):
        pixels[:16, bit * 16 : (bit + 1) * 16] = 235 if index >> bit & 1 else 20
    return pixels.astype(np.uint8)


def index_in(pixels: NDArray[np.uint8]) -> int:
    blocks = [pixels[4:12, bit * 16 + 4 : bit * 16 + 12].mean() for bit in range(8)]
    return sum(1 << bit for bit, block in enumerate(blocks) if block > 128)


def jpeg(pixels: NDArray[np.uint8], **options: int) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG", quality=92, **options)
    return content.getvalue()


def frame(index: int, width: int = 160, height: int = 96) -> Frame:
    return Frame(index, index / 25, jpeg(picture(index, width, height)))


def speech(seconds: float, rate_hz: int = 16000) -> Recording:
    """Silence with a click at each whole frame, louder and louder."""
    samples = np.zeros(round(seconds * rate_hz), np.float32)
    for index in range(int(seconds / FRAME_S)):
        at = round(index * FRAME_S * rate_hz)
        samples[at : at + 4] = 0.02 * (index + 1)
    return Recording(samples, rate_hz)


@contextmanager
def disk_full_after(bytes_: int) -> Iterator[None]:
    """No file may grow beyond so many bytes: the same path through the system as a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class TestNull:
    def test_it_counts(self) -> None:
        sink = NullSink()
        for index in range(3):
            sink.write(Frame(index, 0.0, b"12345"))
        sink.close()
        assert (sink.frames, sink.bytes, sink.path) == (3, 15, None)


class TestFolder:
    def test_files_are_numbered_from_the_utterances_first_frame(self, tmp_path: Path) -> None:
        sink = JpegFolderSink(tmp_path / "deep" / "frames")
        for index in range(3):
            sink.write(Frame(500 + index, 0.0, f"frame {index}".encode()))
        sink.close()
        files = sorted((tmp_path / "deep" / "frames").iterdir())
        assert [file.name for file in files] == ["000000.jpg", "000001.jpg", "000002.jpg"]
        assert [file.read_text() for file in files] == ["frame 0", "frame 1", "frame 2"]

    def test_a_longer_earlier_run_leaves_nothing_and_other_files_stay(self, tmp_path: Path) -> None:
        for name in ("000000.jpg", "000009.jpg", "notes.txt", "holiday.jpg", "0000010.jpg"):
            (tmp_path / name).write_text("old")
        sink = JpegFolderSink(tmp_path)
        sink.write(Frame(0, 0.0, b"new"))
        sink.close()
        names = {path.name for path in tmp_path.iterdir()}
        assert names == {"000000.jpg", "notes.txt", "holiday.jpg", "0000010.jpg"}
        assert (tmp_path / "000000.jpg").read_bytes() == b"new"

    def test_broken_off_it_removes_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "000009.jpg").write_text("old")
        sink = JpegFolderSink(tmp_path)
        sink.write(Frame(0, 0.0, b"new"))
        sink.abort()
        assert {path.name for path in tmp_path.iterdir()} == {"000000.jpg", "000009.jpg"}

    def test_a_full_disk_names_the_file_and_keeps_the_frames_before(self, tmp_path: Path) -> None:
        sink = JpegFolderSink(tmp_path)
        sink.write(Frame(0, 0.0, b"x" * 1000))
        with (
            disk_full_after(4096),
            pytest.raises(SinkError, match=r"000001\.jpg cannot be written: File too large"),
        ):
            sink.write(Frame(1, 0.0, b"x" * 100_000))
        assert [(path.name, path.stat().st_size) for path in tmp_path.iterdir()] == [("000000.jpg", 1000)]
        assert sink.frames == 1

    def test_a_folder_that_cannot_be_made_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(SinkError, match="file/frames cannot be written: Not a directory"):
            JpegFolderSink(tmp_path / "file" / "frames")


def write_mp4(path: Path, frames: int, sound: Recording, width: int = 160, height: int = 96) -> None:
    sink = Mp4Sink(path, sound)
    for index in range(frames):
        sink.write(frame(index, width, height))
    sink.close()
    assert sink.path == path


def read_video(path: Path) -> list[tuple[float, NDArray[np.uint8]]]:
    with av.open(str(path)) as container:
        return [
            (float(picture.time), picture.to_ndarray(format="rgb24")) for picture in container.decode(video=0)
        ]


def read_sound(path: Path) -> NDArray[np.float32]:
    with av.open(str(path)) as container:
        blocks = [(block.pts, block.to_ndarray()[0]) for block in container.decode(audio=0)]
    sound = np.concatenate([block for _, block in blocks])
    first = blocks[0][0]
    assert first is not None
    return sound if first >= 0 else sound[-first:]


def bt601_to_rgb(picture: av.VideoFrame) -> NDArray[np.float64]:
    """Limited-range 4:2:0 to RGB, by the formulas of ITU-R BT.601 section 2.5."""
    planes = [
        np.frombuffer(plane, np.uint8).reshape(plane.height, -1)[:, : plane.width].astype(np.float64)
        for plane in picture.planes
    ]
    luma = (planes[0] - 16) / 219
    blue, red = ((np.kron(plane, np.ones((2, 2))) - 128) / 224 for plane in planes[1:])
    r, b = luma + 1.402 * red, luma + 1.772 * blue
    g = (luma - 0.299 * r - 0.114 * b) / 0.587
    return np.stack([r, g, b], axis=2) * 255


class TestMp4:
    @pytest.mark.parametrize("samples", [24 * 640, 24 * 640 + 1, 25 * 640 - 1, 100])
    def test_it_lasts_as_long_as_the_speech_to_within_a_frame(self, tmp_path: Path, samples: int) -> None:
        sound = Recording(np.zeros(samples, np.float32), 16000)
        write_mp4(tmp_path / "a.mp4", -(-samples // 640), sound)
        with av.open(str(tmp_path / "a.mp4")) as container:
            assert container.duration is not None
            assert abs(container.duration / 1e6 - sound.duration_s) <= FRAME_S
            video, audio = container.streams.video[0], container.streams.audio[0]
            assert float(audio.duration * audio.time_base) == pytest.approx(sound.duration_s, abs=1e-3)  # type: ignore[operator]
            assert video.start_time == audio.start_time == 0

    def test_every_frame_is_there_once_at_its_time(self, tmp_path: Path) -> None:
        write_mp4(tmp_path / "a.mp4", 60, speech(2.4))
        video = read_video(tmp_path / "a.mp4")
        assert [index_in(pixels) for _, pixels in video] == list(range(60))
        assert [time_s for time_s, _ in video] == pytest.approx([index / 25 for index in range(60)])

    @pytest.mark.parametrize("rate_hz", [16000, 22050, 48000])
    def test_sound_is_in_sync_to_a_fraction_of_a_frame(self, tmp_path: Path, rate_hz: int) -> None:
        sound = speech(1.0, rate_hz)
        write_mp4(tmp_path / "a.mp4", 25, sound)
        heard = read_sound(tmp_path / "a.mp4")
        said = sound.resampled(48000)
        both = min(len(heard), len(said))
        spectrum = np.fft.rfft(heard[:both], 2 * both) * np.conj(np.fft.rfft(said[:both], 2 * both))
        shift = int(np.argmax(np.fft.irfft(spectrum)))
        shift = shift - 2 * both if shift > both else shift
        assert abs(shift) / 48000 < FRAME_S / 10

    def test_codecs_are_those_that_everything_plays(self, tmp_path: Path) -> None:
        write_mp4(tmp_path / "a.mp4", 5, speech(0.2))
        with av.open(str(tmp_path / "a.mp4")) as container:
            video, audio = container.streams.video[0], container.streams.audio[0]
            assert (video.codec_context.name, video.pix_fmt, video.average_rate) == ("h264", "yuv420p", 25)
            assert (video.width, video.height) == (160, 96)
            assert audio.codec_context.name == "aac"

    def test_colours_are_those_of_the_jpeg(self, tmp_path: Path) -> None:
        write_mp4(tmp_path / "a.mp4", 3, speech(0.12), 320, 192)
        with av.open(str(tmp_path / "a.mp4")) as container:
            picture_ = next(container.decode(video=0))
            assert (picture_.colorspace, picture_.color_range) == (5, 1)
            shown = bt601_to_rgb(picture_)
        wanted = np.asarray(Image.open(io.BytesIO(frame(0, 320, 192).jpeg))).astype(float)
        difference = (shown - wanted)[24:]
        assert np.abs(difference).mean() < 1.5
        assert np.abs(difference.mean(axis=(0, 1))).max() < 2

    @pytest.mark.parametrize("size", [(161, 97), (854, 480), (96, 160)])
    def test_odd_and_upright_sizes(self, tmp_path: Path, size: tuple[int, int]) -> None:
        write_mp4(tmp_path / "a.mp4", 3, speech(0.12), *size)
        video = read_video(tmp_path / "a.mp4")
        assert len(video) == 3
        assert video[0][1].shape == (size[1] // 2 * 2, size[0] // 2 * 2, 3)

    @pytest.mark.parametrize("subsampling", [0, 1, 2])
    def test_every_usual_subsampling_and_restart_markers(self, tmp_path: Path, subsampling: int) -> None:
        sink = Mp4Sink(tmp_path / "a.mp4", speech(0.12))
        for index in range(3):
            content = jpeg(picture(index), subsampling=subsampling, restart_marker_blocks=4)
            sink.write(Frame(index, 0.0, content))
        sink.close()
        assert [index_in(pixels) for _, pixels in read_video(tmp_path / "a.mp4")] == [0, 1, 2]

    def test_the_old_file_is_whole_until_the_new_one_is(self, tmp_path: Path) -> None:
        (tmp_path / "a.mp4").write_text("old")
        sink = Mp4Sink(tmp_path / "a.mp4", speech(1))
        sink.write(frame(0))
        assert (tmp_path / "a.mp4").read_text() == "old"
        sink.close()
        assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
        assert len(read_video(tmp_path / "a.mp4")) == 1

    def test_broken_off_it_leaves_a_playable_part_with_its_own_name(self, tmp_path: Path) -> None:
        (tmp_path / "a.mp4").write_text("old")
        sink = Mp4Sink(tmp_path / "a.mp4", speech(4))
        for index in range(30):
            sink.write(frame(index))
        sink.abort()
        assert (tmp_path / "a.mp4").read_text() == "old"
        assert sink.path == tmp_path / "a.partial.mp4"
        assert len(read_video(tmp_path / "a.partial.mp4")) == 30
        assert len(read_sound(tmp_path / "a.partial.mp4")) == pytest.approx(30 * 1920, abs=1024)

    @pytest.mark.parametrize("end", ["close", "abort"])
    def test_without_frames_there_is_no_file(self, tmp_path: Path, end: str) -> None:
        sink = Mp4Sink(tmp_path / "a.mp4", speech(1))
        if end == "abort":
            sink.abort()
        else:
            with pytest.raises(SinkError, match=r"a\.mp4 was not written: there are no frames"):
                sink.close()
        assert list(tmp_path.iterdir()) == []

    def test_a_full_disk_names_the_file(self, tmp_path: Path) -> None:
        noisy = np.random.default_rng(0).integers(0, 255, (96, 160, 3), dtype=np.uint8)
        content = [jpeg(np.roll(noisy, shift, axis=1)) for shift in range(0, 160, 8)]
        sink = Mp4Sink(tmp_path / "a.mp4", speech(8))

        def write_all() -> None:
            for index in range(200):
                sink.write(Frame(index, 0.0, content[index % 20]))

        with disk_full_after(50_000):
            with pytest.raises(SinkError, match=r"a\.partial\.mp4 cannot be written: File too large"):
                write_all()
            sink.abort()
        assert not (tmp_path / "a.mp4").exists()

    def test_a_folder_that_is_none_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(SinkError, match="cannot be written"):
            Mp4Sink(tmp_path / "file" / "a.mp4", speech(1))

    @pytest.mark.parametrize("content", [b"", b"not a JPEG" * 50, b"\xff\xd8\xff"])
    def test_what_is_no_jpeg_is_refused_by_number(self, tmp_path: Path, content: bytes) -> None:
        sink = Mp4Sink(tmp_path / "a.mp4", speech(1))
        sink.write(frame(0))
        with pytest.raises(SinkError, match="frame 1 is not a JPEG"):
            sink.write(Frame(1, 0.04, content))
        sink.abort()
        assert len(read_video(tmp_path / "a.partial.mp4")) == 1

    def test_frames_of_another_size_are_refused_by_number(self, tmp_path: Path) -> None:
        sink = Mp4Sink(tmp_path / "a.mp4", speech(1))
        sink.write(frame(0))
        with pytest.raises(SinkError, match=r"frame 1 of 160x96, .*, got 320x192"):
            sink.write(frame(1, 320, 192))
        sink.abort()
