"""Renders an avatar's idle frames: what its network draws while nobody speaks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compositor_backend.contract import AUDIO, AVATAR_KEY, FACE, MOUTH, pcm_samples
from compositor_backend.pack import AvatarPack
from compositor_backend.windows import frame_windows, network_audio, request_windows
from export.errors import ExportError
from export.served_graph import open_session

BATCH = 1
"""Frames that the network draws at a time: more take no less time each on a CPU, and 165 MB each."""


def silent_mouths(
    pack: AvatarPack, network: Path, encoder: Path | None, progress: Callable[[int], None] | None = None
) -> Iterator[NDArray[np.uint8]]:
    """The mouths of all template frames in order, uint8 [n,S,S,3] at a time, drawn to digital silence.

    `network` and `encoder` (None where the network takes mel) are the graphs that will be served; `progress` is called
    with the frames done so far. `ExportError` if the network's key is not the pack's: it would draw another's face.
    With silence in all of a request's window, every frame of every request hears the same, so that one picture for
    each template frame is enough, and it is the one that the model `avatar` would give.
    """
    audio = silent_audio(encoder, pack.manifest.audio_shape)
    session = open_session(network)
    for first in range(0, pack.frames, BATCH):
        template = np.arange(first, min(first + BATCH, pack.frames))
        inputs = {FACE.name: pack.faces[template], AUDIO.name: audio[: len(template)]}
        mouths, keys = session.run([MOUTH.name, AVATAR_KEY.name], inputs)
        if (keys != pack.manifest.network_key).any():
            raise ExportError(
                f"{network} gives {AVATAR_KEY.name} {keys.tolist()}; {pack.manifest.network_key} is wanted"
            )
        yield mouths
        if progress is not None:
            progress(first + len(template))


def silent_audio(encoder: Path | None, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The network's audio input float32 [`BATCH`, *shape] for silence; without an encoder, mel windows."""
    windows = request_windows(np.zeros(pcm_samples(BATCH), np.int16))
    if encoder is None:
        return frame_windows(windows, shape)
    (embedding,) = open_session(encoder).run(["EMBEDDING"], {"MEL": windows})
    return network_audio(np.asarray(embedding, np.float32), shape)
