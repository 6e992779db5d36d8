"""The model `audio_features`: a request's samples to the mel windows that the audio encoder takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compositor_backend.contract import FRAME_INDEX, MEL, PCM, check_frame_index, check_pcm, pcm_samples
from compositor_backend.windows import request_windows


class AudioFeatures:
    """PCM and FRAME_INDEX in, MEL float32 [B + 15, 1, 80, 16] out; of FRAME_INDEX only the length counts."""

    def __init__(self) -> None:
        # The first call makes window and filterbank: better now than in someone's first request.
        request_windows(np.zeros(pcm_samples(1), np.int16))

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Answers one request; `TensorError` says what is wrong with it."""
        frames = check_frame_index(inputs[FRAME_INDEX.name]).size
        return {MEL.name: request_windows(check_pcm(inputs[PCM.name], frames))}
