"""The model `catalog`: which avatars there are, as the folder of avatars says at the moment."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

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
        self._known: dict[str, _Known] = {}

    def __call__(self, inputs: Mapping[str, NDArray[Any]], wanted: frozenset[str]) -> dict[str, NDArray[Any]]:
        """Answer one request; a `RequestError` says what is wrong with it."""
        if AVATAR.name in inputs:
            entries = [self._one(parse_avatar(inputs[AVATAR.name]))]
        else:
            offset = _number(inputs, OFFSET.name, 0, 0, 2**31 - 1)
            limit = _number(inputs, LIMIT.name, MAX_LIMIT, 1, MAX_LIMIT)
            entries = list(islice(self._all(), offset, offset + limit))
        found = np.empty(len(entries), object)
        found[:] = entries
        return {MANIFEST.name: found}

    def _one(self, avatar_id: str) -> bytes:
        try:
            return _entry(avatar_id, self._folder / avatar_id)
        except PackError as error:
            if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
                raise UnknownAvatarError(f"AVATAR {avatar_id!r} is not on this server") from None
            raise DamagedAvatarError(f"AVATAR {avatar_id!r} is damaged on this server") from error

    def _all(self) -> Iterator[bytes]:
        """Every avatar; folders that are none, or damaged ones, take no place in the count."""
        names = self._list()
        if len(self._known) > len(names):
            self._known = {name: self._known[name] for name in names if name in self._known}
        for avatar_id in names:
            entry = self._current(avatar_id)
            if entry is not None:
                yield entry

    def _list(self) -> list[str]:
        """Names in the folder that are ids, sorted."""
        with suppress(FileNotFoundError):
            return sorted(filter(AVATAR_ID_PATTERN.fullmatch, os.listdir(self._folder)))  # noqa: PTH208 - names alone
        return []

    def _current(self, avatar_id: str) -> bytes | None:
        """What a client is told of an avatar, None of what is none: read again only where the manifest is another."""
        path = f"{self._folder}/{avatar_id}/{MANIFEST_NAME}"
        try:
            status = os.stat(path)  # noqa: PTH116 - for thousands at a time
        except OSError:
            return None
        state = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        known = self._known.get(avatar_id)
        if known is None or known.state != state:
            entry = None
            with suppress(PackError):
                entry = _entry(avatar_id, self._folder / avatar_id)
            known = self._known[avatar_id] = _Known(state, entry)
        return known.entry


class _Known(NamedTuple):
    """A manifest's state on disk, and what it says: None if it is damaged."""

    state: tuple[int, ...]
    entry: bytes | None


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
