"""The model `audio_encoder`: mel windows to embeddings, by the encoder that the avatar's network was trained with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compositor_backend.contract import (
    EMBEDDING,
    EMBEDDING_SIZE,
    MEL,
    ROW_AVATAR,
    check_mel,
    parse_avatar_rows,
)
from compositor_backend.errors import NoSpeechError
from compositor_backend.manifest import ENCODER
from compositor_backend.network_host import NetworkModel, Tensors, Work
from compositor_backend.onnx_runtime import Network
from compositor_backend.pack import AvatarFolder, PackCache


@dataclass(frozen=True)
class WindowWork(Work):
    """Mel windows float32 [M, 1, 80, 16] of one request."""

    mel: NDArray[np.float32]


class AudioEncoder(NetworkModel[WindowWork]):
    """AVATAR and MEL in, EMBEDDING out: [M, 512], or for a network that takes mel itself the windows as they came."""

    def __init__(self, packs: PackCache[AvatarFolder]) -> None:
        self._packs = packs

    def sample(self, avatar_id: str) -> dict[str, NDArray[Any]]:
        """See `NetworkModel`."""
        mel = np.zeros((1, *MEL.shape[1:]), np.float32)
        return {ROW_AVATAR.name: np.array([[avatar_id.encode()]], object), MEL.name: mel}

    def work(self, inputs: dict[str, NDArray[Any]]) -> WindowWork:
        """See `NetworkModel`; a `RequestError` says what is wrong with the request."""
        mel = check_mel(inputs[MEL.name])
        avatar_id = parse_avatar_rows(inputs[ROW_AVATAR.name], len(mel))
        pack = self._packs.get(avatar_id)
        if pack.manifest.takes_mel:
            return WindowWork(avatar_id, None, mel)
        if ENCODER not in pack.manifest.graphs:
            raise NoSpeechError(
                f"AVATAR {avatar_id!r} takes ready audio features, not speech: ask avatar_from_features"
            )
        return WindowWork(avatar_id, pack.graph(ENCODER), mel)

    def compute(self, network: Network | None, works: Sequence[WindowWork]) -> list[Tensors]:
        """See `NetworkModel`: windows of several requests, and avatars, that share the encoder."""
        if network is None:
            return [{EMBEDDING.name: work.mel.reshape(len(work.mel), -1)} for work in works]
        mel = works[0].mel if len(works) == 1 else np.concatenate([work.mel for work in works])
        mel = np.ascontiguousarray(mel)
        embedding = np.empty((len(mel), EMBEDDING_SIZE), np.float32)
        for first in range(0, len(mel), network.rows):
            piece = slice(first, first + network.rows)
            network.run({MEL.name: mel[piece]}, {EMBEDDING.name: embedding[piece]})
        ends = np.cumsum([len(work.mel) for work in works]).tolist()
        return [
            {EMBEDDING.name: embedding[end - len(work.mel) : end]}
            for work, end in zip(works, ends, strict=True)
        ]
