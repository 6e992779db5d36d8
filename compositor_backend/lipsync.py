"""The model `lipsync`: the networks that draw mouths, for any avatar."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compositor_backend.contract import (
    AUDIO,
    AVATAR_KEY,
    FACE,
    MOUTH,
    ROW_AVATAR,
    ROW_FRAME_INDEX,
    check_audio,
    check_frame_index,
    parse_avatar_rows,
)
from compositor_backend.graph_file import GraphFile
from compositor_backend.manifest import NETWORK, NETWORK_FP16
from compositor_backend.network_host import NetworkModel, Tensors, Work
from compositor_backend.onnx_runtime import Network
from compositor_backend.pack import FacePack, PackCache
from compositor_backend.timeline import template_frames


@dataclass(frozen=True)
class MouthWork(Work):
    """Mouths of one avatar: its pack, the template frames [B] and the audio float32 [B, …] of each."""

    pack: FacePack
    template: NDArray[np.intp]
    audio: NDArray[np.float32]


class Lipsync(NetworkModel[MouthWork]):
    """AVATAR, FRAME_INDEX and AUDIO in, MOUTH and AVATAR_KEY out.

    What a network sees of the face lies in the avatar's folder, and is handed to it where it is mapped.
    With `half_precision` an avatar's fp16 network is used where it has one.
    """

    def __init__(self, packs: PackCache[FacePack], *, half_precision: bool = False) -> None:
        self._packs = packs
        self._half_precision = half_precision

    def sample(self, avatar_id: str) -> dict[str, NDArray[Any]]:
        """See `NetworkModel`."""
        shape = self._packs.get(avatar_id).manifest.audio_shape
        return {
            ROW_AVATAR.name: np.array([[avatar_id.encode()]], object),
            ROW_FRAME_INDEX.name: np.zeros((1, 1), np.int32),
            AUDIO.name: np.zeros((1, *shape), np.float32),
        }

    def work(self, inputs: dict[str, NDArray[Any]]) -> MouthWork:
        """See `NetworkModel`; a `RequestError` says what is wrong with the request."""
        index = inputs[ROW_FRAME_INDEX.name]
        frame_index = check_frame_index(index[:, 0] if index.ndim == 2 else index)
        avatar_id = parse_avatar_rows(inputs[ROW_AVATAR.name], frame_index.size)
        pack = self._packs.get(avatar_id)
        audio = check_audio(inputs[AUDIO.name], frame_index.size, pack.manifest.audio_shape)
        return MouthWork(avatar_id, self._graph(pack), pack, template_frames(frame_index, pack.frames), audio)

    def compute(self, network: Network | None, works: Sequence[MouthWork]) -> list[Tensors]:
        """See `NetworkModel`: rows of several requests, and avatars, that share the network."""
        assert network is not None
        size_px, rows = works[0].pack.family.network_px, sum(len(work.template) for work in works)
        mouth = np.empty((rows, size_px, size_px, 3), np.uint8)
        keys = np.empty((rows, 1), np.int64)
        done = 0
        for face, audio in _pieces(works, network.rows):
            piece = slice(done, done + len(face))
            network.run(
                {FACE.name: face, AUDIO.name: audio}, {MOUTH.name: mouth[piece], AVATAR_KEY.name: keys[piece]}
            )
            done += len(face)
        return list(
            _split({MOUTH.name: mouth, AVATAR_KEY.name: keys}, [len(work.template) for work in works])
        )

    def _graph(self, pack: FacePack) -> GraphFile:
        half = self._half_precision and NETWORK_FP16 in pack.manifest.graphs
        return pack.graph(NETWORK_FP16 if half else NETWORK)


def _pieces(works: Sequence[MouthWork], rows: int) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
    """Faces uint8 [b,3,S,S] and audio of up to `rows` rows at a time, in order."""
    every = [(work, row) for work in works for row in range(len(work.template))]
    for first in range(0, len(every), rows):
        piece = every[first : first + rows]
        runs = [list(run) for _, run in itertools.groupby(piece, key=lambda entry: id(entry[0]))]
        faces = [_faces(run[0][0], slice(run[0][1], run[-1][1] + 1)) for run in runs]
        audio = [run[0][0].audio[run[0][1] : run[-1][1] + 1] for run in runs]
        if len(runs) == 1:
            yield faces[0], np.ascontiguousarray(audio[0])
        else:
            yield np.concatenate(faces), np.concatenate(audio)


def _faces(work: MouthWork, rows: slice) -> NDArray[np.uint8]:
    """Frames that follow each other, as they do but at the timeline's turns, are taken where they are mapped.

    If their file is changed before they are drawn, the compositor finds the pack damaged, and no frame is made of them.
    """
    template = work.template[rows]
    in_order = bool((np.diff(template) == 1).all())
    faces: NDArray[np.uint8] = work.pack.faces[slice(template[0], template[-1] + 1) if in_order else template]
    return faces


def _split(outputs: Mapping[str, NDArray[Any]], sizes: Sequence[int]) -> Iterator[Tensors]:
    ends = np.cumsum(sizes).tolist()
    for size, end in zip(sizes, ends, strict=True):
        yield {name: tensor[end - size : end] for name, tensor in outputs.items()}
