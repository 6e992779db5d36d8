"""What other systems keep of an avatar in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from compositor_backend.geometry import Family
from compositor_backend.pack import AvatarPack
from perf.subjects import Pixels, decode


@dataclass(frozen=True, eq=False)
class Material:
    """An avatar's background frames and face crops, decoded, in this process's own memory.

    `frames` uint8 [N,H,W,3] RGB; `faces` uint8 [N,3,S,S] RGB, what the network sees of each; `rects` int32 [N,4].
    """

    frames: NDArray[np.uint8]
    faces: NDArray[np.uint8]
    rects: NDArray[np.int32]
    family: Family
    blend: str
    quality: int
    subsampling: str

    @classmethod
    def of_pack(
        cls, pack: AvatarPack, count: int | None = None, frames: Iterable[Pixels] | None = None
    ) -> Material:
        """The first `count` frames (None: all) of a pack, decoded unless the `frames` it was made of are given."""
        manifest = pack.manifest
        pictures = islice(_decoded(pack) if frames is None else frames, count)
        return cls(
            frames=np.stack(list(pictures)),
            faces=pack.faces[:count].copy(),
            rects=pack.rects[:count].copy(),
            family=pack.family,
            blend=manifest.blend,
            quality=manifest.quality,
            subsampling=manifest.subsampling,
        )

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return self.frames.nbytes + self.faces.nbytes


def _decoded(pack: AvatarPack) -> Iterator[Pixels]:
    for number, region in enumerate(pack.regions):
        picture = decode(pack.frame_jpeg(number)).copy()
        # Around the face the pack holds the picture as it was before the encoder.
        picture[region.y1 : region.y2, region.x1 : region.x2] = pack.region_pixels(number)
        yield picture
