"""Catalogues of clones that cost next to nothing to serve, and what a frame says of whose it is.

A frame of a clone says it twice: its JPEG's comment is the id of the pack that it was made from, and the tint of its
face is that of the network that drew it.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import simplejpeg
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from PIL import Image

from compositor_backend.pack import AvatarPack
from export.avatar import AvatarSettings, NetworkSource, build_avatar
from export.clone import clone_avatars, clone_colour, clone_ids
from export.clone_graph import TINT
from tests.support.avatar_sources import encoder_graph, network_graph

Pixels = NDArray[np.uint8]
Colour = NDArray[np.float64]
"""Mean red, green and blue of a picture, [3]."""

SOURCE = "small"
FRAMES, WIDTH, HEIGHT, FACE_PX = 6, 480, 272, 160
BOXES = [(150 + 4 * n, 60, 150 + 4 * n + FACE_PX, 60 + FACE_PX) for n in range(FRAMES)]
_SIDE_PX, _DRAWN_FROM, _DRAWN_FULLY = 320, 190, 230

TOLERANCE = 4.0
"""Steps of 255 that a channel of a clone's face may be off. Measured: up to 0.9 in frames of `small_catalogue`, to any
sound; up to 0.8 in the demo's clones, of whose source another sound or frame changes it by 0.5 at most. Of two clones
picked at random, one in 400 pairs has colours so alike that a face within it might be either's."""


# --- a catalogue ---
def small_catalogue(avatars: Path, count: int) -> list[str]:
    """Make the avatar `SOURCE` and `count` clones of it in the model repository `avatars`; the clones' ids.

    Its network has no convolution: it copies the face, and makes the lower half lighter or darker with the loudness.
    """
    with tempfile.TemporaryDirectory() as folder:
        network, encoder = Path(folder) / "network.onnx", Path(folder) / "encoder.onnx"
        onnx.save(_copying_graph(), str(network))
        onnx.save(encoder_graph(), str(encoder))
        settings = AvatarSettings(
            SOURCE, avatars, NetworkSource(network), encoder=encoder, encoder_name=SOURCE
        )
        build_avatar(settings, _Scene(), BOXES)
    ids = clone_ids(SOURCE, count)
    clone_avatars(avatars, SOURCE, ids)
    return ids


def source_colour(avatars: Path) -> Colour:
    """The `face_colour` of every frame of the avatar `SOURCE`, whatever the sound."""
    with AvatarPack(avatars / f"avatar_{SOURCE}") as pack:
        return face_colour(pack.frame_jpeg(0), pack.rects[0].tolist())


@dataclass(frozen=True)
class _Scene:
    """Frames in which one face, the same in all of them, moves over a background."""

    names: None = None
    note: None = None
    origin: range = range(FRAMES)
    source_count: int = FRAMES
    size_px: tuple[int, int] = (WIDTH, HEIGHT)

    def __iter__(self) -> Iterator[Pixels]:
        down, across = np.mgrid[:HEIGHT, :WIDTH]
        background = np.stack([across // 4, down // 2, 160 - down // 3], axis=-1).astype(np.uint8)
        for box in BOXES:
            frame = background.copy()
            frame[box[1] : box[3], box[0] : box[2]] = _face()
            yield frame


def _face() -> Pixels:
    """Skin, lighter in the middle, with two eyes."""
    down, across = np.mgrid[-1 : 1 : FACE_PX * 1j, -1 : 1 : FACE_PX * 1j]
    light = 1 - 0.25 * (down**2 + across**2)
    light[((abs(across) - 0.4) ** 2 + (down + 0.3) ** 2) < 0.02] = 0.2
    skin: Pixels = (light[..., None] * (215, 170, 145)).astype(np.uint8)
    return skin


def _copying_graph() -> onnx.ModelProto:
    """`network_graph` with FACE itself in place of its negative, and the light on its lower half only."""
    model = network_graph()
    lower = np.interp(np.arange(_SIDE_PX), (_DRAWN_FROM, _DRAWN_FULLY), (0, 10)).astype(np.float32)
    for node in model.graph.node:
        if node.output[0] == "negative":
            node.CopyFrom(helper.make_node("Identity", ["face"], ["negative"]))
    for tensor in model.graph.initializer:
        if tensor.name == "10":
            tensor.CopyFrom(numpy_helper.from_array(lower[:, None], "10"))
    return model


# --- what a frame says ---
def owner(jpeg: bytes) -> str:
    """The id in a frame's comment; empty where there is none, as in the source's own frames."""
    with Image.open(io.BytesIO(jpeg)) as picture:
        return bytes(picture.info.get("comment", b"")).decode()


def face_colour(jpeg: bytes, rect: Sequence[int] | NDArray[Any]) -> Colour:
    """The mean colour of a part of the face box (x1, y1, x2, y2): the forehead and the eyes, clear of its edges."""
    x1, y1, x2, y2 = (int(side) for side in rect)
    rows = slice(y1 + (y2 - y1) * 15 // 100, y1 + (y2 - y1) * 40 // 100)
    columns = slice(x1 + (x2 - x1) * 20 // 100, x1 + (x2 - x1) * 80 // 100)
    colour: Colour = simplejpeg.decode_jpeg(jpeg)[rows, columns].mean(axis=(0, 1))
    return colour


def tinted(source: Colour, avatar_id: str) -> Colour:
    """The `face_colour` of a clone's frame, where that of its source is `source`."""
    colour: Colour = (1 - TINT) * source + TINT * np.array(clone_colour(avatar_id))
    return colour


def shows(avatar_id: str, jpeg: bytes, rect: Sequence[int] | NDArray[Any], source: Colour) -> bool:
    """Whether a frame was made from the clone's pack, and its face drawn by the clone's network.

    `source` is the `face_colour` of the source's frame: `source_colour`, or what the source gave for the same request.
    """
    off = np.abs(face_colour(jpeg, rect) - tinted(source, avatar_id)).max()
    return owner(jpeg) == avatar_id and bool(off <= TOLERANCE)
