"""Finds a network's weights, says which file was taken and why, and which audio features they were trained on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from compositor_backend import contract
from export.avatar import NetworkSource, audio_mode
from export.errors import ExportError
from export.importers.base import UndecidedError, Wanted
from export.importers.features import FeatureFile
from export.served_graph import input_names, inspect_network, open_session

_NUMBERED = re.compile(r"([0-9]+)\Z")
_ENCODERS = ("audio_visual_encoder.pth", "audio_encoder.pth")
_ENCODED_MODE = "ave"
_OWN_EARS = "mel"


@dataclass(frozen=True)
class Weights:
    """A network's file: why it was taken, its family, and the audio modes that its weights fit."""

    path: Path
    why: str
    family: str
    modes: tuple[str, ...]

    def __str__(self) -> str:
        return f"network {self.path} ({self.why}): {self.family} family, audio {' or '.join(self.modes)}"


@dataclass(frozen=True)
class Hearing:
    """How a U-Net hears: the network to serve, the audio encoder if there is one, and what to say of both."""

    network: NetworkSource
    encoder: Path | None
    found: tuple[str, ...]
    assumed: tuple[str, ...]
    notes: tuple[str, ...]


def find_weights(folders: Sequence[Path], wanted: Wanted, pattern: str = "*.pth") -> Weights | None:
    """The network that the user named, or the one in the first of `folders` that has any; None if there is none."""
    said = wanted.checkpoint
    if said is not None and not said.is_dir():
        return describe(said, "as said", wanted.family)
    for folder in [said] if said is not None else folders:
        files = [path for path in folder.glob(pattern) if path.is_file() and not _is_encoder(path)]
        if files:
            path, why = _chosen(sorted(files))
            return describe(path, why, wanted.family)
    if said is not None:
        raise ExportError(f"{said} holds no {pattern} with a network; a checkpoint is wanted")
    return None


def describe(path: Path, why: str, family: str | None = None) -> Weights:
    """What the network at `path` is; `ExportError` if it is none, or not of the `family` that was said."""
    if not path.is_file():
        raise ExportError(f"{path} is not there; a .pth or .onnx file is wanted")
    stat = path.stat()
    found, modes = _described(path, family, stat.st_size, stat.st_mtime_ns)
    return Weights(path, why, found, modes)


def hearing(
    weights: Weights, wanted: Wanted, beside: Sequence[FeatureFile] = (), folders: Sequence[Path] = ()
) -> Hearing:
    """Decide how a U-Net hears, by its weights, what the user said, and what lies `beside` it or in `folders`."""
    encoder = wanted.encoder or next(
        (path for folder in folders for path in (folder / name for name in _ENCODERS) if path.is_file()), None
    )
    mode, assumed = _mode(weights, wanted, beside, encoder)
    if wanted.encoder is None and mode != _ENCODED_MODE:
        encoder = None
    found = [str(weights)]
    if encoder is not None:
        found.append(f"audio encoder {encoder}{' (as said)' if wanted.encoder else ''}")
    network = NetworkSource(weights.path, weights.family, mode)
    return Hearing(network, encoder, tuple(found), assumed, _notes(weights, mode, encoder))


def _notes(weights: Weights, mode: str, encoder: Path | None) -> tuple[str, ...]:
    notes = []
    if mode == _OWN_EARS:
        notes.append("the network hears mel itself: the avatar takes speech without an audio encoder")
    elif encoder is None:
        how = "; give --encoder for an avatar that takes speech" if mode == _ENCODED_MODE else ""
        notes.append(f"no audio encoder: the avatar takes ready {mode} features{how}")
    if mode == "wenet" and weights.family == "160":
        notes.append(
            "wenet networks of this family were trained at 20 frames a second, and frames are served at 25: "
            "make the features for 25 a second"
        )
    return tuple(notes)


def _mode(
    weights: Weights, wanted: Wanted, beside: Sequence[FeatureFile], encoder: Path | None
) -> tuple[str, tuple[str, ...]]:
    """The audio mode, and what was assumed for it."""
    fitting = weights.modes
    if wanted.audio is not None:
        if wanted.audio not in fitting:
            raise ExportError(
                f"{weights.path} fits the audio mode {' or '.join(fitting)}; --audio {wanted.audio} was said"
            )
        return wanted.audio, ()
    told = {table.mode: table for table in beside}
    agreed = [mode for mode in fitting if mode in told]
    if told and not agreed:
        names = " and ".join(table.path.name for table in told.values())
        raise UndecidedError(
            f"{names} lies there, and {weights.path} was trained on {' or '.join(fitting)} features: "
            "they are not of one training",
            "--audio",
            fitting,
        )
    if len(fitting) == 1:
        return fitting[0], ()
    if len(agreed) == 1:
        return agreed[0], (_because(agreed[0], f"{told[agreed[0]].path.name} lies there", fitting),)
    if not agreed and encoder is not None and _ENCODED_MODE in fitting:
        return _ENCODED_MODE, (_because(_ENCODED_MODE, f"of the audio encoder {encoder.name}", fitting),)
    what = "features of both lie there" if agreed else "no features lie there that would tell"
    raise UndecidedError(
        f"the weights of {weights.path} fit the audio modes {' and '.join(fitting)} alike, and {what}",
        "--audio",
        fitting,
    )


def _because(mode: str, reason: str, fitting: Sequence[str]) -> str:
    return f"audio mode {mode}, because {reason} (the weights fit {' and '.join(fitting)} alike)"


def _is_encoder(path: Path) -> bool:
    return path.name in _ENCODERS


def _chosen(files: Sequence[Path]) -> tuple[Path, str]:
    """The highest epoch, where names are numbered; several without numbers are the user's to choose from."""
    if len(files) == 1:
        return files[0], f"the only {files[0].suffix} there"
    numbered = {path: int(found[1]) for path in files if (found := _NUMBERED.search(path.stem))}
    if not numbered:
        sentence = f"{files[0].parent} holds {len(files)} networks without numbers"
        raise UndecidedError(sentence, "--checkpoint", [str(path) for path in files])
    best = max(numbered, key=lambda path: numbered[path])
    if list(numbered.values()).count(numbered[best]) > 1:
        same = [str(path) for path in files if numbered.get(path) == numbered[best]]
        raise UndecidedError(
            f"{best.parent} holds several networks of epoch {numbered[best]}", "--checkpoint", same
        )
    others = [path.name for path in files if path not in numbered]
    rest = f"; {', '.join(others)} left out" if others else ""
    return best, f"the highest epoch of {len(numbered)}{rest}"


@lru_cache(maxsize=16)
def _described(path: Path, family: str | None, _size: int, _time_ns: int) -> tuple[str, tuple[str, ...]]:
    """Family and audio modes; remembered, because several importers look at the same file."""
    if path.suffix.lower() == ".onnx":
        return _described_graph(path, family)
    from export.checkpoints import describe_unet

    return describe_unet(path, family)


def _described_graph(path: Path, family: str | None) -> tuple[str, tuple[str, ...]]:
    from export.wrap import inspect_unet

    if contract.FACE.name in input_names(open_session(path)):
        served = inspect_network(path)
        found, audio_shape = served.family, served.audio_shape
    else:
        found, audio_shape = inspect_unet(path)
    if family not in (None, found):
        raise ExportError(f"{path} is a network of the {found} family; --family {family} was said")
    return found, (audio_mode(found, audio_shape),)
