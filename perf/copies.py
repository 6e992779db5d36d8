"""An avatar once more under another id, with a network and files of its own: a stranger to the server."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

from compositor_backend.contract import (
    audio_encoder_name,
    avatar_ensemble_name,
    features_ensemble_name,
    lipsync_name,
)
from compositor_backend.errors import SettingsError
from compositor_backend.geometry import FAMILIES
from compositor_backend.manifest import Manifest
from export.avatar import MODEL_FILE
from export.checksums import record_sums
from export.model_configs import Network, write_avatar_ensemble, write_features_ensemble, write_lipsync


def copy_avatar(source: Path, avatar_id: str, target: Path, new_id: str) -> list[Path]:
    """Copy the avatar from one repository of avatars to another, in place of what is there, its encoder if need be.

    Returns the files that are read when it is loaded and asked for frames. They are on the disk, not only in the
    page cache. `SettingsError` if there is no such avatar, or none that takes speech.
    """
    pack = source / avatar_ensemble_name(avatar_id)
    if not pack.is_dir():
        raise SettingsError(f"there is no avatar {avatar_id} in {source}; `make avatar` builds the demo's")
    manifest = Manifest.load(pack)
    if manifest.encoder is None:
        raise SettingsError(f"the avatar {avatar_id} takes no speech: it has no audio encoder")
    network = lipsync_name(new_id)
    config = Network(network, FAMILIES[manifest.family].network_px, manifest.audio_shape)
    files = _copy_pack(pack, replace(manifest, id=new_id, network=network), target)
    write_avatar_ensemble(target / avatar_ensemble_name(new_id), new_id, manifest.encoder, config)
    write_features_ensemble(_fresh(target / features_ensemble_name(new_id)), new_id, config)
    write_lipsync(_fresh(target / network), config)
    files.append(_copy(source / manifest.network / MODEL_FILE, target / network / MODEL_FILE))
    record_sums(target / network)
    encoder = audio_encoder_name(manifest.encoder)
    if not (target / encoder).exists():
        shutil.copytree(source / encoder, target / encoder)
    files.append(_copy(source / encoder / MODEL_FILE, target / encoder / MODEL_FILE))
    record_sums(target / encoder)
    return files


def _copy_pack(pack: Path, manifest: Manifest, target: Path) -> list[Path]:
    folder = _fresh(target / avatar_ensemble_name(manifest.id))
    files = [_copy(pack / f"{name}.npy", folder / f"{name}.npy") for name in manifest.files]
    # Last: a file that is newer than the manifest is read whole when the pack is opened.
    manifest.save(folder)
    return files


def _fresh(folder: Path) -> Path:
    """The model's folder, empty but for a version folder, which Triton wants."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "1").mkdir(parents=True)
    return folder


def _copy(source: Path, target: Path) -> Path:
    shutil.copyfile(source, target)
    with target.open("rb+") as file:
        os.fsync(file.fileno())
    return target
