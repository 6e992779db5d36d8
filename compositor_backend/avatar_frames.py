"""The model `avatar_frames`: what an avatar's network looks at, for each frame of a request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compositor_backend.contract import (
    AUDIO,
    AVATAR,
    EMBEDDING,
    FACE,
    FEATURES,
    FRAME_INDEX,
    MEL,
    Tensor,
    check_audio,
    check_frame_index,
    parse_avatar,
)
from compositor_backend.errors import TensorError
from compositor_backend.pack import AvatarPack, PackCache
from compositor_backend.settings import Settings
from compositor_backend.timeline import template_frames
from compositor_backend.windows import frame_windows, network_audio, window_count


class AvatarFrames:
    """AVATAR, FRAME_INDEX and one of EMBEDDING, FEATURES and MEL in, FACE and AUDIO out, for any avatar."""

    def __init__(self, packs: PackCache) -> None:
        self._packs = packs

    @classmethod
    def from_settings(cls, settings: Settings) -> AvatarFrames:
        """With packs from the operator's folder, none open yet."""
        return cls(PackCache.from_settings(settings))

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Answers one request; a `RequestError` says what is wrong with it."""
        frame_index = check_frame_index(inputs[FRAME_INDEX.name])
        pack = self._packs.get(parse_avatar(inputs[AVATAR.name]))
        audio = _network_input(inputs, frame_index.size, pack.manifest.audio_shape)
        return {FACE.name: gather_faces(pack, template_frames(frame_index, pack.frames)), AUDIO.name: audio}


def gather_faces(pack: AvatarPack, template: NDArray[np.intp]) -> NDArray[np.uint8]:
    """What the network sees of each template frame [B]: uint8 [B, 3, S, S], RGB, planar; not to be written to.

    Frames that follow each other, as they do but at the timeline's turns, are handed out where they are mapped. If
    their file is changed before they are sent, the compositor finds the pack damaged, and no frame is made of them.
    """
    first, last = int(template[0]), int(template[-1])
    if last - first == len(template) - 1 and (np.diff(template) == 1).all():
        return pack.faces[first : last + 1]
    return pack.faces[template]


def _network_input(
    inputs: Mapping[str, NDArray[Any]], frames: int, shape: tuple[int, ...]
) -> NDArray[np.float32]:
    """The network's audio input [B, *shape] from whichever of EMBEDDING, FEATURES and MEL came."""
    came = [tensor.name for tensor in (EMBEDDING, FEATURES, MEL) if tensor.name in inputs]
    if len(came) != 1:
        raise TensorError(
            f"EMBEDDING, FEATURES and MEL: {' and '.join(came) or 'none'} came; exactly one of them is wanted"
        )
    if FEATURES.name in inputs:
        return check_audio(inputs[FEATURES.name], frames, shape)
    if MEL.name in inputs:
        return frame_windows(_check_rows(MEL, inputs[MEL.name], frames), shape)
    return network_audio(_check_rows(EMBEDDING, inputs[EMBEDDING.name], frames), shape)


def _check_rows(wanted: Tensor, tensor: NDArray[Any], frames: int) -> NDArray[np.float32]:
    """A tensor with a row for each window that the request's frames need."""
    shape = (window_count(frames), *wanted.shape[1:])
    if tensor.shape != shape:
        raise TensorError(
            f"{wanted.name} has shape {list(tensor.shape)}; {list(shape)} is wanted for {frames} frames"
        )
    if not np.isfinite(tensor).all():
        raise TensorError(f"{wanted.name} holds NaN or infinity; finite numbers are wanted")
    return tensor
