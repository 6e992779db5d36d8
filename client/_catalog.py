"""What a server's catalog says of its avatars."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.errors import ServerFaultError
from compositor_backend import contract
from compositor_backend.timeline import template_frames

PAGE = 1000


@dataclass(frozen=True)
class AvatarInfo:
    """An avatar on a server.

    - `width`, `height`: Of its frames, in px.
    - `fps`, `frames`: Of its template, the recording that its frames are made of.
    - `family`, `audio_mode`: Of its network: "328", "160", "wav2lip-96" …; "ave", "hubert", "wenet", "mel".
    - `audio_shape`: Of one frame's ready audio features.
    - `takes_pcm`: Whether it can be sent speech; else it takes ready features only.
    - `idle_frames`: Whether it has frames of silence, which need no network.
    """

    id: str
    width: int
    height: int
    fps: int
    frames: int
    family: str
    audio_mode: str
    audio_shape: tuple[int, ...]
    takes_pcm: bool
    idle_frames: bool

    def template_index(self, index: int) -> int:
        """The template frame, 0 to `frames` - 1, that is shown at a position of the timeline (`Frame.index`).

        A `Frame.region` fits any picture of the same template frame.
        """
        return int(template_frames(np.array([index], np.int32), self.frames)[0])


def one_inputs(avatar: str) -> dict[str, NDArray[Any]]:
    """The tensors that ask the catalog for one avatar."""
    return {contract.AVATAR.name: np.array([avatar.encode()], object)}


def page_inputs(offset: int) -> dict[str, NDArray[Any]]:
    """The tensors that ask the catalog for `PAGE` avatars from `offset` on."""
    return {
        contract.OFFSET.name: np.array([offset], np.int32),
        contract.LIMIT.name: np.array([PAGE], np.int32),
    }


def parse_entry(text: bytes, url: str) -> AvatarInfo:
    """An avatar from its JSON; keys that this client does not know are left out. `url` is for the error."""
    try:
        value = json.loads(text)
        known = {field.name: value[field.name] for field in fields(AvatarInfo)}
        return AvatarInfo(**{**known, "audio_shape": tuple(value["audio_shape"])})
    except (ValueError, KeyError, TypeError) as error:
        raise ServerFaultError(
            f"the catalog of Triton at {url} is not of this version: {error!r} in {text[:80]!r}", url=url
        ) from error
