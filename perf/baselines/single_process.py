"""The way that most open systems work: one Python process, onnxruntime and OpenCV, frame after frame."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from compositor_backend import contract
from perf.baselines.float_graph import INPUT, OUTPUT, float_graph
from perf.baselines.material import Material

_WHITE = np.float32(255)


class SingleProcess:
    """An avatar's network and frames in this process.

    The same network in float32 by onnxruntime with its own choice of threads; the prediction goes into the 328 px
    crop, which is resized to the face box by OpenCV's bicubic filter and laid over it with a hard edge; OpenCV
    encodes the whole frame. Frames and crops lie in memory, decoded.
    """

    def __init__(
        self, served: Path, material: Material, batch: int = 1, threads: int = 0, gpu: bool = False
    ) -> None:
        """`served` is the graph of the wire contract, `batch` the frames of a run, `threads` 0 is all cores."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        graph = float_graph(served).SerializeToString()
        providers = [*(["CUDAExecutionProvider"] if gpu else []), "CPUExecutionProvider"]
        self._session = onnxruntime.InferenceSession(graph, options, providers=providers)
        self._material = material
        self._batch = batch
        self._backgrounds = material.frames[..., ::-1].copy()  # BGR, as OpenCV wants it
        self._crops = [self._crop(frame) for frame in range(len(material.rects))]

    def frames(self, template: Sequence[int], audio: NDArray[np.float32]) -> list[bytes]:
        """The JPEG of each template frame [B] with the mouth that the network draws to `audio` [B, …]."""
        jpegs = []
        for first in range(0, len(template), self._batch):
            part = slice(first, first + self._batch)
            inputs = {INPUT: self._visual(template[part]), contract.AUDIO.name: audio[part]}
            (drawn,) = self._session.run([OUTPUT], inputs)
            jpegs += [self._compose(*pair) for pair in zip(template[part], drawn, strict=True)]
        return jpegs

    def _visual(self, template: Sequence[int]) -> NDArray[np.float32]:
        x1, y1, x2, y2 = self._material.family.mask
        reference = self._material.faces[list(template)].astype(np.float32) / _WHITE
        masked = reference.copy()
        masked[:, :, y1:y2, x1:x2] = 0
        return np.concatenate([reference, masked], axis=1)

    def _compose(self, frame: int, drawn: NDArray[np.float32]) -> bytes:
        inner = self._material.family.inner
        crop = self._crops[frame].copy()
        crop[inner, inner] = (drawn[::-1].transpose(1, 2, 0) * _WHITE).astype(np.uint8)
        x1, y1, x2, y2 = self._material.rects[frame].tolist()
        picture = self._backgrounds[frame].copy()
        picture[y1:y2, x1:x2] = cv2.resize(crop, (x2 - x1, y2 - y1), interpolation=cv2.INTER_CUBIC)
        _, jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, self._material.quality])
        return jpeg.tobytes()

    def _crop(self, frame: int) -> NDArray[np.uint8]:
        x1, y1, x2, y2 = self._material.rects[frame].tolist()
        side = self._material.family.crop_px
        box = self._backgrounds[frame, y1:y2, x1:x2]
        return np.asarray(cv2.resize(box, (side, side), interpolation=cv2.INTER_CUBIC), np.uint8)
