"""Reads trained weights under all the names they are found under, and nothing that could run code."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from compositor_backend.pack import file_sha256
from export.errors import ExportError
from export.networks.audio_encoder import AudioEncoder
from export.networks.families import FAMILIES, MEL_MODE, AudioMode, NetworkFamily
from export.networks.unet import LipSyncUNet
from export.networks.wav2lip import LEAST_WIDEST, Wav2Lip

MAX_BYTES = 2 << 30
"""The largest checkpoint read; the full-width network with its optimizer's state is 0.15 GB."""
MAX_WIDTH = 2048
"""The most channels that a level may have; the published networks have 16 to 512."""
# The last convolution reads half the narrowest width, and the audio branch begins with an eighth of the widest.
_LEAST_WIDTHS = (2, 2, 2, 2, 8)

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
    OSError,
)
# Batch norms count their steps while training; older checkpoints lack it, and nothing here reads it.
_COUNTER = "num_batches_tracked"
_WRAPPERS = ("model", "state_dict")
_PREFIX = "module."
_ENCODER_PREFIX = "audio_encoder."
_WAV2LIP = "wav2lip-96"
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
        found = "is no file" if path.exists() else "is not there"
        raise ExportError(f"{path} {found}; a checkpoint (.pth) is wanted")
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ExportError(f"{path} has {size / 1e9:.1f} GB; a checkpoint of at most 2 GB is wanted")
    _check_archive(path, size)
    loaded = _load(path)
    state = _unwrap(loaded)
    if state is None:
        raise ExportError(f"{path} holds a {type(loaded).__name__}; a state_dict of tensors is wanted")
    renamed = _renamed({key: tensor for key, tensor in state.items() if not key.endswith(_COUNTER)})
    for key, tensor in renamed.items():
        _check_tensor(path, key, tensor)
    return Checkpoint(path, file_sha256(path), renamed)


def load_network(
    path: Path, family: str | None = None, audio: str | None = None
) -> tuple[LipSyncUNet | Wav2Lip, Checkpoint]:
    """The U-Net or Wav2Lip network of a checkpoint, in evaluation mode, and what it was read from.

    Widths, and the family if None, follow from the weights. `audio` may be None only where they tell it too:
    ``ave`` and ``hubert`` of the 328 family have the same shapes. A family or mode that contradicts the
    weights is an `ExportError`.
    """
    checkpoint = read_checkpoint(path)
    if _is_wav2lip(checkpoint, family):
        _check_wav2lip(checkpoint, family, audio)
        return _wav2lip(checkpoint), checkpoint
    return _unet(checkpoint, family, audio), checkpoint


def describe_unet(path: Path, family: str | None = None) -> tuple[str, tuple[str, ...]]:
    """The family of a network's checkpoint, and the audio modes that its weights fit: several where they are alike."""
    checkpoint = read_checkpoint(path)
    if _is_wav2lip(checkpoint, family):
        _check_wav2lip(checkpoint, family, None)
        return _WAV2LIP, (MEL_MODE.name,)
    spec = _family(checkpoint, family)
    # Where none fits, the second call says which are known.
    fitting = _fitting(checkpoint, spec) or [_audio_mode(checkpoint, spec, None)]
    return spec.name, tuple(mode.name for mode in fitting)


def load_encoder(path: Path) -> tuple[AudioEncoder, Checkpoint]:
    """The audio encoder of a checkpoint, in evaluation mode, and what it was read from."""
    checkpoint = read_checkpoint(path)
    return _fill(AudioEncoder(), checkpoint, "an audio encoder"), checkpoint


def _check_archive(path: Path, size: int) -> None:
    """PyTorch stores tensors as they are; what unpacks to more than the file holds is no checkpoint of its making."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError):
        return  # an older file, or none that can be read: `_load` says so
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > size or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ExportError(
            f"{path} has {size / 1e6:.1f} MB and claims to hold {unpacked / 1e6:.1f} MB, or to be compressed; "
            "a checkpoint as PyTorch writes it is wanted"
        )


def _load(path: Path) -> object:
    try:
        with warnings.catch_warnings():
            # What is odd about a file is said below, in one sentence.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        found = re.search(r"(?:Unsupported global: |unsupported )GLOBAL (\S+)", str(error))
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


def _check_tensor(path: Path, key: str, tensor: Tensor) -> None:
    plain = tensor.layout is torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
    if not plain or not tensor.is_floating_point():
        kind = "" if plain else f" ({tensor.layout}, {tensor.device})"
        raise ExportError(f"{path}: {key} is {tensor.dtype}{kind}; plain floating-point weights are wanted")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise ExportError(
            f"{path}: {key} has shape {list(tensor.shape)} and fewer numbers than that; whole weights are wanted"
        )
    if not tensor.isfinite().all():
        raise ExportError(f"{path}: {key} holds NaN or infinity; finite weights are wanted")
    if key.endswith("running_var") and tensor.min() < 0:
        raise ExportError(f"{path}: {key} holds {tensor.min():.3g}; variances of 0 or more are wanted")


def _renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Under the names of the definitions here; an encoder's prefix goes only where all of the file has it."""
    plain = {key.removeprefix(_PREFIX): tensor for key, tensor in state.items()}
    if all(key.startswith(_ENCODER_PREFIX) for key in plain):
        plain = {key.removeprefix(_ENCODER_PREFIX).removeprefix(_PREFIX): t for key, t in plain.items()}
    return {_rename(key): tensor for key, tensor in plain.items()}


def _rename(key: str) -> str:
    for pattern, replacement in _RENAMES:
        key = pattern.sub(replacement, key)
    return key


def _is_wav2lip(checkpoint: Checkpoint, family: str | None) -> bool:
    """Whether it has a Wav2Lip network's names, or, having no U-Net's either, was said to be one."""
    if any(key.startswith("face_encoder_blocks.") for key in checkpoint.state):
        return True
    return family in FAMILIES and not FAMILIES[family].levels and _level_weight(0) not in checkpoint.state


def _check_wav2lip(checkpoint: Checkpoint, family: str | None, audio: str | None) -> None:
    if family not in (None, _WAV2LIP):
        taken = any(spec.name == family and not spec.levels for spec in FAMILIES.values())
        what = f"{family} networks are taken as .onnx only" if taken else f"{family} was said"
        raise ExportError(f"{checkpoint.path} is read as a network of the {_WAV2LIP} family; {what}")
    if audio not in (None, MEL_MODE.name):
        raise ExportError(f"the {_WAV2LIP} family has no audio mode {audio}; {MEL_MODE.name} is known")


def _wav2lip(checkpoint: Checkpoint) -> Wav2Lip:
    key = "face_encoder_blocks.6.0.conv_block.0.weight"
    weight = checkpoint.state.get(key)
    widest = 0 if weight is None or weight.ndim != 4 else weight.shape[0]
    what = f"a network of the {_WAV2LIP} family (larger ones are taken as .onnx)"
    if weight is None:
        with torch.device("meta"):
            raise _foreign(checkpoint, what, *_differing_names(checkpoint, Wav2Lip().state_dict()))
    if not LEAST_WIDEST <= widest <= MAX_WIDTH or widest % LEAST_WIDEST:
        raise ExportError(
            f"{checkpoint.path}: {key} has shape {list(weight.shape)}; a multiple of {LEAST_WIDEST} up to {MAX_WIDTH} "
            f"is wanted first for {what}"
        )
    return _fill(Wav2Lip(widest), checkpoint, what)


def _unet(checkpoint: Checkpoint, family: str | None, audio: str | None) -> LipSyncUNet:
    spec = _family(checkpoint, family)
    mode = _audio_mode(checkpoint, spec, audio)
    network = LipSyncUNet(spec.name, mode.name, _widths(checkpoint, spec))
    return _fill(network, checkpoint, f"a U-Net of the {spec.name} family")


def _level_weight(level: int) -> str:
    block = f"down{level}.maxpool_conv.0.double_conv.0" if level else "inc.inconv.0"
    return f"{block}.conv.6.weight"


def _family(checkpoint: Checkpoint, wanted: str | None) -> NetworkFamily:
    if wanted not in (None, *FAMILIES):
        raise ExportError(f"{wanted} is no network family; one of {', '.join(FAMILIES)} is wanted")
    if _level_weight(0) not in checkpoint.state:
        raise _foreign(checkpoint, "a U-Net", *_differing_names(checkpoint, _published(wanted or "328")))
    levels = 1
    while _level_weight(levels) in checkpoint.state:
        levels += 1
    found = next((f for f in FAMILIES.values() if len(f.levels) == levels), None)
    if found is None or wanted not in (None, found.name):
        what = f"of the {found.name} family" if found else "of no known family"
        expected = (
            f"{len(FAMILIES[wanted].levels) or 'none'} are wanted for the {wanted} family"
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
    fitting = _fitting(checkpoint, spec)
    if wanted is None:
        if len(fitting) == 1:
            return fitting[0]
        names = " or ".join(mode.name for mode in fitting) or "a known audio mode"
        raise ExportError(f"{checkpoint.path} does not tell its audio mode: say whether it is {names}")
    if spec.audio[wanted] not in fitting:
        raise ExportError(
            f"{checkpoint.path} reads audio of {_audio_channels(checkpoint)} channels; "
            f"{spec.audio[wanted].shape[0]} are wanted for the audio mode {wanted}"
        )
    return spec.audio[wanted]


def _fitting(checkpoint: Checkpoint, spec: NetworkFamily) -> list[AudioMode]:
    channels = _audio_channels(checkpoint)
    return [mode for mode in spec.audio.values() if mode.shape[0] == channels]


def _audio_channels(checkpoint: Checkpoint) -> int | None:
    weight = checkpoint.state.get("audio_model.conv1.conv.0.weight")
    return None if weight is None or weight.ndim < 2 else weight.shape[1]


def _widths(checkpoint: Checkpoint, spec: NetworkFamily) -> list[int]:
    by_level = {width: level for level, width in reversed(list(enumerate(spec.levels)))}
    widths = []
    for n, least in enumerate(_LEAST_WIDTHS):
        key = _level_weight(by_level[n])
        shape = list(checkpoint.state[key].shape)
        if len(shape) != 4 or not least <= shape[0] <= MAX_WIDTH:
            wanted = f"[{least} to {MAX_WIDTH}, …, 1, 1]"
            raise ExportError(f"{checkpoint.path}: {key} has shape {shape}; {wanted} is wanted for a U-Net")
        widths.append(shape[0])
    return widths


def _published(family: str) -> Mapping[str, Tensor]:
    """A family's names; the meta device stores no weights."""
    with torch.device("meta"):
        return LipSyncUNet(family, next(iter(FAMILIES[family].audio))).state_dict()


def _fill(network: Network, checkpoint: Checkpoint, what: str) -> Network:
    wanted = network.state_dict()
    missing, extra = _differing_names(checkpoint, wanted)
    if missing or extra:
        raise _foreign(checkpoint, what, missing, extra)
    for key, tensor in checkpoint.state.items():
        if tensor.shape != wanted[key].shape:
            raise ExportError(
                f"{checkpoint.path}: {key} has shape {list(tensor.shape)}; "
                f"{list(wanted[key].shape)} is wanted for {what}"
            )
    network.load_state_dict(checkpoint.state, strict=False)
    return network.eval()


def _differing_names(checkpoint: Checkpoint, state: Mapping[str, Tensor]) -> tuple[list[str], list[str]]:
    """Names that the checkpoint lacks, and those that it has and `state` has not."""
    wanted = {key for key in state if not key.endswith(_COUNTER)}
    return sorted(wanted - checkpoint.state.keys()), sorted(checkpoint.state.keys() - wanted)


def _foreign(checkpoint: Checkpoint, what: str, missing: list[str], extra: list[str]) -> ExportError:
    parts = [
        f"{len(names)} tensors {kind} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
        for names, kind in ((missing, "missing"), (extra, "unknown"))
        if names
    ]
    return ExportError(f"{checkpoint.path} is not {what}: {' and '.join(parts)}")
