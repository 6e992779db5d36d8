"""What an operator may set for Triton's Python models, read in this one place.

========================  ================  ==============================================
environment               model parameter   meaning
========================  ================  ==============================================
LIPSTREAM_AVATARS         avatars_folder    folder that holds the avatars' folders; default 
                                            ``avatars`` beside the model repository
LIPSTREAM_PACK_CACHE_MIB  pack_cache_mib    avatar packs that one process keeps open, in
                                            MiB of mapped file; by default 8192
LIPSTREAM_PACK_IDLE_S     pack_idle_s       seconds after which one process closes a pack
                                            that nobody asked for; by default 60
========================  ================  ==============================================

The environment wins over ``parameters`` of a model's ``config.pbtxt``, which wins over the default.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from compositor_backend.errors import SettingsError

AVATARS_VARIABLE = "LIPSTREAM_AVATARS"
AVATARS_PARAMETER = "avatars_folder"
PACK_CACHE_VARIABLE = "LIPSTREAM_PACK_CACHE_MIB"
PACK_CACHE_PARAMETER = "pack_cache_mib"
PACK_IDLE_VARIABLE = "LIPSTREAM_PACK_IDLE_S"
PACK_IDLE_PARAMETER = "pack_idle_s"

DEFAULT_AVATARS_NAME = "avatars"
DEFAULT_PACK_CACHE_MIB = 8192
"""Mapped files, not a process's own memory: the pages are shared, and the system takes them back at need."""
DEFAULT_PACK_IDLE_S = 60

BYTES_PER_MIB = 1 << 20


@dataclass(frozen=True)
class Settings:
    """Settings of the Python models.

    `pack_cache_bytes` ≥ 1 is the limit of one process's open packs, `pack_idle_s` ≥ 1 how long one of them stays open
    that nobody asks for.
    """

    avatars_folder: Path
    pack_cache_bytes: int = DEFAULT_PACK_CACHE_MIB * BYTES_PER_MIB
    pack_idle_s: int = DEFAULT_PACK_IDLE_S


def read_settings(
    environment: Mapping[str, str], parameters: Mapping[str, str], model_folder: Path
) -> Settings:
    """Settings from the environment and a model's parameters; `SettingsError` names what is wrong.

    `model_folder` is the model's own, ``<repository>/<model>``: the default for the avatars hangs on it.
    The avatars folder need not exist yet.
    """
    default_folder = str(model_folder.parent.parent / DEFAULT_AVATARS_NAME)
    folder = environment.get(AVATARS_VARIABLE) or parameters.get(AVATARS_PARAMETER) or default_folder
    size = environment.get(PACK_CACHE_VARIABLE) or parameters.get(PACK_CACHE_PARAMETER)
    size_mib = DEFAULT_PACK_CACHE_MIB
    if size is not None:
        size_mib = _parse(size, f"{PACK_CACHE_VARIABLE} (model parameter {PACK_CACHE_PARAMETER})", "MiB")
    idle = environment.get(PACK_IDLE_VARIABLE) or parameters.get(PACK_IDLE_PARAMETER)
    idle_s = DEFAULT_PACK_IDLE_S
    if idle is not None:
        idle_s = _parse(idle, f"{PACK_IDLE_VARIABLE} (model parameter {PACK_IDLE_PARAMETER})", "seconds")
    return Settings(Path(folder).absolute(), size_mib * BYTES_PER_MIB, idle_s)


def _parse(text: str, what: str, unit: str) -> int:
    if re.fullmatch("[1-9][0-9]{0,8}", text) is None:
        raise SettingsError(
            f"{what} is {text[:40]!r}; a whole number of {unit} from 1 to 999999999 is wanted"
        )
    return int(text)
