"""The avatars that are measured: the demo's, and others made of its frames with a network that computes nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import turbojpeg
from numpy.typing import NDArray

from compositor_backend.blend import resize
from compositor_backend.errors import PackError
from compositor_backend.geometry import Box
from compositor_backend.pack import AvatarPack
from compositor_backend.timeline import template_frames
from export.avatar import AvatarSettings, NetworkSource, build_avatar
from export.demo.avatar import DEMO_ID, ENCODER_FILE, WEIGHTS
from perf.null_network import write_null_network

Pixels = NDArray[np.uint8]
"""uint8 [H, W, 3] RGB."""

SIZES = {"1280x720": (1280, 720), "1920x1080": (1920, 1080), "3840x2160": (3840, 2160)}
"""Frame sizes in px, width first, by name."""


@dataclass(frozen=True)
class FramesOfPack:
    """`count` frames of a pack as a source for another avatar, on a frame of `size_px` (width, height).

    A larger frame is the picture enlarged with the face, its surroundings included, laid over its place at its
    old size: the background has as much to encode as it would, and the face box stays as large as it was. More
    frames than the pack has follow its ping-pong.
    """

    pack: AvatarPack
    size_px: tuple[int, int]
    count: int
    names: None = None
    note: None = None

    @property
    def origin(self) -> range:
        """Each frame is a frame."""
        return range(self.count)

    @property
    def source_count(self) -> int:
        """The same as `count`."""
        return self.count

    @property
    def template(self) -> NDArray[np.intp]:
        """Which frame of the pack each one is."""
        return template_frames(np.arange(self.count, dtype=np.int32), self.pack.frames)

    def box(self, number: int) -> Box:
        """The face box in frame `number`."""
        x1, y1, x2, y2 = self.pack.rects[self.template[number]].tolist()
        left, top = self._shift(x1, y1, x2, y2)
        return x1 + left, y1 + top, x2 + left, y2 + top

    def __iter__(self) -> Iterator[Pixels]:
        """Frames in order."""
        for frame in self.template.tolist():
            yield self._enlarged(decode(self.pack.frame_jpeg(frame)), frame)

    def _enlarged(self, picture: Pixels, frame: int) -> Pixels:
        width, height = self.size_px
        if picture.shape[:2] == (height, width):
            return picture
        x1, y1, x2, y2 = self.pack.rects[frame].tolist()
        left, top = self._shift(x1, y1, x2, y2)
        margin = min((x2 - x1) // 4, x1, y1, picture.shape[1] - x2, picture.shape[0] - y2)
        rows, columns = slice(y1 - margin, y2 + margin), slice(x1 - margin, x2 + margin)
        large = resize(picture, width, height).copy()
        large[_moved(rows, top), _moved(columns, left)] = picture[rows, columns]
        return large

    def _shift(self, x1: int, y1: int, x2: int, y2: int) -> tuple[int, int]:
        """How far right and down the face moves so that its middle keeps its place in the picture."""
        grid = self.pack.grid
        right = (x1 + x2) * (self.size_px[0] - grid.width) // (2 * grid.width)
        down = (y1 + y2) * (self.size_px[1] - grid.height) // (2 * grid.height)
        return right, down


def _moved(span: slice, by: int) -> slice:
    return slice(span.start + by, span.stop + by)


def decode(jpeg: bytes) -> Pixels:
    """The pixels of a JPEG."""
    pixels: Pixels = np.asarray(turbojpeg.decompress(jpeg))
    return pixels


def source_frames(demo: Path, size: str, count: int) -> list[Pixels]:
    """The frames that `build_null_avatar` makes an avatar of, in memory."""
    with AvatarPack(demo / DEMO_ID) as pack:
        return list(FramesOfPack(pack, SIZES[size], count))


def build_null_avatar(avatars: Path, demo: Path, avatar_id: str, size: str, frames: int) -> Path:
    """Build an avatar of the demo's frames with the null network, and the demo's audio encoder; its pack's folder.

    One that is there already, with that many frames, stays.
    """
    return _build(
        avatars, demo, avatar_id, size, frames, lambda: write_null_network(avatars.parent / "null.onnx")
    )


def build_full_width_avatar(avatars: Path, demo: Path, avatar_id: str, frames: int = 50) -> Path:
    """The same at 1280x720 with a U-Net of full width and random weights; needs torch, to write it."""
    return _build(
        avatars, demo, avatar_id, "1280x720", frames, lambda: _full_width(avatars.parent / "full-width.onnx")
    )


def _full_width(path: Path) -> Path:
    import torch

    from export.networks.unet import LipSyncUNet
    from export.onnx_export import write_unet

    torch.manual_seed(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_unet(LipSyncUNet().eval(), hashlib.sha256(b"full width, random").hexdigest(), path)
    return path


def _build(
    avatars: Path, demo: Path, avatar_id: str, size: str, frames: int, network: Callable[[], Path]
) -> Path:
    folder = avatars / avatar_id
    if _is_built(folder, frames):
        return folder
    settings = AvatarSettings(
        avatar_id=avatar_id,
        avatars=avatars,
        network=NetworkSource(network()),
        encoder=WEIGHTS / ENCODER_FILE,
        replace=True,
    )
    with AvatarPack(demo / DEMO_ID) as pack:
        source = FramesOfPack(pack, SIZES[size], frames)
        return build_avatar(settings, source, [source.box(number) for number in source.origin])


def _is_built(folder: Path, frames: int) -> bool:
    """Whether there is a pack of this version with that many frames; one of an earlier version is made anew."""
    try:
        with AvatarPack(folder) as pack:
            manifest = pack.manifest
            return pack.frames == frames and manifest.idle_key == manifest.network_key
    except PackError:
        return False
