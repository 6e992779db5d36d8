"""The seed's architecture: Triton holds the U-Net and nothing else, a client does all the rest."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import cv2
import numpy as np
import onnx
from numpy.typing import NDArray

from client import Transport
from compositor_backend import contract
from compositor_backend.blend import paste
from compositor_backend.contract import Model, Tensor
from compositor_backend.geometry import FAMILIES
from export.served_graph import inspect_network
from perf.baselines.float_graph import INPUT, OUTPUT, BaselineError, float_graph, float_model
from perf.baselines.material import Material
from perf.baselines.whole_jpeg import WholeJpegEncoder

PREFIX = "separated_"
INFER_WITHIN_S = 60.0
_WHITE = np.float32(255)
_Result = TypeVar("_Result")


def separated_name(avatar_id: str) -> str:
    """Triton's name of the avatar's U-Net that takes and gives floats."""
    return PREFIX + contract.check_avatar_id(avatar_id)


def build_separated(repository: Path, avatars: Path, avatar_id: str) -> Path:
    """Write ``separated_<id>``, the network of the avatar in `avatars`, into a model repository of its own; its folder.

    It is batched as `lipsync` is, and computed by the same runtime. One that is there is written anew.
    """
    served = avatars / contract.check_avatar_id(avatar_id) / "network.onnx"
    if not served.is_file():
        raise BaselineError(f"there is no {served}; an avatar with a network is needed")
    network = inspect_network(served)
    model = float_model(separated_name(avatar_id), FAMILIES[network.family].network_px, network.audio_shape)
    shutil.rmtree(repository, ignore_errors=True)
    folder = repository / model.name
    (folder / "1").mkdir(parents=True)
    onnx.save(float_graph(served), str(folder / "1" / "model.onnx"))
    (folder / "1" / "model.py").write_text(_MODEL_PY, encoding="utf-8")
    (folder / "config.pbtxt").write_text(_config(model), encoding="utf-8")
    return folder


_MODEL_PY = '''"""The network alone: floats in, floats out, for whoever does the rest."""

from perf.baselines.separated_model import SeparatedModel as TritonPythonModel  # noqa: F401
'''


def _config(model: Model) -> str:
    def tensors(given: Sequence[Tensor]) -> str:
        lines = (
            f'{{ name: "{t.name}" data_type: {t.config_dtype} dims: {list(t.shape[1:])} }}' for t in given
        )
        return ", ".join(lines)

    return (
        f'name: "{model.name}" backend: "python" max_batch_size: {contract.MAX_FRAMES}\n'
        f"input [ {tensors(model.inputs)} ] output [ {tensors(model.outputs)} ]\n"
        "dynamic_batching {} instance_group [ { count: 1 kind: KIND_CPU } ]\n"
    )


class SeparatedClient:
    """The seed's compositing server, written as well as we can, in front of a Triton that holds only the U-Net.

    What it has of the seed ("Performance Analysis - Separated Architecture"): all background frames and face crops
    lie decoded in memory; a batch is sent as float32 [B,6,S,S] over one gRPC connection that stays open, with
    room for large messages; [B,3,S,S] comes back; frames are composited in parallel, one thread for each core, into
    buffers that are used again; whole frames are encoded by libjpeg-turbo. No shared memory between client and
    server, which the seed ruled out and two machines cannot have.

    What it has beyond the seed, so that only the architecture differs: the transport, the resampling, the paste and
    the encoder are Lipstream's own, and floats become bytes in one pass. Colours are RGB throughout, since the served
    network's weights are turned to it. The visual input is computed from the crops for each batch, as in the seed:
    copying it ready-made takes as long (0.18 ms a frame where this was written), and keeping it 2.46 MB a frame.
    """

    def __init__(
        self, transport: Transport, model: str, material: Material, threads: int | None = None
    ) -> None:
        """`model` is the name that `separated_name` gives; the transport is closed with the client."""
        self._transport = transport
        self._model = model
        self._material = material
        self._pool = ThreadPoolExecutor(threads or len(os.sched_getaffinity(0)), "separated")
        self._encode = WholeJpegEncoder(material.quality, material.subsampling)
        self._own = threading.local()

    async def frames(self, template: Sequence[int], audio: NDArray[np.float32]) -> list[bytes]:
        """The JPEG of each template frame [B] with the mouth that the network draws to `audio` [B, …]."""
        drawn = await self.draw(template, audio)
        return await self._in_threads(self.compose, template, drawn)

    async def draw(self, template: Sequence[int], audio: NDArray[np.float32]) -> NDArray[np.float32]:
        """What the network draws, float32 [B,3,S,S] RGB in 0…1."""
        side = self._material.family.network_px
        visual = np.empty((len(template), 6, side, side), np.float32)
        await self._in_threads(self._fill, template, visual)
        inputs = {INPUT: visual, contract.AUDIO.name: audio}
        return (await self._transport.infer(self._model, inputs, [OUTPUT], INFER_WITHIN_S))[OUTPUT]

    def compose(self, frame: int, drawn: NDArray[np.float32]) -> bytes:
        """The JPEG of a template frame with what the network drew, float32 [3,S,S], in place."""
        background = self._material.frames[frame]
        picture: NDArray[np.uint8] = self._buffer("picture", background.shape)
        np.copyto(picture, background)
        x1, y1, x2, y2 = self._material.rects[frame].tolist()
        paste(picture[y1:y2, x1:x2], self._mouth(drawn), self._material.family, self._material.blend)
        return self._encode(picture)

    async def close(self) -> None:
        """Close the connection and end the threads."""
        await self._transport.close()
        self._pool.shutdown()

    async def __aenter__(self) -> SeparatedClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _fill(self, frame: int, visual: NDArray[np.float32]) -> None:
        """The network's visual input of a template frame, into `visual` [6,S,S]."""
        x1, y1, x2, y2 = self._material.family.mask
        np.divide(self._material.faces[frame], _WHITE, out=visual[:3])
        visual[3:] = visual[:3]
        visual[3:, y1:y2, x1:x2] = 0

    def _mouth(self, drawn: NDArray[np.float32]) -> NDArray[np.uint8]:
        side = self._material.family.network_px
        planes = self._buffer("planes", (3, side, side))
        np.multiply(drawn, _WHITE, out=planes, casting="unsafe")
        # Six times as fast as numpy's own change of the order.
        return np.asarray(cv2.merge(list(planes), self._buffer("mouth", (side, side, 3))))

    def _buffer(self, name: str, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """A buffer of that name that only the calling thread uses."""
        found: NDArray[np.uint8] | None = getattr(self._own, name, None)
        if found is None:
            found = np.empty(shape, np.uint8)
            setattr(self._own, name, found)
        return found

    async def _in_threads(self, work: Callable[..., _Result], *rows: Iterable[Any]) -> list[_Result]:
        """What `work` returns for each row, computed in parallel."""
        loop = asyncio.get_running_loop()
        jobs = [loop.run_in_executor(self._pool, work, *row) for row in zip(*rows, strict=True)]
        return list(await asyncio.gather(*jobs))
