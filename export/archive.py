"""One archive of all that an avatar needs to be served elsewhere, and the avatar made of such an archive again.

An archive is a tar, plain or gzipped, of the plain files of an avatar's folder. The first, ``lipstream.json``, lists
the others with sizes and SHA-256; then comes ``avatar.json``. Engines are bound to a kind of GPU, and stay where they
were built.
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
from compositor_backend.manifest import (
    ENCODER,
    IDLE_FILES,
    MANIFEST_NAME,
    NETWORK,
    NETWORK_FP16,
    PACK_FILES,
    Manifest,
)
from compositor_backend.pack import AvatarPack, file_sha256
from export.atomic import publish, replacing, staging
from export.avatar import STAMP_FILE, Progress
from export.check import check_avatar, check_graphs
from export.errors import ExportError
from export.onnx_guard import MAX_ONNX_BYTES
from export.shared_graphs import SharedGraphs
from export.tar_stream import CHUNK_BYTES, GZIP_SUFFIXES, TarReader, new_tar, open_tar, shown

FORMAT = 2
KIND = "lipstream avatar"
LIST_NAME = "lipstream.json"
MAX_TEXT_BYTES = 1 << 20
_REQUIRED = (MANIFEST_NAME, *(f"{name}.npy" for name in PACK_FILES), f"{NETWORK}.onnx")
_OPTIONAL = (f"{NETWORK_FP16}.onnx", f"{ENCODER}.onnx", *(f"{name}.npy" for name in IDLE_FILES), STAMP_FILE)
"""The files that an archive must and may hold, in its order; nothing else may be in it."""
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MB = 1e6


@dataclass(frozen=True)
class Member:
    """A file in an archive: its size in bytes and SHA-256 (hex)."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Contents:
    """The content of ``lipstream.json``: the avatar's id, what it is, and its files by their names."""

    avatar: str
    about: str
    files: Mapping[str, Member]
    created_by: str
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
    """Write the avatar in `folder` to `out`, gzipped if its suffix says so.

    The same avatar makes the same bytes. `LipstreamError` if the avatar is not whole; `out` is then as it was.
    """
    gzipped = out.name.lower().endswith(GZIP_SUFFIXES)
    if not gzipped and out.suffix.lower() != ".tar":
        raise ExportError(f"{out} ends in {out.suffix or 'nothing'!r}; .tar, .tar.gz or .tgz is wanted")
    tell = progress or (lambda _what, _done, _total: None)
    contents = contents_of(folder)
    paths = {name: folder / name for name in contents.files}
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
    if folder.name != manifest.id:
        raise ExportError(f"{folder}: expected the avatar {folder.name!r}, got {manifest.id!r}")
    with AvatarPack(folder) as pack:
        pack.verify()
    check_graphs(manifest, folder)
    size = f"{manifest.frames} frames of {manifest.width}x{manifest.height} px"
    there = {MANIFEST_NAME, STAMP_FILE, *(f"{name}.npy" for name in manifest.files)}
    there |= {f"{name}.onnx" for name in manifest.graphs}
    names = [name for name in (*_REQUIRED, *_OPTIONAL) if name in there and (folder / name).is_file()]
    return Contents(
        avatar=manifest.id,
        about=f"{size}, {manifest.family} family, {manifest.audio_mode}",
        files={name: _member(folder / name) for name in names},
        created_by=manifest.created_by,
    )


def left_out(folder: Path, contents: Contents) -> list[str]:
    """Files of the avatar in `folder` that its archive does not hold."""
    files = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())
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


# --- unpacking ---
@dataclass(frozen=True)
class UnpackSettings:
    """Where to unpack to: `avatars` is the folder of avatars to add to.

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
    """Make the archive's avatar appear in a folder of avatars, checked, and return its folder.

    All or nothing, even across a kill. `LipstreamError` says what is wrong with the archive. Graphs that another avatar
    there has already become hard links to its own.
    """
    tell = progress or (lambda _what, _done, _total: None)
    with open_tar(archive) as tar:
        contents = _read_list(archive, tar)
        avatar_id = settings.avatar_id or contents.avatar
        _refuse_existing(settings, avatar_id)
        _check_space(archive, contents, settings.avatars)
        try:
            with staging(settings.avatars) as stage:
                folder = stage / avatar_id
                folder.mkdir()
                _extract(archive, tar, contents, folder, tell)
                _rename(archive, contents, folder, avatar_id)
                _check_stage(archive, stage, folder)
                shared = SharedGraphs(settings.avatars)
                for path in folder.glob("*.onnx"):
                    shared.link_equal(path)
                publish(settings.avatars, stage, lambda: _to_publish(settings, avatar_id))
        except OSError as error:
            raise ExportError(f"{settings.avatars} cannot be written: {error.strerror or error}") from error
    return settings.avatars / avatar_id


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
    for name in contents.files:
        if name not in (*_REQUIRED, *_OPTIONAL):
            raise ExportError(f"{LIST_NAME} in {archive} names {shown(name)}, which is no part of an avatar")
    for name in _REQUIRED:
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
    for name, member in contents.files.items():
        if type(member.bytes) is not int or not 0 < member.bytes <= _most_bytes(name):
            raise ValueError(f"{shown(name)} cannot be {str(member.bytes)[:20]} bytes long")
        if _SHA256.fullmatch(member.sha256) is None:
            raise ValueError(f"{shown(name)} has no SHA-256")
    return contents


def _most_bytes(name: str) -> int:
    return {".npy": 2**62, ".onnx": MAX_ONNX_BYTES}.get(Path(name).suffix, MAX_TEXT_BYTES)


def _refuse_existing(settings: UnpackSettings, avatar_id: str) -> None:
    folder = settings.avatars / avatar_id
    if folder.exists() and not settings.replace:
        raise ExportError(f"{folder} is there already; say --replace, or another --id")


def _to_publish(settings: UnpackSettings, avatar_id: str) -> list[str]:
    """Another import may have won meanwhile."""
    _refuse_existing(settings, avatar_id)
    return [avatar_id]


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


# --- what was unpacked ---
def _rename(archive: Path, contents: Contents, folder: Path, avatar_id: str) -> None:
    """Give the avatar in the folder its id; its manifest is then no older than the files that it speaks of."""
    manifest = Manifest.load(folder)
    if manifest.id != contents.avatar:
        raise ExportError(f"{MANIFEST_NAME} in {archive} is of another avatar than {LIST_NAME}")
    (folder / MANIFEST_NAME).unlink()
    dataclasses.replace(manifest, id=avatar_id).save(folder)


def _check_stage(archive: Path, stage: Path, folder: Path) -> None:
    for finding in check_avatar(folder):
        if not finding.good:
            raise ExportError(finding.text.replace(f"{stage}/", f"{archive}: "))


def _megabytes(size: int) -> int:
    return -(-size // 1_000_000)
