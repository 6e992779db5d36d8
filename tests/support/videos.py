"""Videos with a face that detectors accept: the demo's presenter, still, moved about, doubled or absent."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from export.demo import presenter
from export.demo.mouth import REST

Pixels = NDArray[np.uint8]
LEFT_PX, SIDE_PX = 320, 640
"""What is cut out of the presenter's frame: her head and shoulders, and some room to move."""


@lru_cache(maxsize=1)
def face_frame() -> Pixels:
    """uint8 [640, 640, 3]; read only."""
    frame = presenter.render_frame(0, REST)[:SIDE_PX, LEFT_PX : LEFT_PX + SIDE_PX]
    frame.flags.writeable = False
    return frame


def drawn_box() -> tuple[int, int, int, int]:
    """The box that her artist gave the face in `face_frame`."""
    x1, y1, x2, y2 = presenter.face_box(0)
    return x1 - LEFT_PX, y1, x2 - LEFT_PX, y2


def moved(across: int, down: int = 0) -> Pixels:
    return np.roll(face_frame(), (down, across), (0, 1))


def two_faces() -> Pixels:
    return np.concatenate([face_frame()[:, 120:520], face_frame()[:, 120:520]], axis=1)


def no_face() -> Pixels:
    """A picture with something in it, but nobody."""
    down, across = np.mgrid[:SIDE_PX, :SIDE_PX]
    return np.stack([across // 3, down // 3, (across + down) // 6], axis=-1).astype(np.uint8)


def write_video(path: Path, frames: Iterable[Pixels], noise: float = 0.0, rate: int = 25) -> Path:
    """An H.264 file; `noise` is the deviation of what is added to each frame anew."""
    rng = np.random.default_rng(3)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.pix_fmt, stream.options = "yuv420p", {"preset": "ultrafast", "crf": "18"}
        for number, frame in enumerate(frames):
            if number == 0:
                stream.height, stream.width = frame.shape[:2]
            if noise:
                grain = rng.standard_normal(frame.shape, np.float32) * noise
                frame = np.clip(frame + grain, 0, 255).astype(np.uint8)
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path
