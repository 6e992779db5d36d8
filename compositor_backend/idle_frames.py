"""The model `idle_frames`: an avatar that nobody speaks through. No network runs; bytes are joined."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from compositor_backend.compositor import Makers, as_boxes, as_bytes, made
from compositor_backend.contract import (
    AVATAR,
    AVATAR_KEY,
    FRAME_INDEX,
    JPEG,
    RECT,
    REGION,
    REGION_RECT,
    check_frame_index,
    parse_avatar,
)
from compositor_backend.errors import NoIdleFramesError, WrongNetworkError
from compositor_backend.pack import AvatarPack, PackCache
from compositor_backend.settings import Settings
from compositor_backend.splice import alone
from compositor_backend.timeline import template_frames


class IdleFrames:
    """AVATAR and FRAME_INDEX in; JPEG, RECT, REGION and REGION_RECT out: what `avatar` gives to silence."""

    def __init__(self, packs: PackCache[AvatarPack]) -> None:
        self._packs = packs

    @classmethod
    def from_settings(cls, settings: Settings) -> IdleFrames:
        """With packs from the operator's folder, none open yet."""
        return cls(PackCache.from_settings(settings, AvatarPack))

    def __call__(self, inputs: Mapping[str, NDArray[Any]], wanted: frozenset[str]) -> dict[str, NDArray[Any]]:
        """Answer one request with the outputs in `wanted`; a `RequestError` says what is wrong with it.

        Rectangles can be had of an avatar without idle frames, too.
        """
        frame_index = check_frame_index(inputs[FRAME_INDEX.name])

        def answer(pack: AvatarPack) -> dict[str, NDArray[Any]]:
            if wanted & {JPEG.name, REGION.name}:
                _check_drawn_by_its_network(pack)
            template = template_frames(frame_index, pack.frames)
            frames = template.tolist()
            makers: Makers = {
                JPEG.name: lambda: as_bytes([pack.idle_jpeg(frame) for frame in frames]),
                RECT.name: lambda: pack.rects[template],
                REGION.name: lambda: as_bytes([_idle_region(pack, frame) for frame in frames]),
                REGION_RECT.name: lambda: as_boxes(pack.regions[frame] for frame in frames),
            }
            return made(makers, wanted)

        return self._packs.use(parse_avatar(inputs[AVATAR.name]), answer)


def _idle_region(pack: AvatarPack, frame: int) -> bytes:
    """The segments that idle frames differ by: they hold all that a mouth may change, and up to three MCUs more."""
    return alone(pack.header, pack.regions[frame], pack.idle_segments(frame))


def _check_drawn_by_its_network(pack: AvatarPack) -> None:
    """No network runs that could give an AVATAR_KEY: the one that drew the idle frames left its own in the manifest."""
    manifest = pack.manifest
    if not pack.has_idle:
        raise NoIdleFramesError(f"AVATAR {manifest.id!r} has no idle frames: it has no audio encoder")
    if manifest.idle_key != manifest.network_key:
        raise WrongNetworkError(
            f"expected {AVATAR_KEY.name} {manifest.network_key}, got {manifest.idle_key}: "
            f"the idle frames were not drawn by the network of {manifest.id!r}"
        )
