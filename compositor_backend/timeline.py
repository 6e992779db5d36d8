"""From a position on an avatar's endless timeline to a template frame."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def template_frames(frame_index: NDArray[np.int32], count: int) -> NDArray[np.intp]:
    """The template frame [B] shown at each position of `frame_index` [B] (≥ 0), `count` ≥ 1 frames given.

    Ping-pong, so that the loop has no jump: 0 … N-1, N-2 … 1, and again, with period 2·(N-1).
    A single frame repeats.
    """
    period = max(1, 2 * (count - 1))
    position = frame_index.astype(np.intp) % period
    return np.minimum(position, period - position)
