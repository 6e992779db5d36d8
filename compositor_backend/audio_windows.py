"""The model `audio_windows`: what an avatar's network hears, for each frame of a request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compositor_backend.contract import (
    AUDIO,
    AVATAR,
    AVATAR_ROWS,
    EMBEDDING,
    FEATURES,
    FRAME_INDEX,
    FRAME_INDEX_ROWS,
    MEL,
    RECT,
    check_audio,
    check_frame_index,
    parse_avatar,
    repeat_avatar,
)
from compositor_backend.errors import TensorError
from compositor_backend.manifest import Manifest
from compositor_backend.pack import BoxPack, PackCache
from compositor_backend.settings import Settings
from compositor_backend.timeline import template_frames
from compositor_backend.windows import frame_windows, network_audio, window_count


class AudioWindows:
    """AVATAR, FRAME_INDEX and either EMBEDDING or FEATURES in; AUDIO, AVATAR and FRAME_INDEX by row, and RECT out."""

    def __init__(self, packs: PackCache[BoxPack]) -> None:
        self._packs = packs

    @classmethod
    def from_settings(cls, settings: Settings) -> AudioWindows:
        """With packs from the operator's folder, none open yet."""
        return cls(PackCache.from_settings(settings, BoxPack))

    def __call__(self, inputs: Mapping[str, NDArray[Any]], wanted: frozenset[str]) -> dict[str, NDArray[Any]]:
        """Answer one request; a `RequestError` says what is wrong with it."""
        frame_index = check_frame_index(inputs[FRAME_INDEX.name])
        avatar_id = parse_avatar(inputs[AVATAR.name])
        pack = self._packs.get(avatar_id)
        return {
            AUDIO.name: _network_input(inputs, frame_index.size, pack.manifest),
            AVATAR_ROWS.name: repeat_avatar(avatar_id, frame_index.size),
            FRAME_INDEX_ROWS.name: frame_index[:, None],
            RECT.name: pack.rects[template_frames(frame_index, pack.frames)],
        }


def _network_input(
    inputs: Mapping[str, NDArray[Any]], frames: int, manifest: Manifest
) -> NDArray[np.float32]:
    """The network's audio input [B, *shape] from whichever of EMBEDDING and FEATURES came."""
    came = [tensor.name for tensor in (EMBEDDING, FEATURES) if tensor.name in inputs]
    if len(came) != 1:
        raise TensorError(
            f"expected either EMBEDDING or FEATURES, got {' and '.join(came) or 'none of them'}"
        )
    if FEATURES.name in inputs:
        return check_audio(inputs[FEATURES.name], frames, manifest.audio_shape)
    rows = _check_rows(inputs[EMBEDDING.name], frames)
    if manifest.takes_mel:
        return frame_windows(_as_mel(rows), manifest.audio_shape)
    return network_audio(rows, manifest.audio_shape)


def _check_rows(tensor: NDArray[Any], frames: int) -> NDArray[np.float32]:
    """EMBEDDING with a row for each window that the request's frames need."""
    if tensor.dtype != np.float32 or tensor.ndim != 2 or len(tensor) != window_count(frames):
        raise TensorError(
            f"expected EMBEDDING float32 [{window_count(frames)}, ·] for {frames} frames, "
            f"got {tensor.dtype} {list(tensor.shape)}"
        )
    if not np.isfinite(tensor).all():
        raise TensorError("EMBEDDING holds NaN or infinity; expected finite numbers")
    return tensor


def _as_mel(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    size = int(np.prod(MEL.shape[1:]))
    if rows.shape[1] != size:
        raise TensorError(f"expected EMBEDDING [·, {size}], a mel window a row, got {list(rows.shape)}")
    return rows.reshape(-1, *MEL.shape[1:])
