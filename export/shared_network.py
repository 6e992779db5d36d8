"""Networks that several avatars share: a folder of its own name, marked, that no import of an avatar exchanges."""

from __future__ import annotations

import filecmp
from pathlib import Path

from compositor_backend import contract
from compositor_backend.pack import file_sha256
from export.atomic import root_lock
from export.errors import ExportError
from export.served_graph import inspect_network

SHARED_FILE = "shared.txt"
"""In the folder of a network that avatars share; one without it belongs to the avatar whose id it bears."""
_TEXT = "Avatars share this network: each names it in its avatar.json.\n"


def mark_shared(folder: Path) -> None:
    """Say of a network's folder that avatars share it."""
    (folder / SHARED_FILE).write_text(_TEXT, encoding="utf-8")


def is_shared(folder: Path) -> bool:
    """Whether it is the folder of a network that avatars share."""
    return (folder / SHARED_FILE).is_file()


def refuse_shared_id(avatars: Path, avatar_id: str) -> None:
    """Refuse (`ExportError`) an avatar whose id is the name of a network that others share."""
    folder = avatars / contract.lipsync_name(avatar_id)
    if is_shared(folder):
        raise ExportError(
            f"{folder} is a network that avatars share; give this avatar another id than {avatar_id}"
        )


def refuse_owned_name(avatars: Path, name: str) -> None:
    """Refuse (`ExportError`) the name of an avatar for a network that is to be shared."""
    folder, avatar = avatars / contract.lipsync_name(name), avatars / contract.avatar_ensemble_name(name)
    there = next((path for path in (avatar, folder) if path.exists() and not is_shared(folder)), None)
    if there is not None:
        raise ExportError(
            f"{there} belongs to the avatar {name}; give the shared network a name of its own (--network-name)"
        )


def take_down_own_network(avatars: Path, avatar_id: str, stage: Path) -> None:
    """Move the network that an avatar had to itself, before it shared one, into `stage`, with which it goes away."""
    own = avatars / contract.lipsync_name(avatar_id)
    with root_lock(avatars):
        if own.exists() and not is_shared(own):
            own.rename(stage / f"former-{own.name}")


def is_there(avatars: Path, name: str, source: Path, graph: Path) -> bool:
    """Whether the shared network of that name is there, made from `source`; another one is an `ExportError`.

    `source` is the checkpoint or the ONNX file as it came; `graph` is where the served one lies in the folder.
    """
    refuse_owned_name(avatars, name)
    folder = avatars / contract.lipsync_name(name)
    if not folder.exists():
        return False
    if made_from(folder / graph, source):
        return True
    raise ExportError(
        f"{folder} holds another network than {source}, which other avatars may name; "
        "give this one a name of its own (--network-name)"
    )


def made_from(graph: Path, source: Path) -> bool:
    """Whether a served network is a copy of `source`, or bears its key; False where there is none."""
    if not graph.is_file():
        return False
    if filecmp.cmp(graph, source, shallow=False):
        return True
    return inspect_network(graph).key == contract.avatar_key(file_sha256(source))
