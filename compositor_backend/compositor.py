"""The model `compositor`: a network's mouths into finished JPEG frames, or into their changed parts alone."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

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
from compositor_backend.geometry import Region
from compositor_backend.jpeg import encode, read_header
from compositor_backend.pack import AvatarPack, PackCache
from compositor_backend.settings import Settings
from compositor_backend.splice import Segments, alone, cut, splice
from compositor_backend.timeline import template_frames

STACKED_FRAMES = 8
"""Regions that are encoded as one picture: an encoder's start costs as much as a tenth of a region. More of them
gain little, and leave the processor's cache."""


class Compositor:
    """AVATAR, FRAME_INDEX, MOUTH and AVATAR_KEY in; JPEG, RECT, REGION and REGION_RECT out, for any avatar."""

    def __init__(self, packs: PackCache[AvatarPack]) -> None:
        self._packs = packs

    @classmethod
    def from_settings(cls, settings: Settings) -> Compositor:
        """A compositor with a cache of packs of its own."""
        return cls(PackCache.from_settings(settings, AvatarPack))

    def __call__(self, inputs: Mapping[str, NDArray[Any]], wanted: frozenset[str]) -> dict[str, NDArray[Any]]:
        """Answer one request with the outputs in `wanted`; a `RequestError` says what is wrong with it."""
        frame_index = check_frame_index(inputs[FRAME_INDEX.name])
        avatar_id = parse_avatar(inputs[AVATAR.name])
        mouth, keys = inputs[MOUTH.name], inputs[AVATAR_KEY.name]

        def answer(pack: AvatarPack) -> dict[str, NDArray[Any]]:
            template = template_frames(frame_index, pack.frames)
            _check(pack, len(template), mouth, keys)
            makers: Makers = {
                JPEG.name: lambda: as_bytes(compose(pack, template, mouth, keys)),
                RECT.name: lambda: pack.rects[template],
                REGION.name: lambda: as_bytes(compose_regions(pack, template, mouth, keys)),
                REGION_RECT.name: lambda: as_boxes(
                    changed_region(pack, frame) for frame in template.tolist()
                ),
            }
            return made(makers, wanted)

        return self._packs.use(avatar_id, answer)


Makers = Mapping[str, Callable[[], NDArray[Any]]]
"""How each output is made."""


def made(makers: Makers, wanted: frozenset[str]) -> dict[str, NDArray[Any]]:
    """Those of the outputs that are wanted; the others cost nothing."""
    return {name: make() for name, make in makers.items() if name in wanted}


def as_bytes(rows: Sequence[bytes]) -> NDArray[Any]:
    """A BYTES tensor, object [B]."""
    tensor = np.empty(len(rows), object)
    tensor[:] = rows
    return tensor


def as_boxes(regions: Iterable[Region]) -> NDArray[np.int32]:
    """A REGION_RECT tensor, int32 [B,4]."""
    return np.array([region.box for region in regions], np.int32).reshape(-1, 4)


def compose(
    pack: AvatarPack, template: NDArray[np.intp], mouth: NDArray[Any], keys: NDArray[Any]
) -> list[bytes]:
    """The JPEG of each template frame [B] with its mouth (uint8 [B,S,S,3] RGB) in place.

    `keys` [B,1] (int64) are the AVATAR_KEY of the network that drew the mouths; `WrongNetworkError` if it is
    not the avatar's own, `TensorError` if a dtype or shape is not what the avatar's family expects.
    """
    _check(pack, len(template), mouth, keys)
    jpegs: list[bytes] = []
    for run in stacked_runs(pack, template.tolist()):
        segments, first = region_segments(pack, run, mouth[len(jpegs) :]), 0
        for frame in run:
            region, offsets = pack.regions[frame], pack.scan_offsets[frame]
            jpegs.append(splice(pack.header, pack.grid, pack.scan, offsets, region, segments, first))
            first += region.segments
    return jpegs


def compose_regions(
    pack: AvatarPack, template: NDArray[np.intp], mouth: NDArray[Any], keys: NDArray[Any]
) -> list[bytes]:
    """The JPEG of each frame's `changed_region` alone; as `compose` otherwise.

    It is encoded apart from whole frames, and not cut out of them: those exchange whole segments, which reach up to
    three MCUs further on either side and end in a marker each. In the demo that makes 9 % of a frame's bytes, and not
    13 %. A JPEG's blocks do not depend on their neighbours, so that the pixels are the same.
    """
    _check(pack, len(template), mouth, keys)
    frames, jpegs = template.tolist(), list[bytes]()
    for run in _stackable([changed_region(pack, frame) for frame in frames], pack.grid.mcu_height):
        done = slice(len(jpegs), len(jpegs) + len(run))
        jpegs += _encode_apart(pack, run, _draw(pack, frames[done], run, mouth[done]))
    return jpegs


def changed_region(pack: AvatarPack, frame: int) -> Region:
    """What a mouth may change of a template frame: the face box, grown to whole MCUs."""
    x1, y1, x2, y2 = pack.rects[frame].tolist()
    return pack.grid.mcu_region((x1, y1, x2, y2))


def region_segments(pack: AvatarPack, run: Sequence[int], mouths: NDArray[np.uint8]) -> Segments:
    """The regions of template frames, each with its mouth (uint8 [S,S,3] RGB) in place, encoded as one picture.

    They lie one below the other, so they must be equally wide, and all but the last whole MCUs high; each frame's
    segments are then what they would be alone.
    """
    pixels = _draw(pack, run, [pack.regions[frame] for frame in run], mouths)
    return cut(pack.header, encode(pixels, pack.jpeg_settings))


def stacked_runs(pack: AvatarPack, template: Sequence[int]) -> Iterator[list[int]]:
    """Neighbouring frames whose regions can be encoded as one picture, up to `STACKED_FRAMES` of them."""
    frames = iter(template)
    for run in _stackable([pack.regions[frame] for frame in template], pack.grid.mcu_height):
        yield [next(frames) for _ in run]


def _stackable(regions: Iterable[Region], mcu_height: int) -> Iterator[list[Region]]:
    """Neighbours of one width, all but the last of each run whole MCUs high, up to `STACKED_FRAMES` of them."""
    run: list[Region] = []
    for region in regions:
        fits = run and run[-1].width == region.width and run[-1].height % mcu_height == 0
        if run and not (fits and len(run) < STACKED_FRAMES):
            yield run
            run = []
        run.append(region)
    if run:
        yield run


def _draw(
    pack: AvatarPack, frames: Sequence[int], regions: Sequence[Region], mouths: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Pixels of template frames in regions that hold their face boxes, one below the other, with the mouths pasted."""
    pixels = np.empty((sum(region.height for region in regions), regions[0].width, 3), np.uint8)
    top = 0
    for frame, region, mouth in zip(frames, regions, mouths, strict=False):
        place = pixels[top : top + region.height]
        place[:] = region.within(pack.regions[frame], pack.region_pixels(frame))
        x1, y1, x2, y2 = pack.rects[frame].tolist()
        box = place[y1 - region.y1 : y2 - region.y1, x1 - region.x1 : x2 - region.x1]
        paste(box, mouth, pack.family, pack.manifest.blend)
        top += region.height
    return pixels


def _encode_apart(pack: AvatarPack, regions: Sequence[Region], pixels: NDArray[np.uint8]) -> Iterator[bytes]:
    """A JPEG of each region, from pixels in which they lie one below the other: a restart marker ends each row."""
    interval = math.ceil(regions[0].width / pack.grid.mcu_width)
    jpeg = encode(pixels, dataclasses.replace(pack.jpeg_settings, restart_interval=interval))
    header = read_header(jpeg)
    segments, first = cut(header, jpeg), 0
    for region in regions:
        yield alone(header, region, segments, first)
        first += region.segments


def _check(pack: AvatarPack, frames: int, mouth: NDArray[Any], keys: NDArray[Any]) -> None:
    _check_mouth(mouth, frames, pack.family.network_px)
    _check_keys(keys, frames, pack)


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
