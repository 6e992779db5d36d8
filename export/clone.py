"""Makes many avatars of one, for load tests and demos: hard links and a manifest each, which take next to no room.

All of them show the same face, and have one network in memory. Clones that are to be told apart by eye are recoloured:
built anew from the tinted frames, with the same network.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from compositor_backend import contract
from compositor_backend.manifest import ENCODER, MANIFEST_NAME, NETWORK, NETWORK_FP16, Manifest
from compositor_backend.pack import AvatarPack
from export.atomic import publish, root_lock, settle_dead_stages, staging
from export.avatar import AvatarSettings, NetworkSource, Progress, build_avatar, graph_path
from export.check import check_graphs
from export.errors import ExportError
from export.shared_files import SharedFile

Colour = tuple[int, int, int]
_TINT = 0.25
"""Share of the colour in a recoloured frame."""
_SOURCE = "source"


def clone_ids(prefix: str, count: int, first: int = 1) -> list[str]:
    """`count` ids ``<prefix>-00001`` …, numbered from `first`; a `LipstreamError` if they are none."""
    if count < 1:
        raise ExportError(f"the count of clones: expected 1 or more, got {count}")
    if first < 0:
        raise ExportError(f"the first clone's number: expected 0 or more, got {first}")
    return [contract.check_avatar_id(f"{prefix}-{number:05d}") for number in range(first, first + count)]


def clone_colour(avatar_id: str) -> Colour:
    """The colour (RGB) of a recoloured clone; all colours are equally likely."""
    red, green, blue = hashlib.sha256(avatar_id.encode()).digest()[:3]
    return red, green, blue


def clone_avatars(avatars: Path, source: str, ids: Sequence[str], progress: Progress | None = None) -> None:
    """Make a clone of the avatar `source` under each of `ids`, of hard links.

    All of them appear when the last one is made. A `LipstreamError` says what is wrong, and then nothing has changed.
    """
    tell = progress or (lambda _what, _done, _total: None)
    try:
        _refuse_ids(avatars, ids)
        with staging(avatars) as stage:
            manifest, files = _hold_source(avatars, source, stage / _SOURCE)
            for number, avatar_id in enumerate(ids, 1):
                folder = stage / avatar_id
                folder.mkdir()
                for name, file in files.items():
                    file.put(folder / name)
                # The manifest comes last: it is no older than anything that it speaks of.
                dataclasses.replace(manifest, id=avatar_id).save(folder)
                tell("clones", number, len(ids))
            publish(avatars, stage, lambda: _refuse_ids(avatars, ids), many=True)
    except OSError as error:
        raise ExportError(f"{avatars} cannot be written: {error.strerror or error}") from error


def recolour_avatars(
    avatars: Path, source: str, ids: Sequence[str], progress: Progress | None = None
) -> None:
    """Build clones of `source` with tinted frames, each in a colour of its own; one takes as long as an import."""
    tell = progress or (lambda _what, _done, _total: None)
    _refuse_ids(avatars, ids)
    folder = avatars / contract.check_avatar_id(source)
    with AvatarPack(folder) as pack:
        boxes = [tuple(rect) for rect in pack.rects.tolist()]
        graphs = pack.manifest.graphs
        for number, avatar_id in enumerate(ids, 1):
            settings = AvatarSettings(
                avatar_id=avatar_id,
                avatars=avatars,
                network=NetworkSource(graph_path(folder, NETWORK)),
                encoder=graph_path(folder, ENCODER) if ENCODER in graphs else None,
                quality=pack.manifest.quality,
                blend=pack.manifest.blend,
                gpu=NETWORK_FP16 in graphs,
            )
            build_avatar(settings, TintedFrames(pack, clone_colour(avatar_id)), boxes)
            tell("clones", number, len(ids))


@dataclass(frozen=True)
class TintedFrames:
    """The template frames of an avatar, with a colour mixed in: a source of frames."""

    pack: AvatarPack
    colour: Colour
    names: None = None
    note: None = None

    @property
    def origin(self) -> range:
        """Each template frame is a frame."""
        return range(self.pack.frames)

    @property
    def source_count(self) -> int:
        """How many there are."""
        return self.pack.frames

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height."""
        return self.pack.manifest.width, self.pack.manifest.height

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """Frames in order, uint8 [H,W,3] RGB."""
        tint = np.array(self.colour) * _TINT
        for frame in range(self.pack.frames):
            with Image.open(io.BytesIO(self.pack.frame_jpeg(frame)), formats=("JPEG",)) as picture:
                pixels = np.asarray(picture.convert("RGB"))
            yield (pixels * (1 - _TINT) + tint).round().astype(np.uint8)


def _refuse_ids(avatars: Path, ids: Sequence[str]) -> Sequence[str]:
    if len(set(ids)) != len(ids):
        twice = next(avatar_id for avatar_id in ids if ids.count(avatar_id) > 1)
        raise ExportError(f"{twice} is named twice; every clone needs an id of its own")
    for avatar_id in ids:
        if (avatars / contract.check_avatar_id(avatar_id)).exists():
            raise ExportError(f"{avatars / avatar_id} is there already; give the clones other ids")
    return ids


def _hold_source(avatars: Path, source: str, root: Path) -> tuple[Manifest, dict[str, SharedFile]]:
    """The avatar's manifest and files, linked into `root`, all of one import, whatever is imported meanwhile."""
    folder = avatars / contract.check_avatar_id(source)
    with root_lock(avatars):
        # Of one that is killed just now, too.
        settle_dead_stages(avatars)
        if not folder.is_dir():
            raise ExportError(f"there is no avatar {source} in {avatars}")
        manifest = Manifest.load(folder)
        names = [f"{name}.npy" for name in manifest.files] + [f"{name}.onnx" for name in manifest.graphs]
        (root / source).mkdir(parents=True)
        for name in (*names, MANIFEST_NAME):
            if (folder / name).is_file():
                SharedFile(folder / name).put(root / source / name)
    with AvatarPack(root / source) as pack:
        pack.verify()
    check_graphs(manifest, root / source)
    return manifest, {name: SharedFile(root / source / name) for name in names}
