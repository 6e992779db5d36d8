"""Makes many avatars of one, for load tests and demos: hard links and a manifest each, which take next to no room.

All of them show the same pictures, and have one network in memory. Clones that are to be told apart are recoloured: a
colour of their own is mixed into the frames around the region of the face, and their JPEGs bear the clone's id as a
comment. The region stays as it is, and with it all that the network sees and draws: only the frames' data is new.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from compositor_backend import contract
from compositor_backend.errors import LipstreamError
from compositor_backend.geometry import Box
from compositor_backend.manifest import MANIFEST_NAME, FileEntry, Manifest
from compositor_backend.pack import AvatarPack
from export.atomic import publish, root_lock, settle_dead_stages, staging
from export.avatar import Progress
from export.check import check_graphs
from export.errors import ExportError
from export.pack_writer import PackSettings, write_pack
from export.shared_files import SharedFile

Colour = tuple[int, int, int]
TINT = 0.25
"""Share of the colour in a recoloured frame, around the region."""
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


def clone_avatars(
    avatars: Path,
    source: str,
    ids: Sequence[str],
    progress: Progress | None = None,
    *,
    recolour: bool = False,
) -> None:
    """Make a clone of the avatar `source` under each of `ids`, of hard links; `recolour` lets them look different.

    All of them appear when the last one is made. A `LipstreamError` says what is wrong, and then nothing has changed.
    """
    tell = progress or (lambda _what, _done, _total: None)
    try:
        contract.check_avatar_id(source)
        if not avatars.is_dir():
            raise ExportError(f"{avatars} is not there; expected a folder of avatars")
        _refuse_ids(avatars, ids)
        with staging(avatars) as stage:
            original = _Original(avatars, source, stage / _SOURCE)
            for number, avatar_id in enumerate(ids, 1):
                original.clone(stage / avatar_id, recolour)
                tell("clones", number, len(ids))
            publish(avatars, stage, lambda: _refuse_ids(avatars, ids), many=True)
    except OSError as error:
        raise ExportError(f"{avatars} cannot be written: {error.strerror or error}") from error


class _Original:
    """The avatar that is cloned: its files, linked into the folder `held`, where they stay whatever is imported."""

    def __init__(self, avatars: Path, source: str, held: Path) -> None:
        folder = avatars / source
        with root_lock(avatars):
            # Of one that is killed just now, too.
            settle_dead_stages(avatars)
            if not folder.is_dir():
                raise ExportError(f"there is no avatar {source} in {avatars}")
            self.manifest = Manifest.load(folder)
            self._folder = held / source
            self._folder.mkdir(parents=True)
            self._files = dict(self._held_files(folder))
            SharedFile(folder / MANIFEST_NAME).put(self._folder / MANIFEST_NAME)
        self._check(folder)

    def _held_files(self, folder: Path) -> Iterator[tuple[str, SharedFile]]:
        names = [f"{name}.npy" for name in self.manifest.files]
        for name in (*names, *(f"{name}.onnx" for name in self.manifest.graphs)):
            if (folder / name).is_file():  # what is missing is told by `_check`
                SharedFile(folder / name).put(self._folder / name)
            yield name, SharedFile(self._folder / name)

    def _check(self, folder: Path) -> None:
        try:
            with AvatarPack(self._folder) as pack:
                pack.verify()
            check_graphs(self.manifest, self._folder)
        except LipstreamError as error:
            raise ExportError(str(error).replace(str(self._folder), str(folder))) from error

    def clone(self, folder: Path, recolour: bool) -> None:
        """Make a clone in a new folder, whose name is its id."""
        folder.mkdir()
        files = self._recoloured(folder) if recolour else {}
        for name, file in self._files.items():
            if name not in files:
                file.put(folder / name)
        # The manifest comes last: it is no older than anything that it speaks of.
        entries = {**self.manifest.files, **{Path(name).stem: entry for name, entry in files.items()}}
        dataclasses.replace(self.manifest, id=folder.name, files=entries).save(folder)

    def _recoloured(self, folder: Path) -> Mapping[str, FileEntry]:
        """Write a pack of tinted frames, and keep of it what is not as before: files by their names."""
        old = self.manifest
        settings = PackSettings(
            avatar_id=folder.name,
            family=old.family,
            audio_mode=old.audio_mode,
            audio_shape=old.audio_shape,
            network_key=old.network_key,
            graphs=old.graphs,
            quality=old.quality,
            subsampling=old.subsampling,
            blend=old.blend,
            interval_wanted=old.restart_interval,
            comment=folder.name,
        )
        with AvatarPack(self._folder) as pack:
            new = write_pack(folder, settings, tinted_frames(pack, clone_colour(folder.name)))
        for name, entry in new.files.items():
            if entry == old.files[name]:
                (folder / f"{name}.npy").unlink()
        return {f"{name}.npy": entry for name, entry in new.files.items() if entry != old.files[name]}


def tinted_frames(pack: AvatarPack, colour: Colour) -> Iterator[tuple[NDArray[np.uint8], Box]]:
    """The template frames of an avatar, uint8 [H,W,3] RGB, a colour mixed in around their regions; with face boxes."""
    tint = (np.arange(256)[:, None] * (1 - TINT) + np.array(colour) * TINT).round().astype(np.uint8)
    for frame in range(pack.frames):
        with Image.open(io.BytesIO(pack.frame_jpeg(frame)), formats=("JPEG",)) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        pixels = np.stack([tint[pixels[..., channel], channel] for channel in range(3)], axis=2)
        region = pack.regions[frame]
        pixels[region.y1 : region.y2, region.x1 : region.x2] = pack.region_pixels(frame)
        x1, y1, x2, y2 = pack.rects[frame].tolist()
        yield pixels, (x1, y1, x2, y2)


def _refuse_ids(avatars: Path, ids: Sequence[str]) -> Sequence[str]:
    if len(set(ids)) != len(ids):
        twice = next(avatar_id for avatar_id in ids if ids.count(avatar_id) > 1)
        raise ExportError(f"{twice} is named twice; every clone needs an id of its own")
    for avatar_id in ids:
        if (avatars / contract.check_avatar_id(avatar_id)).exists():
            raise ExportError(f"{avatars / avatar_id} is there already; give the clones other ids")
    return ids
