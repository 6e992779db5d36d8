"""One archive of all that an avatar needs to be served elsewhere, and the avatar made of such an archive again.

An archive is a tar, plain or gzipped, of plain files. The first, ``lipstream.json``, lists the others with sizes and
SHA-256; then comes ``avatar.json``. Triton configs are not in it: they say how one machine serves (instances, engines),
and a config may tell Triton to load code, so unpacking writes them anew. For the same reason engines and caches stay
where they were built.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compositor_backend import contract
from compositor_backend.errors import LipstreamError
from compositor_backend.geometry import FAMILIES
from compositor_backend.manifest import IDLE_FILES, MANIFEST_NAME, PACK_FILES, Manifest
from compositor_backend.pack import AvatarPack, file_sha256
from export import model_configs
from export.atomic import publish, replacing, staging
from export.avatar import MODEL_FILE, STAMP_FILE, Progress
from export.check import check_avatar, check_graphs
from export.checksums import SUMS_FILE, record_sums
from export.clone_graph import is_clone
from export.errors import ExportError
from export.model_configs import Network
from export.onnx_guard import MAX_ONNX_BYTES
from export.shared_network import (
    SHARED_FILE,
    mark_shared,
    refuse_owned_name,
    refuse_shared_id,
    take_down_own_network,
)
from export.tar_stream import CHUNK_BYTES, GZIP_SUFFIXES, TarReader, new_tar, open_tar, shown

FORMAT = 1
KIND = "lipstream avatar"
LIST_NAME = "lipstream.json"
MAX_TEXT_BYTES = 1 << 20
_LEFT_OUT = (
    "Triton configs, which `python -m export unpack` writes anew, and what is bound to a machine: TensorRT engines "
    "and their caches"
)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MB = 1e6


@dataclass(frozen=True)
class Member:
    """A file in an archive: its size in bytes and SHA-256 (hex)."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Contents:
    """The content of ``lipstream.json``: the avatar's id, its Triton models, what it is, and the files by their names.

    `audio_encoder` is None for an avatar whose features come from the client.
    """

    avatar: str
    network: str
    audio_encoder: str | None
    about: str
    files: Mapping[str, Member]
    created_by: str
    left_out: str = _LEFT_OUT
    kind: str = KIND
    format: int = FORMAT

    @property
    def nbytes(self) -> int:
        """The size of all files."""
        return sum(member.bytes for member in self.files.values())

    def to_json(self) -> str:
        """The text of ``lipstream.json``."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"


# --- packing ---
def pack_avatar(folder: Path, out: Path, progress: Progress | None = None) -> Contents:
    """Write the avatar in `folder` (``avatar_<id>``, its networks beside it) to `out`, gzipped if its suffix says so.

    The same avatar makes the same bytes. `LipstreamError` if the avatar is not whole; `out` is then as it was.
    """
    gzipped = out.name.lower().endswith(GZIP_SUFFIXES)
    if not gzipped and out.suffix.lower() != ".tar":
        raise ExportError(f"{out} ends in {out.suffix or 'nothing'!r}; .tar, .tar.gz or .tgz is wanted")
    tell = progress or (lambda _what, _done, _total: None)
    contents = contents_of(folder)
    paths = {name: folder.parent / name for name in contents.files}
    with replacing(out) as draft, new_tar(draft, gzipped) as tar:
        listing = contents.to_json().encode()
        tar.add(LIST_NAME, len(listing), iter([listing]))
        done = 0
        for name, member in contents.files.items():
            tar.add(name, member.bytes, _unchanged(paths[name], member))
            done += member.bytes
            tell("MB packed", _megabytes(done), _megabytes(contents.nbytes))
    return contents


def contents_of(folder: Path) -> Contents:
    """What an archive of the avatar in `folder` holds; `LipstreamError` if something is missing or damaged."""
    manifest = Manifest.load(folder)
    if folder.name != contract.avatar_ensemble_name(manifest.id):
        raise ExportError(
            f"{folder} holds the avatar {manifest.id!r}; its folder is named avatar_{manifest.id}"
        )
    if is_clone(folder.parent / manifest.network):
        raise ExportError(
            f"{manifest.id} is a clone, whose files are shared with others: pack the avatar that it was made from"
        )
    with AvatarPack(folder) as pack:
        pack.verify()
    check_graphs(manifest, folder.parent)
    encoder = None if manifest.encoder is None else contract.audio_encoder_name(manifest.encoder)
    size = f"{manifest.frames} frames of {manifest.width}x{manifest.height} px"
    required, optional = _names(manifest.id, manifest.network, encoder)
    names = [name for name in (*required, *optional) if name in required or (folder.parent / name).is_file()]
    return Contents(
        avatar=manifest.id,
        network=manifest.network,
        audio_encoder=encoder,
        about=f"{size}, {manifest.family} family, {manifest.audio_mode}",
        files={name: _member(folder.parent / name) for name in names},
        created_by=manifest.created_by,
    )


def left_out(folder: Path, contents: Contents) -> list[str]:
    """Files of the avatar in `folder` that its archive does not hold, configs and checksums aside."""
    models = (contract.avatar_ensemble_name(contents.avatar), contents.network, contents.audio_encoder)
    files = (
        path.relative_to(folder.parent)
        for model in models
        if model is not None
        for path in sorted((folder.parent / model).rglob("*"))
        if path.is_file() and path.suffix != ".pbtxt" and path.name not in (SUMS_FILE, SHARED_FILE)
    )
    return [str(path) for path in files if path.as_posix() not in contents.files]


def _member(path: Path) -> Member:
    try:
        return Member(path.stat().st_size, file_sha256(path))
    except OSError as error:
        raise ExportError(f"{path} cannot be read: {error.strerror}") from error


def _unchanged(path: Path, member: Member) -> Iterator[bytes]:
    """The bytes of a file; `ExportError` if they are no longer those of `member`."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            yield chunk
    if digest.hexdigest() != member.sha256:
        raise ExportError(f"{path} was changed while it was packed; pack the avatar again")


def _names(avatar_id: str, network: str, encoder: str | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The files that an archive of such an avatar must and may hold, in its order; nothing else may be in it."""
    folder = contract.avatar_ensemble_name(avatar_id)
    models = [network] if encoder is None else [network, encoder]
    required = (
        f"{folder}/{MANIFEST_NAME}",
        *(f"{folder}/{name}.npy" for name in PACK_FILES),
        *(f"{model}/{MODEL_FILE.as_posix()}" for model in models),
    )
    return required, (*(f"{folder}/{name}.npy" for name in IDLE_FILES), f"{folder}/{STAMP_FILE}")


# --- unpacking ---
@dataclass(frozen=True)
class UnpackSettings:
    """Where to unpack to: `avatars` is the model repository to add to.

    `avatar_id` is the id there, the archive's own by default; `replace` exchanges an avatar that is there already.
    """

    avatars: Path
    avatar_id: str | None = None
    replace: bool = False

    def __post_init__(self) -> None:
        """Refuse an id that is none."""
        if self.avatar_id is not None:
            contract.check_avatar_id(self.avatar_id)


def unpack_avatar(archive: Path, settings: UnpackSettings, progress: Progress | None = None) -> Path:
    """Make the archive's avatar appear in a model repository, checked, and return its folder.

    All or nothing, even across a kill. `LipstreamError` says what is wrong with the archive. A network or audio
    encoder that avatars share, and that is there already, is kept; of the same name with other content, it is refused.
    """
    tell = progress or (lambda _what, _done, _total: None)
    with open_tar(archive) as tar:
        contents = _read_list(archive, tar)
        avatar_id = settings.avatar_id or contents.avatar
        _names_to_publish(settings, contents, avatar_id)
        _check_space(archive, contents, settings.avatars)
        try:
            with staging(settings.avatars) as stage:
                _extract(archive, tar, contents, stage, tell)
                manifest = _renamed(archive, contents, stage, avatar_id)
                _complete(stage, manifest)
                _check_stage(archive, stage, manifest)
                publish(settings.avatars, stage, lambda: _names_to_publish(settings, contents, avatar_id))
                if _shared_network(contents) is not None:
                    take_down_own_network(settings.avatars, avatar_id, stage)
        except OSError as error:
            raise ExportError(f"{settings.avatars} cannot be written: {error.strerror or error}") from error
    return settings.avatars / contract.avatar_ensemble_name(avatar_id)


def _read_list(archive: Path, tar: TarReader) -> Contents:
    member = tar.next()
    if member is None or member.name != LIST_NAME or not 0 < member.size <= MAX_TEXT_BYTES:
        raise ExportError(
            f"{archive} does not begin with {LIST_NAME}; an archive made by `export pack` is wanted"
        )
    try:
        value = json.loads(b"".join(tar.content()))
        contents = _contents(value)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, LipstreamError) as error:
        raise ExportError(
            f"{LIST_NAME} in {archive} is no list of an avatar's files: {str(error)[:200]}"
        ) from error
    required, optional = _names(contents.avatar, contents.network, contents.audio_encoder)
    for name in contents.files:
        if name not in required and name not in optional:
            raise ExportError(f"{LIST_NAME} in {archive} names {shown(name)}, which is no part of an avatar")
    for name in required:
        if name not in contents.files:
            raise ExportError(f"{LIST_NAME} in {archive} lacks {name}")
    return contents


def _contents(value: Any) -> Contents:
    """`Contents` of a JSON value; any of the errors that `_read_list` catches if it is none."""
    if value["kind"] != KIND:
        raise ValueError(f"its kind is {shown(str(value['kind']))}")
    if type(value["format"]) is not int or value["format"] != FORMAT:
        raise ValueError(f"it is of format {str(value['format'])[:20]}; this version reads format {FORMAT}")
    contents = Contents(**(value | {"files": {name: Member(**m) for name, m in value["files"].items()}}))
    contract.check_avatar_id(contents.avatar)
    _check_prefix(contents.network, contract.LIPSYNC_PREFIX)
    if contents.audio_encoder is not None:
        _check_prefix(contents.audio_encoder, contract.ENCODER_PREFIX)
    for name, member in contents.files.items():
        if type(member.bytes) is not int or not 0 < member.bytes <= _most_bytes(name):
            raise ValueError(f"{shown(name)} cannot be {str(member.bytes)[:20]} bytes long")
        if _SHA256.fullmatch(member.sha256) is None:
            raise ValueError(f"{shown(name)} has no SHA-256")
    return contents


def _check_prefix(name: str, prefix: str) -> None:
    contract.check_avatar_id(name.removeprefix(prefix))
    if not name.startswith(prefix):
        raise ValueError(f"{shown(name)} is no {prefix}<name>")


def _most_bytes(name: str) -> int:
    return {".npy": 2**62, ".onnx": MAX_ONNX_BYTES}.get(Path(name).suffix, MAX_TEXT_BYTES)


def _names_to_publish(settings: UnpackSettings, contents: Contents, avatar_id: str) -> list[str]:
    """The folders in the order in which they appear; `ExportError` where one stands in the way."""
    names = (
        contract.avatar_ensemble_name(avatar_id),
        contract.features_ensemble_name(avatar_id),
        contract.lipsync_name(avatar_id),
    )
    refuse_shared_id(settings.avatars, avatar_id)
    for name in names:
        if not settings.replace and (settings.avatars / name).exists():
            raise ExportError(f"{settings.avatars / name} is there already; say --replace, or another --id")
    network = _shared_network(contents)
    if network is not None:
        if network == names[2]:
            raise ExportError(f"{network} is the network that the avatar shares; give the avatar another id")
        refuse_owned_name(settings.avatars, network.removeprefix(contract.LIPSYNC_PREFIX))
    shared = [name for name in (contents.audio_encoder, network) if name is not None]
    own = names[2:] if network is None else ()
    return [*(name for name in shared if _is_new(settings.avatars, contents, name)), *own, *names[:2]]


def _shared_network(contents: Contents) -> str | None:
    """The network's name if it is not the avatar's own."""
    return None if contents.network == contract.lipsync_name(contents.avatar) else contents.network


def _is_new(avatars: Path, contents: Contents, name: str) -> bool:
    """Whether the repository lacks that shared model; `ExportError` if it holds another one of that name."""
    if not (avatars / name).exists():
        return True
    member = contents.files[f"{name}/{MODEL_FILE.as_posix()}"]
    there = avatars / name / MODEL_FILE
    if not there.is_file() or file_sha256(there) != member.sha256:
        raise ExportError(
            f"{avatars / name} is there already with another {MODEL_FILE}, which other avatars may name; "
            "unpack into another folder of avatars"
        )
    return False


def _check_space(archive: Path, contents: Contents, avatars: Path) -> None:
    there = next(path for path in (avatars, *avatars.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(there).free
    if contents.nbytes > free:
        raise ExportError(
            f"{archive} holds {contents.nbytes / _MB:.0f} MB; {avatars} has room for {free / _MB:.0f} MB"
        )


def _extract(archive: Path, tar: TarReader, contents: Contents, stage: Path, tell: Progress) -> None:
    """Write the listed files into the stage; the names are those of the list, which were checked."""
    waiting, done = dict(contents.files), 0
    while (found := tar.next()) is not None:
        member = waiting.pop(found.name, None)
        if member is None:
            again = "twice" if found.name in contents.files else f"which {LIST_NAME} does not name"
            raise ExportError(f"{archive} holds {shown(found.name)}, {again}")
        if found.size != member.bytes:
            raise ExportError(
                f"{found.name} in {archive} is {found.size} bytes long; {LIST_NAME} says {member.bytes}"
            )
        _write(archive, found.name, tar.content(), stage / found.name, member.sha256)
        done += member.bytes
        tell("MB unpacked", _megabytes(done), _megabytes(contents.nbytes))
    for name in waiting:
        raise ExportError(f"{archive} lacks {name}, which {LIST_NAME} names")


def _write(archive: Path, name: str, chunks: Iterator[bytes], path: Path, sha256: str) -> None:
    digest = hashlib.sha256()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        for chunk in chunks:
            digest.update(chunk)
            file.write(chunk)
    if digest.hexdigest() != sha256:
        raise ExportError(f"{name} in {archive} is damaged: its SHA-256 is not that in {LIST_NAME}")


# --- what is not in an archive ---
def _renamed(archive: Path, contents: Contents, stage: Path, avatar_id: str) -> Manifest:
    """The manifest of the staged avatar under its new id, its folders and its own network named after it."""
    folder = stage / contract.avatar_ensemble_name(contents.avatar)
    manifest = Manifest.load(folder)
    encoder = None if manifest.encoder is None else contract.audio_encoder_name(manifest.encoder)
    if (manifest.id, manifest.network, encoder) != (
        contents.avatar,
        contents.network,
        contents.audio_encoder,
    ):
        raise ExportError(
            f"{MANIFEST_NAME} in {archive} is of another avatar than {LIST_NAME}, or names other models"
        )
    # It was the archive's first file. A manifest is its pack's last: what is newer is taken for changed.
    (folder / MANIFEST_NAME).touch()
    if avatar_id == manifest.id:
        return manifest
    network = contents.network
    if _shared_network(contents) is None:
        network = contract.lipsync_name(avatar_id)
        (stage / contents.network).rename(stage / network)
    renamed = dataclasses.replace(manifest, id=avatar_id, network=network)
    renamed.save(folder)
    folder.rename(stage / contract.avatar_ensemble_name(avatar_id))
    return renamed


def _complete(stage: Path, manifest: Manifest) -> None:
    """Write configs, version folders and checksums."""
    network = Network(manifest.network, FAMILIES[manifest.family].network_px, manifest.audio_shape)
    model_configs.write_lipsync(stage / manifest.network, network)
    record_sums(stage / manifest.network)
    if manifest.network != contract.lipsync_name(manifest.id):
        mark_shared(stage / manifest.network)
    features = stage / contract.features_ensemble_name(manifest.id)
    (features / "1").mkdir(parents=True)
    model_configs.write_features_ensemble(features, manifest.id, network)
    if manifest.encoder is not None:
        encoder = contract.audio_encoder_name(manifest.encoder)
        model_configs.write_audio_encoder(stage / encoder, encoder)
        record_sums(stage / encoder)
    if manifest.hears_speech:
        speech = stage / contract.avatar_ensemble_name(manifest.id)
        (speech / "1").mkdir()
        model_configs.write_avatar_ensemble(speech, manifest.id, manifest.encoder, network)


def _check_stage(archive: Path, stage: Path, manifest: Manifest) -> None:
    for finding in check_avatar(stage / contract.avatar_ensemble_name(manifest.id)):
        if not finding.good:
            raise ExportError(finding.text.replace(f"{stage}/", f"{archive}: "))


def _megabytes(size: int) -> int:
    return -(-size // 1_000_000)
