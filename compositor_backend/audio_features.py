"""The model `audio_features`: a request's samples to the mel windows that the audio encoder takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compositor_backend.contract import (
    AVATAR,
    AVATAR_ROWS,
    FRAME_INDEX,
    MEL,
    PCM,
    check_frame_index,
    check_pcm,
    parse_avatar,
    pcm_samples,
    repeat_avatar,
)
from compositor_backend.windows import request_windows


class AudioFeatures:
    """AVATAR, FRAME_INDEX and PCM in; MEL float32 [B + 15, 1, 80, 16], and AVATAR for each of its rows, out.

    Of FRAME_INDEX only the length counts.
    """

    def __init__(self) -> None:
        # The first call makes window and filterbank: better now than in someone's first request.
        request_windows(np.zeros(pcm_samples(1), np.int16))

    def __call__(self, inputs: Mapping[str, NDArray[Any]], wanted: frozenset[str]) -> dict[str, NDArray[Any]]:
        """Answer one request; a `RequestError` says what is wrong with it."""
        frames = check_frame_index(inputs[FRAME_INDEX.name]).size
        avatar_id = parse_avatar(inputs[AVATAR.name])
        mel = request_windows(check_pcm(inputs[PCM.name], frames))
        return {MEL.name: mel, AVATAR_ROWS.name: repeat_avatar(avatar_id, len(mel))}
