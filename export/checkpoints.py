"""Reads trained weights under all the names they are found under, and nothing that could run code."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from compositor_backend.pack import file_sha256
from export.errors import ExportError
from export.networks.audio_encoder import AudioEncoder
from export.networks.families import FAMILIES, AudioMode, NetworkFamily
from export.networks.unet import LipSyncUNet

MAX_BYTES = 2 << 30
"""The largest checkpoint read; the full-width network with its optimizer's state is 0.15 GB."""

# What `torch.load` raises on files that are truncated, foreign or hostile.
_UNREADABLE = (
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    ValueError,
    KeyError,
    IndexError,
    AttributeError,
    TypeError,
    MemoryError,
)
_WRAPPERS = ("model", "state_dict")
_PREFIXES = ("module.", "audio_encoder.")
# Newer checkpoints of the 160 family leave out an index; the older names are those of the definitions here.
_RENAMES = (
    (re.compile(r"^inc\.inconv\.conv\."), "inc.inconv.0.conv."),
    (re.compile(r"^(down\d)\.maxpool_conv\.double_conv\."), r"\1.maxpool_conv.0.double_conv."),
)

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Checkpoint:
    """A `state_dict` under the names of `export.networks`, and the SHA-256 (hex) of the file it came from."""

    path: Path
    sha256: str
    state: Mapping[str, Tensor]


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a ``.pth``: a bare state_dict or {epoch, model, optimizer}; `ExportError` says what is wrong."""
    if not path.is_file():
        raise ExportError(f"{path} is not there; a checkpoint (.pth) is wanted")
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ExportError(f"{path} has {size / 1e9:.1f} GB; a checkpoint of at most 2 GB is wanted")
    loaded = _load(path)
    state = _unwrap(loaded)
    if state is None:
        raise ExportError(f"{path} holds a {type(loaded).__name__}; a state_dict of tensors is wanted")
    return Checkpoint(path, file_sha256(path), {_rename(key): tensor for key, tensor in state.items()})


def load_unet(
    path: Path, family: str | None = None, audio: str | None = None
) -> tuple[LipSyncUNet, Checkpoint]:
    """The U-Net of a checkpoint, in evaluation mode, and what it was read from.

    Widths, and the family if None, follow from the weights. `audio` may be None only where they tell it too:
    ``ave`` and ``hubert`` of the 328 family have the same shapes. A family or mode that contradicts the
    weights is an `ExportError`.
    """
    checkpoint = read_checkpoint(path)
    spec = _family(checkpoint, family)
    mode = _audio_mode(checkpoint, spec, audio)
    network = LipSyncUNet(spec.name, mode.name, _widths(checkpoint, spec))
    return _fill(network, checkpoint, f"a U-Net of the {spec.name} family"), checkpoint


def load_encoder(path: Path) -> tuple[AudioEncoder, Checkpoint]:
    """The audio encoder of a checkpoint, in evaluation mode, and what it was read from."""
    checkpoint = read_checkpoint(path)
    return _fill(AudioEncoder(), checkpoint, "an audio encoder"), checkpoint


def _load(path: Path) -> object:
    try:
        with warnings.catch_warnings():
            # What is odd about a file is said below, in one sentence.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        found = re.search(r"Unsupported global: GLOBAL (\S+)", str(error))
        if found:
            raise ExportError(
                f"{path} wants to call {found[1]} while it is read, which may run code; "
                "a state_dict of tensors is wanted"
            ) from None
        raise ExportError(
            f"{path} is no checkpoint or is truncated; a .pth file of PyTorch is wanted"
        ) from None


def _unwrap(loaded: object) -> Mapping[str, Tensor] | None:
    if not isinstance(loaded, Mapping):
        return None
    inner = next((loaded[key] for key in _WRAPPERS if isinstance(loaded.get(key), Mapping)), loaded)
    tensors = {k: v for k, v in inner.items() if isinstance(k, str) and isinstance(v, Tensor)}
    return tensors if tensors and len(tensors) == len(inner) else None


def _rename(key: str) -> str:
    for prefix in _PREFIXES:
        key = key.removeprefix(prefix)
    for pattern, replacement in _RENAMES:
        key = pattern.sub(replacement, key)
    return key


def _level_weight(level: int) -> str:
    block = f"down{level}.maxpool_conv.0.double_conv.0" if level else "inc.inconv.0"
    return f"{block}.conv.6.weight"


def _family(checkpoint: Checkpoint, wanted: str | None) -> NetworkFamily:
    if _level_weight(0) not in checkpoint.state:
        raise _foreign(checkpoint, "a U-Net", [_level_weight(0)], list(checkpoint.state)[:3])
    levels = 1
    while _level_weight(levels) in checkpoint.state:
        levels += 1
    found = next((f for f in FAMILIES.values() if len(f.levels) == levels), None)
    if found is None or wanted not in (None, found.name):
        what = f"of the {found.name} family" if found else "of no known family"
        expected = (
            f"{len(FAMILIES[wanted].levels)} are wanted for the {wanted} family"
            if wanted
            else "5 or 6 are known"
        )
        raise ExportError(f"{checkpoint.path} has {levels} levels, a network {what}; {expected}")
    return found


def _audio_mode(checkpoint: Checkpoint, spec: NetworkFamily, wanted: str | None) -> AudioMode:
    if wanted is not None and wanted not in spec.audio:
        raise ExportError(
            f"the {spec.name} family has no audio mode {wanted}; {', '.join(spec.audio)} are known"
        )
    weight = checkpoint.state.get("audio_model.conv1.conv.0.weight")
    channels = None if weight is None or weight.ndim < 2 else weight.shape[1]
    fitting = [mode for mode in spec.audio.values() if mode.shape[0] == channels]
    if wanted is None:
        if len(fitting) == 1:
            return fitting[0]
        names = " or ".join(mode.name for mode in fitting) or "a known audio mode"
        raise ExportError(f"{checkpoint.path} does not tell its audio mode: say whether it is {names}")
    if spec.audio[wanted] not in fitting:
        raise ExportError(
            f"{checkpoint.path} reads audio of {channels} channels; "
            f"{spec.audio[wanted].shape[0]} are wanted for the audio mode {wanted}"
        )
    return spec.audio[wanted]


def _widths(checkpoint: Checkpoint, spec: NetworkFamily) -> list[int]:
    by_level = {width: level for level, width in reversed(list(enumerate(spec.levels)))}
    return [checkpoint.state[_level_weight(by_level[n])].shape[0] for n in sorted(by_level)]


def _fill(network: Network, checkpoint: Checkpoint, what: str) -> Network:
    wanted = {k: v.shape for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    given = {k: v.shape for k, v in checkpoint.state.items() if not k.endswith("num_batches_tracked")}
    missing, extra = sorted(wanted.keys() - given.keys()), sorted(given.keys() - wanted.keys())
    if missing or extra:
        raise _foreign(checkpoint, what, missing, extra)
    for key, shape in wanted.items():
        if shape != given[key]:
            raise ExportError(
                f"{checkpoint.path}: {key} has shape {list(given[key])}; {list(shape)} is wanted for {what}"
            )
    network.load_state_dict(dict(checkpoint.state), strict=False)
    if not all(p.isfinite().all() for p in network.state_dict().values()):
        raise ExportError(f"{checkpoint.path} holds NaN or infinity; finite weights are wanted")
    return network.eval()


def _foreign(checkpoint: Checkpoint, what: str, missing: list[str], extra: list[str]) -> ExportError:
    parts = [
        f"{len(names)} tensors {kind} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
        for names, kind in ((missing, "missing"), (extra, "unknown"))
        if names
    ]
    return ExportError(f"{checkpoint.path} is not {what}: {' and '.join(parts)}")
