"""Builds an avatar: its pack, its network and its audio encoder, in one folder that appears whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from compositor_backend import contract
from compositor_backend.geometry import Box
from compositor_backend.manifest import BLENDS, ENCODER, NETWORK, NETWORK_FP16, GraphEntry
from compositor_backend.pack import AvatarPack, file_sha256
from export.atomic import publish, staging
from export.boxes import boxes_of_frames
from export.errors import ExportError
from export.frames import FrameSource, Pixels
from export.graph_memory import row_bytes
from export.idle import silent_mouths
from export.networks.families import FAMILIES
from export.pack_writer import DEFAULT_QUALITY, PackSettings, write_idle, write_pack
from export.precision import halve
from export.served_graph import ServedNetwork, input_names, inspect_encoder, inspect_network, open_session
from export.shared_graphs import SharedGraphs

STAMP_FILE = "stamp.txt"
ENCODED_AUDIO_SHAPE = (32, 16, 16)
"""What an audio encoder and `audio_windows` make of speech; other features come ready from the client."""

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how far it is, and how far it goes."""


@dataclass(frozen=True)
class NetworkSource:
    """Where the network comes from: a graph (``.onnx``), or a checkpoint (any other suffix).

    `family` ("328", "160", "wav2lip-96" …) and `audio` ("ave", "hubert", "wenet", "mel") are needed only where the
    weights do not tell; where they do, they are compared.
    """

    path: Path
    family: str | None = None
    audio: str | None = None


@dataclass(frozen=True)
class AvatarSettings:
    """What to build, and where: `avatars` is the folder of avatars to add to.

    `encoder` is the audio encoder's checkpoint or graph; without it the avatar takes ready features only, unless its
    network takes mel. `gpu` adds the network in half precision, if its pictures are close to those of float32.
    `replace` builds an avatar that is there anew.
    `stamp` is the builder's own note of what it built from, kept in the avatar's folder (`STAMP_FILE`).
    """

    avatar_id: str
    avatars: Path
    network: NetworkSource
    encoder: Path | None = None
    quality: int = DEFAULT_QUALITY
    blend: str = "hard"
    replace: bool = False
    stamp: str | None = None
    gpu: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot work, before anything is read."""
        contract.check_avatar_id(self.avatar_id)
        if not 1 <= self.quality <= 100:
            raise ExportError(f"JPEG quality: expected 1 to 100, got {self.quality}")
        if self.blend not in BLENDS:
            raise ExportError(f"blend: expected {' or '.join(BLENDS)}, got {self.blend[:80]!r}")

    @property
    def folder(self) -> Path:
        """The avatar's folder."""
        return self.avatars / self.avatar_id


def build_avatar(
    settings: AvatarSettings, frames: FrameSource, boxes: Sequence[Box], progress: Progress | None = None
) -> Path:
    """Build the avatar and return its folder; a `LipstreamError` says what is wrong, and nothing stays."""
    tell = progress or (lambda _what, _done, _total: None)
    _refuse_existing(settings)
    # Before the long work begins: what can be told of the frames without reading them all.
    chosen = boxes_of_frames(boxes, frames)
    try:
        with staging(settings.avatars) as stage:
            folder = stage / settings.avatar_id
            folder.mkdir()
            tell("network", 0, 1)
            shared = SharedGraphs(settings.avatars)
            network = _add_network(settings, folder, shared)
            encoder = _add_encoder(settings, folder, network, shared)
            tell("network", 1, 1)
            pack = _pack_settings(settings, folder, network)
            write_pack(folder, pack, _paired(frames, chosen), lambda n: tell("frames", n, len(chosen)))
            if encoder is not None or network.audio_shape == contract.MEL.shape[1:]:
                _add_idle_frames(folder, encoder, lambda n: tell("idle frames", n, len(chosen)))
            if settings.stamp is not None:
                (folder / STAMP_FILE).write_text(settings.stamp, encoding="utf-8")
            publish(settings.avatars, stage, lambda: _to_publish(settings))
    except OSError as error:
        raise ExportError(f"{settings.avatars} cannot be written: {error.strerror or error}") from error
    return settings.folder


def audio_mode(family: str, audio_shape: tuple[int, ...]) -> str:
    """The name of the features that a network of that family reads: within a family, every mode's shape differs."""
    modes = FAMILIES[family].audio.values()
    found = next((mode.name for mode in modes if mode.shape == audio_shape), None)
    if found is None:
        known = ", ".join(f"{list(mode.shape)} ({mode.name})" for mode in modes)
        raise ExportError(f"the network reads audio of shape {list(audio_shape)}; {known} are known")
    return found


def graph_entry(path: Path) -> GraphEntry:
    """What the manifest says of a graph."""
    return GraphEntry(path.stat().st_size, file_sha256(path), row_bytes(path))


def graph_path(folder: Path, name: str) -> Path:
    """Where a graph lies in an avatar's folder."""
    return folder / f"{name}.onnx"


# --- what is asked for ---
def _refuse_existing(settings: AvatarSettings) -> None:
    if settings.folder.exists() and not settings.replace:
        raise ExportError(f"{settings.folder} is there already; say --replace to build it anew")


def _to_publish(settings: AvatarSettings) -> list[str]:
    """Another import may have won meanwhile."""
    _refuse_existing(settings)
    return [settings.avatar_id]


def _paired(frames: FrameSource, boxes: Sequence[Box]) -> Iterator[tuple[Pixels, Box]]:
    """Each frame with its box; `ExportError` if the source has got shorter or longer meanwhile."""
    number = 0
    for frame in frames:
        if number < len(boxes):
            yield frame, boxes[number]
        number += 1
    if number != len(boxes):
        raise ExportError(f"{len(boxes)} frames were found at first, and {number} when they were read")


# --- network ---
def _add_network(settings: AvatarSettings, folder: Path, shared: SharedGraphs) -> ServedNetwork:
    """Bring the network, whatever it comes as, to a graph of the contract in the folder."""
    source, out = settings.network, graph_path(folder, NETWORK)
    is_graph = _existing(source.path).suffix.lower() == ".onnx"
    if is_graph and contract.FACE.name not in input_names(open_session(source.path)):
        from export.wrap import wrap_unet

        wrap_unet(source.path, out)
    elif is_graph:
        shutil.copyfile(source.path, out)
    else:
        key = contract.avatar_key(file_sha256(source.path))
        if not shared.take_network(key, source.family, source.audio, out):
            _export_network(source, out)
    network = inspect_network(out, source.path)
    _check_said(source, network)
    shared.link_equal(out)
    if settings.gpu:
        halved = graph_path(folder, NETWORK_FP16)
        halve(out, halved, called=source.path)
        shared.link_equal(halved)
    return network


def _export_network(source: NetworkSource, out: Path) -> None:
    from export.onnx_export import export_unet

    try:
        export_unet(source.path, source.family, source.audio, out)
    except ExportError as error:
        raise ExportError(str(error).replace(str(out), f"the graph of {source.path}")) from error


def _check_said(source: NetworkSource, network: ServedNetwork) -> None:
    mode = audio_mode(network.family, network.audio_shape)
    for what, said, found in (("family", source.family, network.family), ("audio", source.audio, mode)):
        if said not in (None, found):
            raise ExportError(f"{source.path} is a network with --{what} {found}; {said} was said")


# --- audio encoder ---
def _add_encoder(
    settings: AvatarSettings, folder: Path, network: ServedNetwork, shared: SharedGraphs
) -> Path | None:
    """Bring the encoder to a graph of the contract in the folder; its path, None if there is none."""
    source = settings.encoder
    if source is None:
        return None
    _existing(source)
    if network.audio_shape == contract.MEL.shape[1:]:
        raise ExportError("the network takes mel windows without an audio encoder: leave it out")
    if network.audio_shape != ENCODED_AUDIO_SHAPE:
        raise ExportError(
            f"the network reads audio of shape {list(network.audio_shape)}; the audio encoder makes "
            f"{list(ENCODED_AUDIO_SHAPE)}: leave it out, and send ready features"
        )
    out = graph_path(folder, ENCODER)
    if source.suffix.lower() == ".onnx":
        shutil.copyfile(source, out)
    elif not shared.take_encoder(file_sha256(source), out):
        from export.onnx_export import export_encoder

        export_encoder(source, out)
    inspect_encoder(out, source)
    shared.link_equal(out)
    return out


# --- the rest ---
def _pack_settings(settings: AvatarSettings, folder: Path, network: ServedNetwork) -> PackSettings:
    paths = {name: graph_path(folder, name) for name in (NETWORK, NETWORK_FP16, ENCODER)}
    return PackSettings(
        avatar_id=settings.avatar_id,
        family=network.family,
        audio_mode=audio_mode(network.family, network.audio_shape),
        audio_shape=network.audio_shape,
        network_key=network.key,
        graphs={name: graph_entry(path) for name, path in paths.items() if path.exists()},
        quality=settings.quality,
        blend=settings.blend,
    )


def _add_idle_frames(folder: Path, encoder: Path | None, progress: Callable[[int], None]) -> None:
    with AvatarPack(folder) as pack:
        write_idle(folder, silent_mouths(pack, graph_path(folder, NETWORK), encoder, progress))


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise ExportError(f"{path} is not there; a .onnx or .pth file is wanted")
    return path
