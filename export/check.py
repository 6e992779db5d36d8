"""Is an avatar folder whole? Every part of it is looked at, and each finding is one sentence."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from google.protobuf import text_format
from PIL import Image
from tritonclient.grpc import model_config_pb2 as pb

from compositor_backend import contract
from compositor_backend.compositor import compose
from compositor_backend.contract import Model
from compositor_backend.errors import LipstreamError
from compositor_backend.manifest import MANIFEST_NAME
from compositor_backend.pack import AvatarPack
from export.avatar import MODEL_FILE
from export.errors import ExportError
from export.model_configs import EMBEDDED, read_config
from export.served_graph import inspect_encoder, inspect_network


@dataclass(frozen=True)
class Finding:
    """What was found of one part of an avatar."""

    avatar: str
    part: str
    good: bool
    text: str


def check_avatars(folder: Path) -> Iterator[Finding]:
    """The findings of an avatar's folder (``avatar_<id>``), or of all avatars in a model repository."""
    if (folder / MANIFEST_NAME).exists() or folder.name.startswith(contract.AVATAR_PREFIX):
        yield from check_avatar(folder)
        return
    avatars = sorted(folder.glob(f"{contract.AVATAR_PREFIX}*")) if folder.is_dir() else []
    if not avatars:
        raise ExportError(f"{folder} is no avatar's folder and holds none (avatar_<id>)")
    for avatar in avatars:
        yield from check_avatar(avatar)


def check_avatar(folder: Path) -> Iterator[Finding]:
    """The findings of one avatar; those that rest on a part found broken are left out."""
    avatar_id = folder.name.removeprefix(contract.AVATAR_PREFIX)
    try:
        contract.check_avatar_id(avatar_id)
        pack = AvatarPack(folder)
    except LipstreamError as error:
        yield Finding(avatar_id, "pack", False, str(error))
        return
    with pack:
        checks: tuple[tuple[str, Callable[[], str]], ...] = (
            ("pack", lambda: _pack(pack, avatar_id)),
            ("test frame", lambda: _test_frame(pack)),
            ("network", lambda: _network(pack, folder.parent)),
            ("audio encoder", lambda: _encoder(pack, folder.parent)),
            ("ensembles", lambda: _ensembles(pack, folder.parent)),
        )
        for part, check in checks:
            try:
                yield Finding(avatar_id, part, True, check())
            except LipstreamError as error:
                yield Finding(avatar_id, part, False, str(error))


def _pack(pack: AvatarPack, avatar_id: str) -> str:
    if pack.manifest.id != avatar_id:
        raise ExportError(f"{MANIFEST_NAME} is of the avatar {pack.manifest.id}; {avatar_id} is wanted")
    pack.verify()
    size = sum(entry.bytes for entry in pack.manifest.files.values())
    manifest = pack.manifest
    return f"{manifest.frames} frames of {manifest.width}x{manifest.height} px, {size / 1e6:.1f} MB, checksums equal"


def _test_frame(pack: AvatarPack) -> str:
    """Composite the template's own face into the last frame, and decode the result."""
    last = pack.frames - 1
    inner = pack.family.inner
    mouth = np.ascontiguousarray(pack.crops[last][inner, inner])[None]
    key = np.array([[pack.manifest.network_key]], np.int64)
    (jpeg,) = compose(pack, np.array([last], np.intp), mouth, key)
    try:
        with Image.open(io.BytesIO(jpeg)) as picture:
            picture.load()
            size = picture.size
    except OSError as error:
        raise ExportError(f"frame {last} does not decode: {error}") from error
    if size != (pack.manifest.width, pack.manifest.height):
        raise ExportError(f"frame {last} decodes to {size[0]}x{size[1]} px; the manifest says otherwise")
    return f"frame {last} spliced and decoded, {len(jpeg) / 1e3:.0f} kB"


def _network(pack: AvatarPack, root: Path) -> str:
    manifest = pack.manifest
    folder = root / manifest.network
    network = inspect_network(_model_file(folder))
    if network.family != manifest.family or network.audio_shape != manifest.audio_shape:
        raise ExportError(
            f"{folder} is a {network.family} network with audio {list(network.audio_shape)}; the manifest says "
            f"{manifest.family} with {list(manifest.audio_shape)}"
        )
    if network.key != manifest.network_key:
        raise ExportError(f"{folder} has the key {network.key}; the manifest says {manifest.network_key}")
    _check_config_pair(folder, network.named(manifest.network).model)
    return f"{manifest.network}, {manifest.family} family, {manifest.audio_mode}, key equal"


def _encoder(pack: AvatarPack, root: Path) -> str:
    if pack.manifest.encoder is None:
        return "none: features come ready from the client"
    name = contract.audio_encoder_name(pack.manifest.encoder)
    inspect_encoder(_model_file(root / name))
    _check_config_pair(root / name, contract.audio_encoder_model(name))
    return name


def _ensembles(pack: AvatarPack, root: Path) -> str:
    manifest = pack.manifest
    models = [contract.features_ensemble(manifest.id, manifest.audio_shape)]
    if manifest.encoder is not None:
        models.append(contract.avatar_ensemble(manifest.id))
    for model in models:
        config = _check_config(root / model.name / "config.pbtxt", model)
        if not (root / model.name / "1").is_dir():
            raise ExportError(f"{root / model.name} has no version folder named 1")
        steps = {step.model_name for step in config.ensemble_scheduling.step}
        wanted = _steps(
            manifest.network, manifest.encoder if model.name.startswith(contract.AVATAR_PREFIX) else None
        )
        if steps != wanted:
            raise ExportError(
                f"{root / model.name} has the steps {sorted(steps)}; {sorted(wanted)} are wanted"
            )
    return ", ".join(model.name for model in models)


def _steps(network: str, encoder: str | None) -> set[str]:
    """The models an ensemble is made of."""
    shared = {model.name for model in contract.SHARED_MODELS} | {network}
    if encoder is None:
        return shared - {contract.AUDIO_FEATURES_MODEL.name}
    return shared | {contract.audio_encoder_name(encoder)}


def _model_file(folder: Path) -> Path:
    path = folder / MODEL_FILE
    if not path.is_file():
        raise ExportError(f"{path} is not there")
    return path


def _check_config_pair(folder: Path, model: Model) -> None:
    for name in ("config.pbtxt", f"configs/{EMBEDDED}.pbtxt"):
        _check_config(folder / name, model)


def _check_config(path: Path, model: Model) -> pb.ModelConfig:
    """The config at `path`, if its name and tensors are the contract's."""
    try:
        config = read_config(path)
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise ExportError(f"{path} cannot be read: {error}") from error
    if config.name != model.name:
        raise ExportError(f"{path} is of the model {config.name}; {model.name} is wanted")
    batched = config.max_batch_size > 0
    for given, tensors in ((config.input, model.inputs), (config.output, model.outputs)):
        found = [_described(tensor) for tensor in given]
        wanted = [(t.name, t.config_dtype, t.shape[1:] if batched else t.shape) for t in tensors]
        if found != wanted:
            raise ExportError(f"{path} has the tensors {found}; {wanted} are wanted")
    return config


def _described(tensor: pb.ModelInput | pb.ModelOutput) -> tuple[str, str, tuple[int, ...]]:
    return tensor.name, pb.DataType.Name(tensor.data_type), tuple(tensor.dims)
