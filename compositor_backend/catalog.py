"""The model `catalog`: which avatars there are, as the folder of avatars says at the moment."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compositor_backend.contract import AVATAR, AVATAR_ID_PATTERN, LIMIT, MANIFEST, OFFSET, parse_avatar
from compositor_backend.errors import DamagedAvatarError, PackError, TensorError, UnknownAvatarError
from compositor_backend.manifest import IDLE_FILES, MANIFEST_NAME, Manifest

MAX_LIMIT = 1000


class Catalog:
    """AVATAR, or OFFSET and LIMIT, in; MANIFEST out: a JSON object for each avatar, in the order of their ids."""

    def __init__(self, avatars_folder: Path) -> None:
        self._folder = avatars_folder

    def __call__(self, inputs: Mapping[str, NDArray[Any]], wanted: frozenset[str]) -> dict[str, NDArray[Any]]:
        """Answer one request; a `RequestError` says what is wrong with it."""
        if AVATAR.name in inputs:
            entries = [self._one(parse_avatar(inputs[AVATAR.name]))]
        else:
            offset = _number(inputs, OFFSET.name, 0, 0, 2**31 - 1)
            entries = self._page(offset, _number(inputs, LIMIT.name, MAX_LIMIT, 1, MAX_LIMIT))
        found = np.empty(len(entries), object)
        found[:] = entries
        return {MANIFEST.name: found}

    def _one(self, avatar_id: str) -> bytes:
        folder = self._folder / avatar_id
        if not (folder / MANIFEST_NAME).is_file():
            raise UnknownAvatarError(f"AVATAR {avatar_id!r} is not on this server")
        try:
            return _entry(avatar_id, folder)
        except PackError as error:
            raise DamagedAvatarError(f"AVATAR {avatar_id!r} is damaged on this server") from error

    def _page(self, offset: int, limit: int) -> list[bytes]:
        """Folders that are no avatars, or damaged ones, take no place in the count."""
        found: list[bytes] = []
        skipped = 0
        for avatar_id in self._list():
            folder = self._folder / avatar_id
            if skipped < offset:
                skipped += (folder / MANIFEST_NAME).is_file()
                continue
            with suppress(PackError):
                found.append(_entry(avatar_id, folder))
            if len(found) == limit:
                break
        return found

    def _list(self) -> list[str]:
        """Names in the folder that are ids, sorted."""
        with suppress(OSError):
            return sorted(
                path.name for path in self._folder.iterdir() if AVATAR_ID_PATTERN.fullmatch(path.name)
            )
        return []


def _entry(avatar_id: str, folder: Path) -> bytes:
    """What a client is told of an avatar; `PackError` if its manifest is none, or another avatar's."""
    manifest = Manifest.load(folder)
    if manifest.id != avatar_id:
        raise PackError(f"{folder / MANIFEST_NAME} is of the avatar {manifest.id!r}, not {avatar_id!r}")
    return json.dumps(
        {
            "id": manifest.id,
            "width": manifest.width,
            "height": manifest.height,
            "fps": manifest.fps,
            "frames": manifest.frames,
            "family": manifest.family,
            "audio_mode": manifest.audio_mode,
            "audio_shape": manifest.audio_shape,
            "takes_pcm": manifest.takes_pcm,
            "idle_frames": IDLE_FILES[0] in manifest.files,
        }
    ).encode()


def _number(inputs: Mapping[str, NDArray[Any]], name: str, default: int, least: int, most: int) -> int:
    tensor = inputs.get(name)
    if tensor is None:
        return default
    if tensor.dtype != np.int32 or tensor.shape != (1,):
        raise TensorError(f"expected {name} int32 [1], got {tensor.dtype} {list(tensor.shape)}")
    if not least <= tensor[0] <= most:
        raise TensorError(f"expected {name} {least} to {most}, got {tensor[0]}")
    return int(tensor[0])
