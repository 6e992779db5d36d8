"""The model `compositor`: a network's mouths into finished JPEG frames."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from compositor_backend.blend import paste
from compositor_backend.contract import (
    AVATAR,
    AVATAR_KEY,
    FRAME_INDEX,
    JPEG,
    MOUTH,
    RECT,
    REGION,
    REGION_RECT,
    check_frame_index,
    parse_avatar,
)
from compositor_backend.errors import TensorError, WrongNetworkError
from compositor_backend.jpeg import encode
from compositor_backend.pack import AvatarPack, PackCache
from compositor_backend.settings import Settings
from compositor_backend.splice import Segments, alone, cut, splice
from compositor_backend.timeline import template_frames

STACKED_FRAMES = 8
"""Regions that are encoded as one picture: an encoder's start costs as much as a tenth of a region. More of them
gain little, and leave the processor's cache."""


class Compositor:
    """AVATAR, FRAME_INDEX, MOUTH and AVATAR_KEY in; JPEG, RECT, REGION and REGION_RECT out, for any avatar."""

    def __init__(self, packs: PackCache) -> None:
        self._packs = packs

    @classmethod
    def from_settings(cls, settings: Settings) -> Compositor:
        """A compositor with a cache of packs of its own."""
        return cls(PackCache.from_settings(settings))

    def __call__(self, inputs: Mapping[str, NDArray[Any]], wanted: frozenset[str]) -> dict[str, NDArray[Any]]:
        """Answer one request with the outputs in `wanted`; a `RequestError` says what is wrong with it."""
        frame_index = check_frame_index(inputs[FRAME_INDEX.name])
        avatar_id = parse_avatar(inputs[AVATAR.name])

        def answer(pack: AvatarPack) -> dict[str, NDArray[Any]]:
            template = template_frames(frame_index, pack.frames)
            drawn = draw(pack, template, inputs[MOUTH.name], inputs[AVATAR_KEY.name])
            return frame_outputs(pack, template, drawn, wanted)

        return self._packs.use(avatar_id, answer)


@dataclass(frozen=True, eq=False)
class DrawnRegion:
    """The region of a template frame, encoded: its segments in `segments`, from number `first` on."""

    pack: AvatarPack
    frame: int
    segments: Segments
    first: int

    def jpeg(self) -> bytes:
        """The whole frame, with the region in its place."""
        pack, frame = self.pack, self.frame
        region, offsets = pack.regions[frame], pack.scan_offsets[frame]
        return splice(pack.header, pack.grid, pack.scan, offsets, region, self.segments, self.first)

    def region_jpeg(self) -> bytes:
        """The region alone."""
        return alone(self.pack.header, self.pack.regions[self.frame], self.segments, self.first)


class Drawn(Protocol):
    """A frame that is drawn, and can be had whole or as its region."""

    def jpeg(self) -> bytes:
        """The whole frame."""
        ...

    def region_jpeg(self) -> bytes:
        """The region alone."""
        ...


def frame_outputs(
    pack: AvatarPack, template: NDArray[np.intp], drawn: Iterable[Drawn], wanted: frozenset[str]
) -> dict[str, NDArray[Any]]:
    """Those of JPEG, RECT, REGION and REGION_RECT that are `wanted`, of template frames [B] as they are drawn."""
    outputs: dict[str, NDArray[Any]] = {}
    jpegs, regions = JPEG.name in wanted, REGION.name in wanted
    if jpegs or regions:
        pairs = [(d.jpeg() if jpegs else b"", d.region_jpeg() if regions else b"") for d in drawn]
        for name, column in ((JPEG.name, 0), (REGION.name, 1)):
            outputs[name] = np.empty(len(pairs), object)
            outputs[name][:] = [pair[column] for pair in pairs]
    if RECT.name in wanted:
        outputs[RECT.name] = pack.rects[template]
    if REGION_RECT.name in wanted:
        boxes = [pack.regions[frame].box for frame in template.tolist()]
        outputs[REGION_RECT.name] = np.array(boxes, np.int32).reshape(-1, 4)
    return outputs


def draw(
    pack: AvatarPack, template: NDArray[np.intp], mouth: NDArray[Any], keys: NDArray[Any]
) -> Iterator[DrawnRegion]:
    """Each template frame [B] with its mouth (uint8 [B,S,S,3] RGB) in place, as it is encoded.

    `keys` [B,1] (int64) are the AVATAR_KEY of the network that drew the mouths; `WrongNetworkError` if it is
    not the avatar's own, `TensorError` if a dtype or shape is not what the avatar's family expects.
    """
    _check_mouth(mouth, len(template), pack.family.network_px)
    _check_keys(keys, len(template), pack)
    done = 0
    for run in stacked_runs(pack, template.tolist()):
        segments = region_segments(pack, run, mouth[done:])
        first = 0
        for frame in run:
            yield DrawnRegion(pack, frame, segments, first)
            first += pack.regions[frame].segments
        done += len(run)


def compose(
    pack: AvatarPack, template: NDArray[np.intp], mouth: NDArray[Any], keys: NDArray[Any]
) -> list[bytes]:
    """The JPEG of each template frame [B] with its mouth in place: see `draw`."""
    return [region.jpeg() for region in draw(pack, template, mouth, keys)]


def region_segments(pack: AvatarPack, run: Sequence[int], mouths: NDArray[np.uint8]) -> Segments:
    """The regions of template frames, each with its mouth (uint8 [S,S,3] RGB) in place, encoded as one picture.

    They lie one below the other, so they must be equally wide, and all but the last whole MCUs high; each frame's
    segments are then what they would be alone.
    """
    regions = [pack.regions[frame] for frame in run]
    pixels = np.empty((sum(region.height for region in regions), regions[0].width, 3), np.uint8)
    top = 0
    for frame, region, mouth in zip(run, regions, mouths, strict=False):
        x1, y1, x2, y2 = pack.rects[frame].tolist()
        place = pixels[top : top + region.height]
        place[:] = pack.region_pixels(frame)
        box = place[y1 - region.y1 : y2 - region.y1, x1 - region.x1 : x2 - region.x1]
        paste(box, mouth, pack.family, pack.manifest.blend)
        top += region.height
    return cut(pack.header, encode(pixels, pack.jpeg_settings))


def stacked_runs(pack: AvatarPack, template: Sequence[int]) -> Iterator[list[int]]:
    """Neighbouring frames whose regions can be encoded as one picture, up to `STACKED_FRAMES` of them."""
    run: list[int] = []
    for frame in template:
        if run and not (len(run) < STACKED_FRAMES and _stackable(pack, run[-1], frame)):
            yield run
            run = []
        run.append(frame)
    if run:
        yield run


def _stackable(pack: AvatarPack, above: int, below: int) -> bool:
    over, under = pack.regions[above], pack.regions[below]
    return over.width == under.width and over.height % pack.grid.mcu_height == 0


def _check_mouth(mouth: NDArray[Any], frames: int, size_px: int) -> None:
    wanted = (frames, size_px, size_px, 3)
    if mouth.dtype != np.uint8 or mouth.shape != wanted:
        raise TensorError(
            f"expected {MOUTH.name} uint8 {list(wanted)}, got {mouth.dtype} {list(mouth.shape)}"
        )


def _check_keys(keys: NDArray[Any], frames: int, pack: AvatarPack) -> None:
    if keys.dtype != np.int64 or keys.shape != (frames, 1):
        raise TensorError(
            f"expected {AVATAR_KEY.name} int64 {[frames, 1]}, got {keys.dtype} {list(keys.shape)}"
        )
    wanted = pack.manifest.network_key
    wrong = keys[keys != wanted]
    if wrong.size:
        raise WrongNetworkError(
            f"expected {AVATAR_KEY.name} {wanted}, got {wrong[0]}: "
            f"the mouth was not drawn by the network of {pack.manifest.id!r}"
        )
