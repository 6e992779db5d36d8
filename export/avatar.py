"""Builds a served avatar: its pack, its network, its audio encoder and their Triton configs, whole or not at all.

A network that draws any face, or that is given a name, is shared: it appears once, and avatars name it.
"""

from __future__ import annotations

import filecmp
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from compositor_backend import contract
from compositor_backend.geometry import FAMILIES as GEOMETRIES
from compositor_backend.geometry import Box
from compositor_backend.manifest import BLENDS
from compositor_backend.pack import AvatarPack, file_sha256
from export import model_configs
from export.atomic import publish, staging
from export.boxes import boxes_of_frames
from export.checksums import record_sums
from export.errors import ExportError
from export.frames import FrameSource, Pixels
from export.idle import silent_mouths
from export.networks.families import FAMILIES
from export.pack_writer import DEFAULT_QUALITY, PackSettings, write_idle, write_pack
from export.precision import PRECISIONS, halve, precision_of
from export.served_graph import (
    ServedNetwork,
    checkpoint_of,
    input_names,
    inspect_encoder,
    inspect_network,
    open_session,
)
from export.shared_network import (
    is_shared,
    is_there,
    made_from,
    mark_shared,
    refuse_shared_id,
    take_down_own_network,
)

MODEL_FILE = Path("1") / "model.onnx"
STAMP_FILE = "stamp.txt"
_DRAFT = "network.onnx"
"""Where the network lies in the stage until it has a name."""
ENCODED_AUDIO_SHAPE = (32, 16, 16)
"""What `audio_encoder_<name>` and `avatar_frames` make of speech; other features come ready from the client."""

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
    """What to build, and where: `avatars` is the model repository to add to.

    `encoder` is the audio encoder's checkpoint or graph; without it only ``features_<id>`` is made, unless the network
    hears mel.
    `encoder_name` is its short name, the first 8 hex digits of its file's SHA-256 by default; an encoder of that
    name with other weights is refused, unless `replace_encoder`. `replace` builds an avatar that is there anew.
    With `network_name` avatars share the network, as ``lipsync_<name>``; those of a family that draws any face share it
    anyway, under the family's name by default. A shared network is never exchanged: another one needs another name.
    `precision` ("fp32", "fp16") is what the network computes in.
    `stamp` is the builder's own note of what it built from, kept in the avatar's folder (`STAMP_FILE`).
    """

    avatar_id: str
    avatars: Path
    network: NetworkSource
    encoder: Path | None = None
    encoder_name: str | None = None
    network_name: str | None = None
    quality: int = DEFAULT_QUALITY
    blend: str = "hard"
    replace: bool = False
    replace_encoder: bool = False
    stamp: str | None = None
    precision: str = "fp32"

    def __post_init__(self) -> None:
        """Refuse what cannot work, before anything is read."""
        contract.check_avatar_id(self.avatar_id)
        for what, name in (("encoder", self.encoder_name), ("network", self.network_name)):
            if name is not None and contract.AVATAR_ID_PATTERN.fullmatch(name) is None:
                raise ExportError(
                    f"the {what}'s name is {name[:80]!r}; 1 to 64 of a-z, 0-9, '_' and '-' are wanted, "
                    "a letter or digit first"
                )
        if self.network_name is not None:
            contract.lipsync_name(self.network_name)
            _refuse_namesake(self.avatar_id, self.network_name)
        if not 1 <= self.quality <= 100:
            raise ExportError(f"the JPEG quality is {self.quality}; 1 to 100 is wanted")
        if self.precision not in PRECISIONS:
            raise ExportError(
                f"the precision is {self.precision[:80]!r}; {' or '.join(PRECISIONS)} is wanted"
            )
        if self.blend not in BLENDS:
            raise ExportError(f"the blend is {self.blend[:80]!r}; {' or '.join(BLENDS)} is wanted")


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
            tell("network", 0, 1)
            staged = _stage_network(settings, stage)
            encoder = _stage_encoder(settings, stage, staged.network)
            tell("network", 1, 1)
            pack = _pack_settings(settings, staged, encoder)
            folder = stage / contract.avatar_ensemble_name(settings.avatar_id)
            write_pack(folder, pack, _paired(frames, chosen), lambda n: tell("frames", n, len(chosen)))
            if staged.hears_mel or encoder is not None:
                _add_idle_frames(settings, stage, lambda n: tell("idle frames", n, len(chosen)))
            if settings.stamp is not None:
                (folder / STAMP_FILE).write_text(settings.stamp, encoding="utf-8")
            _stage_ensembles(settings.avatar_id, stage, staged, encoder)
            publish(settings.avatars, stage, lambda: _names_to_publish(settings, stage, staged))
            if staged.shared:
                take_down_own_network(settings.avatars, settings.avatar_id, stage)
    except OSError as error:
        raise ExportError(f"{settings.avatars} cannot be written: {error.strerror or error}") from error
    return settings.avatars / contract.avatar_ensemble_name(settings.avatar_id)


def audio_mode(family: str, audio_shape: tuple[int, ...]) -> str:
    """The name of the features that a network of that family reads: within a family, every mode's shape differs."""
    modes = FAMILIES[family].audio.values()
    found = next((mode.name for mode in modes if mode.shape == audio_shape), None)
    if found is None:
        known = ", ".join(f"{list(mode.shape)} ({mode.name})" for mode in modes)
        raise ExportError(f"the network reads audio of shape {list(audio_shape)}; {known} are known")
    return found


# --- what is asked for ---
def _refuse_existing(settings: AvatarSettings) -> None:
    refuse_shared_id(settings.avatars, settings.avatar_id)
    if settings.replace:
        return
    names = (
        contract.avatar_ensemble_name(settings.avatar_id),
        contract.features_ensemble_name(settings.avatar_id),
        contract.lipsync_name(settings.avatar_id),
    )
    for name in names:
        if (settings.avatars / name).exists():
            raise ExportError(f"{settings.avatars / name} is there already; say --replace to build it anew")


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
@dataclass(frozen=True)
class _StagedNetwork:
    """The avatar's network: the Triton model's name, what it is, and whether avatars share it."""

    name: str
    network: ServedNetwork
    shared: bool

    @property
    def hears_mel(self) -> bool:
        return self.network.audio_shape == contract.MEL.shape[1:]


def _stage_network(settings: AvatarSettings, stage: Path) -> _StagedNetwork:
    """Stage the network, unless avatars share it and it is there already."""
    source = settings.network
    _existing(source.path)
    there = _there_already(settings)
    if there is not None:
        _check_said(source, there.network)
        return there
    # Its name depends on its family, which the graph tells.
    draft = stage / _DRAFT
    _network_graph(source, draft)
    if settings.precision == "fp16" and precision_of(draft) != "fp16":
        halve(draft, draft, called=source.path)
    network = inspect_network(draft, source.path)
    _check_said(source, network)
    short = _shared_name(settings, network)
    staged = _StagedNetwork(contract.lipsync_name(short or settings.avatar_id), network, short is not None)
    if short is not None:
        is_there(settings.avatars, short, source.path, MODEL_FILE)
    draft.replace(_model_path(stage, staged.name))
    model_configs.write_lipsync(stage / staged.name, network.named(staged.name))
    record_sums(stage / staged.name)
    if staged.shared:
        mark_shared(stage / staged.name)
    return staged


def _there_already(settings: AvatarSettings) -> _StagedNetwork | None:
    """The network that avatars share, made from the same file."""
    shared = [family.name for family in GEOMETRIES.values() if family.any_face]
    for short in shared if settings.network_name is None else [settings.network_name]:
        folder = settings.avatars / contract.lipsync_name(short)
        if is_shared(folder) and made_from(folder / MODEL_FILE, settings.network.path):
            _refuse_namesake(settings.avatar_id, short)
            _refuse_other_precision(settings, folder / MODEL_FILE)
            return _StagedNetwork(folder.name, inspect_network(folder / MODEL_FILE), shared=True)
    return None


def _refuse_other_precision(settings: AvatarSettings, there: Path) -> None:
    source = settings.network.path
    halved = source.suffix.lower() == ".onnx" and precision_of(source) == "fp16"
    wanted, found = "fp16" if halved else settings.precision, precision_of(there)
    if wanted != found:
        raise ExportError(
            f"{there} is shared by avatars and computes in {found}; {wanted} was wanted: say --precision {found}, "
            "or give this one a name of its own (--network-name)"
        )


def _check_said(source: NetworkSource, network: ServedNetwork) -> None:
    mode = audio_mode(network.family, network.audio_shape)
    for what, said, found in (("family", source.family, network.family), ("audio", source.audio, mode)):
        if said not in (None, found):
            raise ExportError(f"{source.path} is a network with --{what} {found}; {said} was said")


def _shared_name(settings: AvatarSettings, network: ServedNetwork) -> str | None:
    """The name that avatars share the network by; None if it is the avatar's own."""
    default = network.family if GEOMETRIES[network.family].any_face else None
    name = settings.network_name or default
    if name is not None:
        _refuse_namesake(settings.avatar_id, name)
    return name


def _refuse_namesake(avatar_id: str, network_name: str) -> None:
    if avatar_id == network_name:
        raise ExportError(
            f"{network_name} is the name of the network that avatars share; give this avatar another id"
        )


def _new_network(settings: AvatarSettings, stage: Path, staged: _StagedNetwork) -> list[str]:
    """The name of the staged network, or nothing if avatars share it and it is there; another import may have won."""
    if staged.shared:
        short = staged.name.removeprefix(contract.LIPSYNC_PREFIX)
        if is_there(settings.avatars, short, settings.network.path, MODEL_FILE):
            _refuse_other_precision(settings, settings.avatars / staged.name / MODEL_FILE)
            return []
    return [staged.name]


def _network_graph(source: NetworkSource, out: Path) -> None:
    """Bring a network, whatever it comes as, to a graph of the contract at `out`."""
    if _existing(source.path).suffix.lower() != ".onnx":
        from export.onnx_export import export_unet

        try:
            export_unet(source.path, source.family, source.audio, out)
        except ExportError as error:
            raise ExportError(str(error).replace(str(out), f"the graph of {source.path}")) from error
    elif contract.FACE.name in input_names(open_session(source.path)):
        shutil.copyfile(source.path, out)
    else:
        from export.wrap import wrap_unet

        wrap_unet(source.path, out)


# --- audio encoder ---
def _stage_encoder(settings: AvatarSettings, stage: Path, network: ServedNetwork) -> str | None:
    """Stage the encoder unless it is there already; its short name, None if there is none."""
    source = settings.encoder
    if source is None:
        return None
    _existing(source)
    if network.audio_shape == contract.MEL.shape[1:]:
        raise ExportError("the network hears mel windows without an audio encoder: leave it out")
    if network.audio_shape != ENCODED_AUDIO_SHAPE:
        raise ExportError(
            f"the network reads audio of shape {list(network.audio_shape)}; the audio encoder makes "
            f"{list(ENCODED_AUDIO_SHAPE)}: leave it out, and send ready features"
        )
    short = settings.encoder_name or file_sha256(source)[:8]
    name = contract.audio_encoder_name(short)
    there = settings.avatars / name / MODEL_FILE
    if _is_made_from(there, source):
        inspect_encoder(there)
        return short
    model = _model_path(stage, name)
    _encoder_graph(source, model)
    inspect_encoder(model, source)
    model_configs.write_audio_encoder(stage / name, name)
    record_sums(stage / name)
    _new_encoder(settings, stage)
    return short


def _is_made_from(model: Path, source: Path) -> bool:
    """Whether the graph at `model` was copied or exported from `source`; the same export may differ in its bytes."""
    if not model.exists():
        return False
    if source.suffix.lower() == ".onnx":
        return filecmp.cmp(model, source, shallow=False)
    return checkpoint_of(model) == file_sha256(source)


def _encoder_graph(source: Path, out: Path) -> None:
    if source.suffix.lower() == ".onnx":
        shutil.copyfile(source, out)
    else:
        from export.onnx_export import export_encoder

        export_encoder(source, out)


def _new_encoder(settings: AvatarSettings, stage: Path) -> list[str]:
    """The name of the staged encoder, or nothing if it is there already; another one of that name is refused."""
    for staged in stage.glob(f"{contract.ENCODER_PREFIX}*"):
        there = settings.avatars / staged.name
        if settings.encoder is not None and _is_made_from(there / MODEL_FILE, settings.encoder):
            return []
        if there.exists() and not settings.replace_encoder:
            raise ExportError(
                f"{there} holds another encoder, which other avatars may name; "
                "give this one a name of its own (--encoder-name)"
            )
        return [staged.name]
    return []


# --- idle frames ---
def _add_idle_frames(settings: AvatarSettings, stage: Path, progress: Callable[[int], None]) -> None:
    folder = stage / contract.avatar_ensemble_name(settings.avatar_id)
    with AvatarPack(folder) as pack:
        encoder = pack.manifest.encoder
        heard = None if encoder is None else _graph(settings, stage, contract.audio_encoder_name(encoder))
        network = _graph(settings, stage, pack.manifest.network)
        write_idle(folder, silent_mouths(pack, network, heard, progress))


def _graph(settings: AvatarSettings, stage: Path, name: str) -> Path:
    """A model's graph: staged now, or there already."""
    staged = stage / name / MODEL_FILE
    return staged if staged.exists() else settings.avatars / name / MODEL_FILE


# --- the rest ---
def _pack_settings(settings: AvatarSettings, staged: _StagedNetwork, encoder: str | None) -> PackSettings:
    network = staged.network
    return PackSettings(
        avatar_id=settings.avatar_id,
        family=network.family,
        audio_mode=audio_mode(network.family, network.audio_shape),
        audio_shape=network.audio_shape,
        encoder=encoder,
        network=staged.name,
        network_key=network.key,
        quality=settings.quality,
        blend=settings.blend,
    )


def _stage_ensembles(avatar_id: str, stage: Path, staged: _StagedNetwork, encoder: str | None) -> None:
    named = staged.network.named(staged.name)
    features = stage / contract.features_ensemble_name(avatar_id)
    # Triton wants a version folder of an ensemble too, though nothing is in it.
    (features / "1").mkdir(parents=True)
    model_configs.write_features_ensemble(features, avatar_id, named)
    if staged.hears_mel or encoder is not None:
        speech = stage / contract.avatar_ensemble_name(avatar_id)
        (speech / "1").mkdir()
        model_configs.write_avatar_ensemble(speech, avatar_id, encoder, named)


def _names_to_publish(settings: AvatarSettings, stage: Path, staged: _StagedNetwork) -> list[str]:
    """The folders in the order in which they appear, those first that others name; another import may have won."""
    _refuse_existing(settings)
    return [
        *_new_encoder(settings, stage),
        *_new_network(settings, stage, staged),
        contract.avatar_ensemble_name(settings.avatar_id),
        contract.features_ensemble_name(settings.avatar_id),
    ]


def _model_path(stage: Path, name: str) -> Path:
    """Where the graph of that model goes, its folders made."""
    path = stage / name / MODEL_FILE
    path.parent.mkdir(parents=True)
    return path


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise ExportError(f"{path} is not there; a .onnx or .pth file is wanted")
    return path
