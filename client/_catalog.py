"""What a server tells of its avatars."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compositor_backend import contract

PAGE = 1000


@dataclass(frozen=True)
class AvatarInfo:
    """An avatar on a server.

    `width` and `height` are the frames' in px, `frames` how many the template has at `fps` a second. `family` and
    `audio_mode` are the network's ("328", "160", "wav2lip-96" …; "ave", "hubert", "wenet", "mel"), `audio_shape` is
    what a frame of ready features must be. `takes_pcm`: it can be sent speech; `idle_frames`: it has frames of silence.
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


def page_inputs(offset: int) -> dict[str, NDArray[Any]]:
    """The tensors that ask the catalog for `PAGE` avatars from `offset` on."""
    return {
        contract.OFFSET.name: np.array([offset], np.int32),
        contract.LIMIT.name: np.array([PAGE], np.int32),
    }


def parse_entry(text: bytes) -> AvatarInfo:
    """An avatar from its JSON; what a newer server says beside it is left out."""
    value = json.loads(text)
    known = {field.name: value[field.name] for field in fields(AvatarInfo)}
    return AvatarInfo(**{**known, "audio_shape": tuple(value["audio_shape"])})
