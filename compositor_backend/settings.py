"""What an operator may set for Triton's Python models, read in this one place.

============================  =================  ===========================================================
environment                   model parameter    meaning
============================  =================  ===========================================================
LIPSTREAM_AVATARS             avatars_folder     folder that holds the avatars' folders; by default
                                                 ``avatars`` beside the model repository
LIPSTREAM_PACK_CACHE_MIB      pack_cache_mib     avatar packs that one process keeps open, in MiB of mapped
                                                 file; by default 8192
LIPSTREAM_PACK_IDLE_S         pack_idle_s        seconds after which one process closes a pack that nobody
                                                 asked for; by default 30
LIPSTREAM_NETWORK_CACHE_MIB   network_cache_mib  networks that one process keeps in memory, in MiB of their
                                                 graphs' files; by default 512
LIPSTREAM_SCRATCH_MIB         scratch_mib        activations of one run of a network, in MiB: a batch is
                                                 computed in pieces of as many rows as fit, at least one;
                                                 by default 64 on a CPU, 256 on a GPU
LIPSTREAM_CACHE               cache_folder       folder for optimised graphs; by default ``lipstream`` in the
                                                 user's cache folder
LIPSTREAM_LOAD_TIMEOUT_S      load_timeout_s     seconds after which a network that is still being opened
                                                 counts as hung, and its process is ended; by default 30
LIPSTREAM_WARM                warm_avatars       ids, with commas between them, of avatars whose networks are
                                                 opened, and run once, when the model starts; by default none
============================  =================  ===========================================================

The environment wins over ``parameters`` of a model's ``config.pbtxt``, which wins over the default.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from compositor_backend.contract import check_avatar_id
from compositor_backend.errors import SettingsError

AVATARS_VARIABLE = "LIPSTREAM_AVATARS"
PACK_CACHE_VARIABLE = "LIPSTREAM_PACK_CACHE_MIB"
PACK_IDLE_VARIABLE = "LIPSTREAM_PACK_IDLE_S"
NETWORK_CACHE_VARIABLE = "LIPSTREAM_NETWORK_CACHE_MIB"
SCRATCH_VARIABLE = "LIPSTREAM_SCRATCH_MIB"
CACHE_VARIABLE = "LIPSTREAM_CACHE"
LOAD_TIMEOUT_VARIABLE = "LIPSTREAM_LOAD_TIMEOUT_S"
WARM_VARIABLE = "LIPSTREAM_WARM"

DEFAULT_AVATARS_NAME = "avatars"
DEFAULT_PACK_CACHE_MIB = 8192
"""Mapped files, not a process's own memory: the pages are shared, and the system takes them back at need."""
DEFAULT_PACK_IDLE_S = 30
"""Opening a pack again takes 4 ms in all processes together; an open one takes 15 kB."""
DEFAULT_NETWORK_CACHE_MIB = 512
"""Some 80 half-width networks of the 328 family; one takes about twice its file's size of memory."""
DEFAULT_LOAD_TIMEOUT_S = 30

BYTES_PER_MIB = 1 << 20


@dataclass(frozen=True)
class Settings:
    """Settings of the Python models.

    `pack_cache_bytes` ≥ 1 is the limit of one process's open packs, `pack_idle_s` ≥ 1 how long one of them stays open
    that nobody asks for. `network_cache_bytes` ≥ 1 is the limit of one process's networks, `scratch_bytes` of what one
    run may take, None for the device's default. Optimised graphs go to `cache_folder`.
    """

    avatars_folder: Path
    pack_cache_bytes: int = DEFAULT_PACK_CACHE_MIB * BYTES_PER_MIB
    pack_idle_s: int = DEFAULT_PACK_IDLE_S
    network_cache_bytes: int = DEFAULT_NETWORK_CACHE_MIB * BYTES_PER_MIB
    scratch_bytes: int | None = None
    cache_folder: Path = Path("~/.cache/lipstream")
    load_timeout_s: int = DEFAULT_LOAD_TIMEOUT_S
    warm_avatars: tuple[str, ...] = ()


def read_settings(
    environment: Mapping[str, str], parameters: Mapping[str, str], model_folder: Path
) -> Settings:
    """Settings from the environment and a model's parameters; `SettingsError` names what is wrong.

    `model_folder` is the model's own, ``<repository>/<model>``: the default for the avatars hangs on it.
    The avatars folder need not exist yet.
    """
    read = _Reader(environment, parameters)
    default_avatars = str(model_folder.parent.parent / DEFAULT_AVATARS_NAME)
    user_cache = environment.get("XDG_CACHE_HOME") or "~/.cache"
    scratch_mib = read.integer(SCRATCH_VARIABLE, "scratch_mib", 0, "MiB")
    return Settings(
        avatars_folder=Path(read.text(AVATARS_VARIABLE, "avatars_folder", default_avatars)).absolute(),
        pack_cache_bytes=read.mib(PACK_CACHE_VARIABLE, "pack_cache_mib", DEFAULT_PACK_CACHE_MIB),
        pack_idle_s=read.integer(PACK_IDLE_VARIABLE, "pack_idle_s", DEFAULT_PACK_IDLE_S, "seconds"),
        network_cache_bytes=read.mib(NETWORK_CACHE_VARIABLE, "network_cache_mib", DEFAULT_NETWORK_CACHE_MIB),
        scratch_bytes=scratch_mib * BYTES_PER_MIB or None,
        cache_folder=_expanded(read.text(CACHE_VARIABLE, "cache_folder", f"{user_cache}/lipstream")),
        load_timeout_s=read.integer(
            LOAD_TIMEOUT_VARIABLE, "load_timeout_s", DEFAULT_LOAD_TIMEOUT_S, "seconds"
        ),
        warm_avatars=read.ids(WARM_VARIABLE, "warm_avatars"),
    )


class _Reader:
    def __init__(self, environment: Mapping[str, str], parameters: Mapping[str, str]) -> None:
        self._environment = environment
        self._parameters = parameters

    def text(self, variable: str, parameter: str, default: str) -> str:
        return self._environment.get(variable) or self._parameters.get(parameter) or default

    def integer(self, variable: str, parameter: str, default: int, unit: str) -> int:
        text = self.text(variable, parameter, "")
        if not text:
            return default
        if re.fullmatch("[1-9][0-9]{0,8}", text) is None:
            raise SettingsError(
                f"{variable} (model parameter {parameter}): expected a whole number of {unit} from 1 to 999999999, "
                f"got {text[:40]!r}"
            )
        return int(text)

    def mib(self, variable: str, parameter: str, default: int) -> int:
        return self.integer(variable, parameter, default, "MiB") * BYTES_PER_MIB

    def ids(self, variable: str, parameter: str) -> tuple[str, ...]:
        parts = [part.strip() for part in self.text(variable, parameter, "").split(",")]
        return tuple(check_avatar_id(part) for part in parts if part)


def _expanded(text: str) -> Path:
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError:  # no home folder: a container's user without one
        raise SettingsError(f"{CACHE_VARIABLE}: {text!r} needs a home folder, and there is none") from None
