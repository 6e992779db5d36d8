"""What the model repositories hold, and which models a start loads."""

from __future__ import annotations

import compileall
import logging
from collections.abc import Sequence
from pathlib import Path

from compositor_backend.contract import (
    AVATAR_PREFIX,
    FEATURES_PREFIX,
    avatar_ensemble_name,
    check_avatar_id,
    features_ensemble_name,
)
from compositor_backend.errors import SettingsError
from server.settings import ServerSettings

_log = logging.getLogger(__name__)


def models_to_load(settings: ServerSettings) -> list[str]:
    """Names of the models to load at the start: the shared ones, then each avatar's ensembles.

    An ensemble brings the models of its steps along. Raises `SettingsError` for a repository that is
    not there or that Triton cannot serve, and `AvatarIdError` or `SettingsError` for an avatar that is not there.
    """
    _refuse_spaces([*settings.model_repositories, *([settings.avatars] if settings.avatars else [])])
    names = shared_models(settings)
    if settings.avatars is None:
        if settings.load:
            raise SettingsError(f"avatar {settings.load[0]} is to be loaded, but no avatars folder is given")
        return names
    folder = settings.avatars
    known = avatars_in(folder)
    for avatar_id in known if settings.load_all else settings.load:
        names += _ensembles(folder, avatar_id, known)
    return list(dict.fromkeys(names))


def shared_models(settings: ServerSettings) -> list[str]:
    """Names of the models that all avatars share and that are loaded at the start."""
    if settings.models is not None:
        return list(settings.models)
    return [name for folder in settings.model_repositories for name in models_in(folder)]


def _refuse_spaces(repositories: Sequence[Path]) -> None:
    """Triton starts its Python models by a command line in which it does not quote their folders.

    The process of such a model would end at once, and the load that waits for it never.
    """
    for path in repositories:
        if any(character.isspace() for character in str(path.resolve())):
            raise SettingsError(
                f"{path.resolve()} has a space in its path, from which Triton cannot run Python models; "
                "give it a path without"
            )


def models_in(repository: Path) -> list[str]:
    """Names of the models in a repository: its folders that hold a config."""
    if not repository.is_dir():
        raise SettingsError(f"there is no model repository {repository}")
    return sorted(path.parent.name for path in repository.glob("*/config.pbtxt"))


def avatars_in(avatars: Path) -> list[str]:
    """Ids of the avatars that have an ensemble in `avatars`."""
    if not avatars.is_dir():
        raise SettingsError(
            f"there is no avatars folder {avatars}: `make avatar` builds the demo's, "
            "`python -m export avatar` one of your own"
        )
    names = models_in(avatars)
    prefixes = (AVATAR_PREFIX, FEATURES_PREFIX)
    return sorted({name.removeprefix(p) for p in prefixes for name in names if name.startswith(p)})


def compile_models(repository: Path) -> None:
    """Compile the Python models of a repository, so that loading them changes nothing in their folders.

    The first load would write ``1/__pycache__``; Triton would take the folder's new time stamp for a
    new model, and load the shared models again with the next avatar (server issue 7489). Where we
    cannot write to the folder Triton cannot either, and nothing is needed.
    """
    if not compileall.compile_dir(repository, quiet=2):
        _log.info("%s: some Python models could not be compiled beforehand", repository)


def _ensembles(avatars: Path, avatar_id: str, known: list[str]) -> list[str]:
    check_avatar_id(avatar_id)
    if avatar_id not in known:
        raise SettingsError(
            f"there is no avatar {avatar_id} in {avatars}; it holds {', '.join(known[:20]) or 'none'}"
        )
    # An avatar whose network's audio features are not computed here has no ensemble that takes speech.
    names = (avatar_ensemble_name(avatar_id), features_ensemble_name(avatar_id))
    return [name for name in names if (avatars / name / "config.pbtxt").is_file()]
