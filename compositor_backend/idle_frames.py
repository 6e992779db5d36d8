"""The model `idle_frames`: an avatar that nobody speaks through. No network runs; bytes are joined."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compositor_backend.contract import (
    AVATAR,
    AVATAR_KEY,
    FRAME_INDEX,
    JPEG,
    RECT,
    check_frame_index,
    parse_avatar,
)
from compositor_backend.errors import NoIdleFramesError, WrongNetworkError
from compositor_backend.pack import AvatarPack, PackCache
from compositor_backend.settings import Settings
from compositor_backend.timeline import template_frames


class IdleFrames:
    """AVATAR and FRAME_INDEX in, JPEG and RECT out: what the avatar's ensemble gives to silence, byte for byte."""

    def __init__(self, packs: PackCache) -> None:
        self._packs = packs

    @classmethod
    def from_settings(cls, settings: Settings) -> IdleFrames:
        """With packs from the operator's folder, none open yet."""
        return cls(PackCache.from_settings(settings))

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Answer one request; a `RequestError` says what is wrong with it."""
        frame_index = check_frame_index(inputs[FRAME_INDEX.name])
        return self._packs.use(parse_avatar(inputs[AVATAR.name]), lambda pack: _answer(pack, frame_index))


def _answer(pack: AvatarPack, frame_index: NDArray[np.int32]) -> dict[str, NDArray[Any]]:
    _check_drawn_by_its_network(pack)
    template = template_frames(frame_index, pack.frames)
    jpeg = np.empty(len(template), object)
    jpeg[:] = [pack.idle_jpeg(frame) for frame in template.tolist()]
    return {JPEG.name: jpeg, RECT.name: pack.rects[template]}


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
