"""Builds a served avatar: its pack, its network, its audio encoder and their Triton configs, whole or not at all."""

from __future__ import annotations

import filecmp
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compositor_backend import contract
from compositor_backend.errors import PackError
from compositor_backend.geometry import Box
from compositor_backend.manifest import MANIFEST_NAME
from compositor_backend.pack import file_sha256
from export import model_configs
from export.errors import ExportError
from export.frames import FrameSource
from export.networks.families import FAMILIES
from export.pack_writer import DEFAULT_QUALITY, PackSettings, write_pack
from export.served_graph import ServedNetwork, input_names, inspect_encoder, inspect_network, open_session
from export.staging import publish, staging

MODEL_FILE = Path("1") / "model.onnx"
ENCODED_AUDIO_SHAPE = (32, 16, 16)
"""What `audio_encoder_<name>` and `avatar_frames` make of speech; other features come ready from the client."""

Progress = Callable[[str, int, int | None], None]
"""Called with what is being done, how far it is, and how far it goes (None if unknown)."""


@dataclass(frozen=True)
class NetworkSource:
    """Where the U-Net comes from: a checkpoint (``.pth``) or a graph (``.onnx``).

    `family` and `audio` are needed only where the weights do not tell.
    """

    path: Path
    family: str | None = None
    audio: str | None = None


@dataclass(frozen=True)
class AvatarSettings:
    """What to build, and where.

    `encoder` is the audio encoder's checkpoint or graph; without it only ``features_<id>`` is made.
    `encoder_name` is its short name, the first 8 hex digits of its file's SHA-256 by default.
    """

    avatar_id: str
    avatars: Path
    network: NetworkSource
    encoder: Path | None = None
    encoder_name: str | None = None
    quality: int = DEFAULT_QUALITY
    blend: str = "hard"
    replace: bool = False


def build_avatar(
    settings: AvatarSettings, frames: FrameSource, boxes: list[Box], progress: Progress | None = None
) -> Path:
    """Build the avatar and return its folder; `ExportError` or `PackError` says what is wrong, and nothing stays."""
    tell = progress or (lambda _what, _done, _total: None)
    avatar_id = contract.check_avatar_id(settings.avatar_id)
    try:
        with staging(settings.avatars) as stage:
            _refuse_existing(settings)
            tell("network", 0, 1)
            network = _stage_network(settings, stage)
            encoder = _stage_encoder(settings, stage, network)
            tell("network", 1, 1)
            _stage_pack(
                settings,
                stage,
                network,
                encoder,
                _paired(frames, boxes),
                lambda n: tell("frames", n, len(boxes)),
            )
            _stage_ensembles(avatar_id, stage, network, encoder)
            _publish(settings, stage)
    except OSError as error:
        raise ExportError(f"{settings.avatars} cannot be written: {error.strerror or error}") from error
    return settings.avatars / contract.avatar_ensemble_name(avatar_id)


def audio_mode(family: str, audio_shape: tuple[int, ...]) -> str:
    """The name of the features that a network of that family reads: within a family, every mode's shape differs."""
    modes = FAMILIES[family].audio.values()
    found = next((mode.name for mode in modes if mode.shape == audio_shape), None)
    if found is None:
        known = ", ".join(f"{list(mode.shape)} ({mode.name})" for mode in modes)
        raise ExportError(f"the network reads audio of shape {list(audio_shape)}; {known} are known")
    return found


def _refuse_existing(settings: AvatarSettings) -> None:
    folder = settings.avatars / contract.avatar_ensemble_name(settings.avatar_id)
    if (folder / MANIFEST_NAME).exists() and not settings.replace:
        raise ExportError(f"{folder} is there already; say --replace to build it anew")


def _stage_network(settings: AvatarSettings, stage: Path) -> ServedNetwork:
    name = contract.lipsync_name(settings.avatar_id)
    model = stage / name / MODEL_FILE
    model.parent.mkdir(parents=True)
    _network_graph(settings.network, model)
    network = inspect_network(model)
    if settings.network.family not in (None, network.family):
        raise ExportError(
            f"{settings.network.path} is of the {network.family} family; {settings.network.family} was said"
        )
    model_configs.write_lipsync(stage / name, network.named(name))
    return network


def _network_graph(source: NetworkSource, out: Path) -> None:
    """Bring a U-Net, whatever it comes as, to a graph of the contract at `out`."""
    if source.path.suffix != ".onnx":
        from export.onnx_export import export_unet

        export_unet(source.path, source.family, source.audio, out)
    elif contract.FACE.name in input_names(open_session(_existing(source.path))):
        shutil.copyfile(source.path, out)
    else:
        from export.wrap import wrap_unet

        wrap_unet(source.path, out)


def _stage_encoder(settings: AvatarSettings, stage: Path, network: ServedNetwork) -> str | None:
    if settings.encoder is None:
        return None
    if network.audio_shape != ENCODED_AUDIO_SHAPE:
        raise ExportError(
            f"the network reads audio of shape {list(network.audio_shape)}; the audio encoder makes "
            f"{list(ENCODED_AUDIO_SHAPE)}: leave it out, and send ready features"
        )
    short = contract.check_avatar_id(settings.encoder_name or file_sha256(_existing(settings.encoder))[:8])
    name = contract.audio_encoder_name(short)
    model = stage / name / MODEL_FILE
    model.parent.mkdir(parents=True)
    if settings.encoder.suffix == ".onnx":
        shutil.copyfile(settings.encoder, model)
    else:
        from export.onnx_export import export_encoder

        export_encoder(settings.encoder, model)
    inspect_encoder(model)
    there = settings.avatars / name / MODEL_FILE
    if there.exists() and not settings.replace and not filecmp.cmp(there, model, shallow=False):
        raise ExportError(f"{there.parent.parent} holds another encoder; give this one a name of its own")
    model_configs.write_audio_encoder(stage / name, name=contract.audio_encoder_name(short))
    return short


def _stage_pack(
    settings: AvatarSettings,
    stage: Path,
    network: ServedNetwork,
    encoder: str | None,
    frames: Iterator[tuple[NDArray[np.uint8], Box]],
    progress: Callable[[int], None],
) -> None:
    pack = PackSettings(
        avatar_id=settings.avatar_id,
        family=network.family,
        audio_mode=audio_mode(network.family, network.audio_shape),
        audio_shape=network.audio_shape,
        encoder=encoder,
        network=contract.lipsync_name(settings.avatar_id),
        network_key=network.key,
        quality=settings.quality,
        blend=settings.blend,
    )
    write_pack(stage / contract.avatar_ensemble_name(settings.avatar_id), pack, frames, progress)


def _stage_ensembles(avatar_id: str, stage: Path, network: ServedNetwork, encoder: str | None) -> None:
    named = network.named(contract.lipsync_name(avatar_id))
    features = stage / contract.features_ensemble_name(avatar_id)
    # Triton wants a version folder of an ensemble too, though nothing is in it.
    (features / "1").mkdir(parents=True)
    model_configs.write_features_ensemble(features, avatar_id, named)
    if encoder is not None:
        speech = stage / contract.avatar_ensemble_name(avatar_id)
        (speech / "1").mkdir()
        model_configs.write_avatar_ensemble(speech, avatar_id, encoder, named)


def _publish(settings: AvatarSettings, stage: Path) -> None:
    """Move the folders to their places, those that others name first and the avatar's own last."""
    order = (
        contract.ENCODER_PREFIX,
        contract.LIPSYNC_PREFIX,
        contract.FEATURES_PREFIX,
        contract.AVATAR_PREFIX,
    )
    for prefix in order:
        for staged in sorted(stage.glob(f"{prefix}*")):
            target = settings.avatars / staged.name
            if prefix == contract.ENCODER_PREFIX and _same_model(staged, target):
                continue
            publish(staged, target)


def _same_model(staged: Path, target: Path) -> bool:
    """Whether the encoder is there already; it may be in use, and is left alone."""
    there = target / MODEL_FILE
    return there.exists() and filecmp.cmp(there, staged / MODEL_FILE, shallow=False)


def _paired(frames: FrameSource, boxes: list[Box]) -> Iterator[tuple[NDArray[np.uint8], Box]]:
    """Each frame with its box; `PackError` if there are more of one than of the other."""
    if frames.count is not None and frames.count != len(boxes):
        raise PackError(
            f"there are {frames.count} frames and {len(boxes)} face boxes; as many of each are wanted"
        )
    number = 0
    for frame in frames:
        if number == len(boxes):
            raise PackError(f"there are more than {number} frames, and {number} face boxes")
        yield frame, boxes[number]
        number += 1
    if number < len(boxes):
        raise PackError(f"there are {number} frames and {len(boxes)} face boxes; as many of each are wanted")


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise ExportError(f"{path} is not there; a .onnx or .pth file is wanted")
    return path
