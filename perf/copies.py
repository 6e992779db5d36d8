"""An avatar once more under another id, with a network of its own: a stranger to the server."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import onnx

from compositor_backend.contract import check_avatar_id
from compositor_backend.errors import SettingsError
from compositor_backend.manifest import ENCODER, NETWORK, Manifest
from compositor_backend.pack import file_sha256
from export.shared_files import SharedFile


def copy_avatar(source: Path, avatar_id: str, target: Path, new_id: str) -> Path:
    """Copy the avatar from one folder of avatars to another, in place of what is there; the new avatar's folder.

    Its network draws the same and is another file, so that it has a session of its own; all other files are hard links.
    `SettingsError` if there is no such avatar, or none that takes speech.
    """
    old, new = source / check_avatar_id(avatar_id), target / check_avatar_id(new_id)
    if not old.is_dir():
        raise SettingsError(f"there is no avatar {avatar_id} in {source}; `make avatar` builds the demo's")
    manifest = Manifest.load(old)
    if ENCODER not in manifest.graphs:
        raise SettingsError(f"the avatar {avatar_id} takes no speech: it has no audio encoder")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    for name in (*(f"{name}.npy" for name in manifest.files), f"{ENCODER}.onnx"):
        SharedFile(old / name).put(new / name)
    network = new / f"{NETWORK}.onnx"
    _rename_graph(old / network.name, network, new_id)
    entry = dataclasses.replace(
        manifest.graphs[NETWORK], bytes=network.stat().st_size, sha256=file_sha256(network)
    )
    graphs = {NETWORK: entry, ENCODER: manifest.graphs[ENCODER]}
    # Last: a file that is newer than the manifest is read whole when the pack is opened.
    dataclasses.replace(manifest, id=new_id, graphs=graphs).save(new)
    return new


def _rename_graph(source: Path, target: Path, name: str) -> None:
    """The same graph with another name in it, which makes it another file."""
    model = onnx.load(str(source))
    model.graph.name = name
    onnx.save(model, str(target))
