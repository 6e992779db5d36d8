"""Makes many avatars of one, for tests and demos: each is to be told from all others, and takes next to no room.

A clone has an id, a key and a colour of its own. Its network tints what it draws with that colour, and every frame's
JPEG bears its id as a comment, so that a frame says which network drew it, and which pack it was made from.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from compositor_backend import contract
from compositor_backend.errors import LipstreamError
from compositor_backend.geometry import FAMILIES
from compositor_backend.jpeg import with_comment
from compositor_backend.manifest import MANIFEST_NAME, PACK_FILES, FileEntry, Manifest
from compositor_backend.pack import AvatarPack, file_sha256
from export import model_configs
from export.atomic import finish_ready_stages, publish, root_lock, settle_dead_stages, staging
from export.avatar import MODEL_FILE, Progress
from export.check import check_graphs
from export.checksums import SUMS_FILE, write_sums
from export.clone_graph import Colour, clone_numbers, is_clone, write_clone_graph
from export.errors import ExportError
from export.model_configs import Network
from export.onnx_guard import CLONE_FILE
from export.served_graph import inspect_network
from export.shared_files import SharedFile

_HEADER = "jpeg_header"
_CLONE_PATH = MODEL_FILE.with_name(CLONE_FILE)
_SOURCE = "source"
"""The folder in the stage, laid out as a model repository, that holds what is cloned."""
_HELD_OF_A_MODEL = (MODEL_FILE, _CLONE_PATH, Path(SUMS_FILE))


def clone_ids(prefix: str, count: int, first: int = 1) -> list[str]:
    """`count` ids ``<prefix>-00001`` …, numbered from `first`; a `LipstreamError` if they are none."""
    if count < 1:
        raise ExportError(f"the count of clones is {count}; 1 or more is wanted")
    if first < 0:
        raise ExportError(f"the first clone's number is {first}; 0 or more is wanted")
    return [contract.check_avatar_id(f"{prefix}-{number:05d}") for number in range(first, first + count)]


def clone_colour(avatar_id: str) -> Colour:
    """The colour (RGB) that a clone's network mixes into what it draws; all colours are equally likely."""
    red, green, blue = hashlib.sha256(avatar_id.encode()).digest()[:3]
    return red, green, blue


def clone_key(source_key: int, avatar_id: str) -> int:
    """The AVATAR_KEY of a clone's network."""
    return contract.avatar_key(hashlib.sha256(f"{source_key} {avatar_id}".encode()).hexdigest())


def clone_avatars(avatars: Path, source: str, ids: Sequence[str], progress: Progress | None = None) -> None:
    """Make a clone of the avatar `source` under each of `ids`.

    All of them appear when the last one is made. They have no idle frames: those of the source show its own network.
    A `LipstreamError` says what is wrong, and then nothing has changed.
    """
    tell = progress or (lambda _what, _done, _total: None)
    try:
        # What a killed run had ready counts as there, and may be the source.
        finish_ready_stages(avatars)
        _refuse_ids(avatars, ids)
        if not (avatars / contract.avatar_ensemble_name(source)).is_dir():
            raise ExportError(f"there is no avatar {source} in {avatars}")
        with staging(avatars) as stage:
            _make_clones(avatars, source, ids, stage, tell)
            publish(avatars, stage, lambda: _names_to_publish(avatars, ids), many=True)
    except OSError as error:
        raise ExportError(f"{avatars} cannot be written: {error.strerror or error}") from error


def _make_clones(avatars: Path, source: str, ids: Sequence[str], stage: Path, tell: Progress) -> None:
    """Make all clones in the stage, of files that lie there too as long as it takes."""
    root = stage / _SOURCE
    with _speaking_of(avatars, root):
        _hold_source(avatars, source, root)
        clones = _Clones(stage, _Original.load(root, source))
        for number, avatar_id in enumerate(ids, 1):
            clones.make(avatar_id)
            if number == 1:
                clones.check(avatar_id)
            tell("clones", number, len(ids))
    shutil.rmtree(root)


@contextmanager
def _speaking_of(avatars: Path, root: Path) -> Iterator[None]:
    """Errors about files below `root` speak of those that they were taken from."""
    try:
        yield
    except LipstreamError as error:
        raise ExportError(str(error).replace(str(root), str(avatars))) from error


# --- what is asked for ---
def _refuse_ids(avatars: Path, ids: Sequence[str]) -> None:
    if len(set(ids)) != len(ids):
        twice = next(avatar_id for avatar_id in ids if ids.count(avatar_id) > 1)
        raise ExportError(f"{twice} is named twice; an id is wanted for each clone")
    for avatar_id in ids:
        for name in _models(avatar_id):
            if (avatars / name).exists():
                raise ExportError(f"{avatars / name} is there already; give the clones other ids")


def _models(avatar_id: str) -> tuple[str, str, str]:
    """An avatar's models in the order in which they appear, those first that others name."""
    return (
        contract.lipsync_name(avatar_id),
        contract.avatar_ensemble_name(avatar_id),
        contract.features_ensemble_name(avatar_id),
    )


def _names_to_publish(avatars: Path, ids: Sequence[str]) -> list[str]:
    """Somebody else may have won meanwhile."""
    _refuse_ids(avatars, ids)
    return [name for avatar_id in ids for name in _models(avatar_id)]


# --- what is cloned ---
def _hold_source(avatars: Path, source: str, root: Path) -> None:
    """Put the avatar, its network and its encoder into the folder `root`, all of one import, and so that they stay.

    Clones are made of these for minutes, in which the avatar may be imported again. A file that is missing is left out.
    """
    folder = contract.avatar_ensemble_name(source)
    with root_lock(avatars):
        # Of one that is killed just now, too.
        settle_dead_stages(avatars)
        manifest = Manifest.load(avatars / folder)
        models = [manifest.network]
        if manifest.encoder is not None:
            models.append(contract.audio_encoder_name(manifest.encoder))
        # The manifest comes last, as in an import: what is newer is taken for changed.
        names = [Path(folder) / f"{name}.npy" for name in manifest.files]
        names += [Path(model) / name for model in models for name in _HELD_OF_A_MODEL]
        for name in (*names, Path(folder) / MANIFEST_NAME):
            if (avatars / name).is_file():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                SharedFile(avatars / name).put(root / name)


@dataclasses.dataclass(frozen=True)
class _Original:
    """An avatar that is whole: its folder, its manifest, the JPEG header of its frames, its network's graph."""

    folder: Path
    manifest: Manifest
    header: bytes
    graph: Path

    @classmethod
    def load(cls, avatars: Path, avatar_id: str) -> _Original:
        folder = avatars / contract.avatar_ensemble_name(avatar_id)
        with AvatarPack(folder) as pack:
            pack.verify()
            manifest, header = pack.manifest, pack.header.data
        if manifest.id != avatar_id:
            raise ExportError(f"{folder} holds the avatar {manifest.id!r}; {avatar_id!r} is wanted")
        if is_clone(avatars / manifest.network):
            raise ExportError(f"{avatar_id} is a clone itself; clone the avatar that it was made from")
        check_graphs(manifest, avatars)
        return cls(folder, manifest, header, avatars / manifest.network / MODEL_FILE)


class _Clones:
    """Makes clones in a stage, one after the other."""

    def __init__(self, stage: Path, original: _Original) -> None:
        self._stage = stage
        self._original = original
        graph = stage / MODEL_FILE.name
        write_clone_graph(original.graph, graph)
        self._graph = SharedFile(graph)
        self._graph_sha256 = file_sha256(graph)
        self._files = {
            name: SharedFile(original.folder / f"{name}.npy") for name in PACK_FILES if name != _HEADER
        }

    def make(self, avatar_id: str) -> None:
        """Make all folders of a clone."""
        manifest = self._original.manifest
        network = Network(
            contract.lipsync_name(avatar_id), FAMILIES[manifest.family].network_px, manifest.audio_shape
        )
        self._make_network(avatar_id, network)
        features = self._stage / contract.features_ensemble_name(avatar_id)
        # Triton wants a version folder of an ensemble too, though nothing is in it.
        (features / "1").mkdir(parents=True)
        model_configs.write_features_ensemble(features, avatar_id, network)
        folder = self._stage / contract.avatar_ensemble_name(avatar_id)
        folder.mkdir()
        if manifest.hears_speech:
            (folder / "1").mkdir()
            model_configs.write_avatar_ensemble(folder, avatar_id, manifest.encoder, network)
        self._make_pack(avatar_id, folder)

    def check(self, avatar_id: str) -> None:
        """Open what was made, and run the network once: what is right in one clone is right in all."""
        model = self._stage / contract.lipsync_name(avatar_id) / MODEL_FILE
        found = inspect_network(model, self._original.graph, clone=True)
        with AvatarPack(self._stage / contract.avatar_ensemble_name(avatar_id)) as pack:
            if found.key != pack.manifest.network_key:
                raise ExportError(f"{self._original.graph} keeps its own key {found.key} in a clone")

    def _make_network(self, avatar_id: str, network: Network) -> None:
        folder = self._stage / network.name
        model_configs.write_lipsync(folder, network)
        (folder / MODEL_FILE).parent.mkdir()
        self._graph.put(folder / MODEL_FILE)
        numbers = clone_numbers(self._key(avatar_id), clone_colour(avatar_id))
        (folder / _CLONE_PATH).write_bytes(numbers)
        write_sums(folder, {MODEL_FILE: self._graph_sha256, _CLONE_PATH: hashlib.sha256(numbers).hexdigest()})

    def _make_pack(self, avatar_id: str, folder: Path) -> None:
        original = self._original.manifest
        for name, shared in self._files.items():
            shared.put(folder / f"{name}.npy")
        header = _write_header(folder, with_comment(self._original.header, avatar_id.encode()))
        # The manifest comes last: it is no older than anything that it speaks of.
        dataclasses.replace(
            original,
            id=avatar_id,
            network=contract.lipsync_name(avatar_id),
            network_key=self._key(avatar_id),
            files={name: original.files[name] for name in PACK_FILES} | {_HEADER: header},
            idle_key=None,
        ).save(folder)

    def _key(self, avatar_id: str) -> int:
        return clone_key(self._original.manifest.network_key, avatar_id)


def _write_header(folder: Path, header: bytes) -> FileEntry:
    array, file = np.frombuffer(header, np.uint8), io.BytesIO()
    np.save(file, array)
    data = file.getvalue()
    (folder / f"{_HEADER}.npy").write_bytes(data)
    return FileEntry(len(data), hashlib.sha256(data).hexdigest(), array.dtype.name, array.shape)
