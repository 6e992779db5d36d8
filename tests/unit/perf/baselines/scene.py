"""A small avatar, and a transport that needs no server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from compositor_backend.pack import AvatarPack
from perf.baselines.float_graph import float_graph
from perf.baselines.material import Material
from perf.null_network import KEY, write_null_network
from tests.support.scenes import Pixels, open_avatar, textured

FRAMES = [textured(320, 240, seed) for seed in range(4)]
BOXES = [(60 + 5 * n, 30 + n, 240 + 5 * n, 210 + n) for n in range(4)]


def pack_and_material(avatars: Path, blend: str = "hard") -> tuple[AvatarPack, Material]:
    pack = open_avatar(avatars, FRAMES, BOXES, network_key=KEY, blend=blend)
    return pack, Material.of_pack(pack, frames=FRAMES)


def null_network(folder: Path) -> Path:
    return write_null_network(folder / "null.onnx")


class LocalTransport:
    """Runs the float graph of a network in this process and notes what it was sent."""

    url = "nowhere"

    def __init__(self, served: Path) -> None:
        graph = float_graph(served).SerializeToString()
        self._session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        self.requests: list[tuple[str, dict[str, tuple[str, tuple[int, ...]]]]] = []
        self.closed = False

    async def infer(
        self, model: str, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str], timeout_s: float
    ) -> dict[str, NDArray[Any]]:
        self.requests.append((model, {n: (str(a.dtype), a.shape) for n, a in inputs.items()}))
        return dict(zip(outputs, self._session.run(list(outputs), dict(inputs)), strict=True))

    async def close(self) -> None:
        self.closed = True


def silence(count: int) -> NDArray[np.float32]:
    return np.zeros((count, 32, 16, 16), np.float32)


def psnr_db(picture: Pixels, reference: Pixels) -> float:
    error = np.mean((picture.astype(float) - reference) ** 2)
    return float(10 * np.log10(255**2 / error)) if error else np.inf
