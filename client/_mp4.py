"""JPEG frames and sound into an MP4: the one file that touches PyAV."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from client.audio import Recording
from client.errors import SinkError
from compositor_backend.contract import FRAME_RATE_HZ

AUDIO_RATE_HZ = 48_000
"""AAC comes in packets of 1024 samples: 21 ms at this rate, at 16 kHz 64 ms and more than a frame."""
AUDIO_PER_FRAME = AUDIO_RATE_HZ // FRAME_RATE_HZ  # 1920

VIDEO_OPTIONS = {"preset": "veryfast", "crf": "18"}
# Codes of ITU-T H.273. JPEG's matrix (BT.601) is kept and named in the file: to go over to BT.709's takes swscale
# 3 ms a frame of 1280x720 and puts colours 1 to 3 levels off, or 17 ms without that. Going over from full to
# limited range, which some players want, takes 0.6 ms and is exact.
_BT709 = 1
_BT601 = 5
_LIMITED_RANGE = 1
_FULL_RANGE = 2


class Mp4Writer:
    """Writes frame after frame, each with its 40 ms of sound; failures are `SinkError` and name the file."""

    def __init__(self, path: Path, speech: Recording) -> None:
        self._path = path
        self._sound = speech.pcm(AUDIO_RATE_HZ)
        self._decoder: Any = av.CodecContext.create("mjpeg", "r")
        self._decoder.thread_count = 1  # With more, a frame comes out only after the next has gone in.
        with self._writing():
            options = {"movflags": "+faststart"}
            self._container = av.open(str(path), "w", format="mp4", container_options=options)
        self._video: Any = None
        self._audio: Any = None
        self._frames = 0

    def write(self, jpeg: bytes) -> None:
        """The next frame; the first one's size, made even, is the video's."""
        picture = self._decode(jpeg)
        if self._video is None:
            self._open_streams(picture)
        elif (picture.width, picture.height) != self._size:
            raise SinkError(
                f"expected frame {self._frames} of {self._size[0]}x{self._size[1]}, as the first is, "
                f"got {picture.width}x{picture.height}"
            )
        with self._writing():
            self._mux(self._video, self._converted(picture))
            sound = self._sound_of(self._frames)
            if len(sound) > 0:
                self._mux(self._audio, self._audio_frame(sound))
        self._frames += 1

    def close(self) -> None:
        """Finish the file."""
        with self._writing():
            try:
                if self._video is not None:
                    self._mux(self._video, None)
                    self._mux(self._audio, None)
            finally:
                self._container.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, av.FFmpegError) as error:
            raise SinkError(f"{self._path} cannot be written: {error.strerror or error}") from error

    def _decode(self, jpeg: bytes) -> Any:
        try:
            pictures = self._decoder.decode(av.Packet(jpeg))
        except av.FFmpegError as error:
            raise SinkError(f"frame {self._frames} is not a JPEG: {error.strerror}") from error
        if len(pictures) != 1:
            raise SinkError(f"frame {self._frames} is not a JPEG: no picture in {len(jpeg)} bytes")
        return pictures[0]

    def _open_streams(self, picture: Any) -> None:
        self._size = (picture.width, picture.height)
        video: Any = self._container.add_stream("libx264", rate=FRAME_RATE_HZ, options=VIDEO_OPTIONS)
        # H.264 in 4:2:0 has even sizes only.
        video.width, video.height = (length - length % 2 for length in self._size)
        video.pix_fmt = "yuv420p"
        context = video.codec_context
        context.color_range = _LIMITED_RANGE
        context.colorspace = _BT601
        context.color_primaries = context.color_trc = _BT709
        self._video = video
        self._audio = self._container.add_stream("aac", rate=AUDIO_RATE_HZ, layout="mono")

    def _converted(self, picture: Any) -> Any:
        converted = picture.reformat(
            width=self._video.width,
            height=self._video.height,
            format="yuv420p",
            src_colorspace=_BT601,
            dst_colorspace=_BT601,
            src_color_range=_FULL_RANGE,
            dst_color_range=_LIMITED_RANGE,
        )
        converted.pts = self._frames
        converted.time_base = Fraction(1, FRAME_RATE_HZ)
        return converted

    def _sound_of(self, frame: int) -> NDArray[np.int16]:
        return self._sound[frame * AUDIO_PER_FRAME : (frame + 1) * AUDIO_PER_FRAME]

    def _audio_frame(self, sound: NDArray[np.int16]) -> Any:
        frame = av.AudioFrame.from_ndarray(sound[np.newaxis], format="s16", layout="mono")
        frame.sample_rate = AUDIO_RATE_HZ
        frame.pts = self._frames * AUDIO_PER_FRAME
        frame.time_base = Fraction(1, AUDIO_RATE_HZ)
        return frame

    def _mux(self, stream: Any, frame: Any) -> None:
        for packet in stream.encode(frame):
            self._container.mux(packet)
