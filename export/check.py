"""Is an avatar folder whole? Every part of it is looked at, and each finding is one sentence."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import text_format
from numpy.typing import NDArray
from PIL import Image
from tritonclient.grpc import model_config_pb2 as pb

from compositor_backend import contract
from compositor_backend.compositor import compose
from compositor_backend.contract import Model
from compositor_backend.errors import LipstreamError
from compositor_backend.geometry import FAMILIES
from compositor_backend.manifest import MANIFEST_NAME, Manifest
from compositor_backend.pack import AvatarPack
from export import model_configs
from export.atomic import STAGE_PREFIX, finish_ready_stages
from export.avatar import MODEL_FILE, audio_mode
from export.checksums import compare_sums
from export.engine_caches import shared_caches
from export.engine_check import engine_note
from export.errors import ExportError
from export.model_configs import EMBEDDED_CONFIG, PRODUCTION_CONFIG, Network, read_config
from export.served_graph import inspect_encoder, inspect_network
from export.shared_network import SHARED_FILE, is_shared

_BLEED_PX = 16
"""How far a JPEG decoder's chroma interpolation can carry a change."""


@dataclass(frozen=True)
class Finding:
    """What was found of one part of an avatar; `text` says what is there, or what is wrong."""

    avatar: str
    part: str
    good: bool
    text: str


def check_avatars(folder: Path, look: Callable[[Path], Iterator[Finding]] | None = None) -> Iterator[Finding]:
    """The findings of an avatar's folder (``avatar_<id>``), or of all avatars in a model repository.

    `look` looks at one avatar (`check_avatar` by default). `ExportError` if the folder is neither. An import that was
    killed while its folders appeared is finished first; where nothing may be written it is reported.
    """
    look = look or check_avatar
    with suppress(OSError):
        finish_ready_stages(folder.parent if folder.name.startswith(contract.AVATAR_PREFIX) else folder)
    if (folder / MANIFEST_NAME).exists() or folder.name.startswith(contract.AVATAR_PREFIX):
        yield from look(folder)
        yield from _shared_caches(folder.parent)
        return
    avatars = sorted(folder.glob(f"{contract.AVATAR_PREFIX}*")) if folder.is_dir() else []
    leftovers = list(_leftovers(folder, {path.name for path in avatars})) if folder.is_dir() else []
    if not avatars and not leftovers:
        raise ExportError(f"{folder} is no avatar's folder and holds none (avatar_<id>)")
    for avatar in avatars:
        yield from look(avatar)
    yield from _shared_caches(folder)
    yield from leftovers


def check_avatar(folder: Path) -> Iterator[Finding]:
    """The findings of one avatar; without a manifest there is one finding only."""
    avatar_id = folder.name.removeprefix(contract.AVATAR_PREFIX)
    try:
        contract.check_avatar_id(avatar_id)
        manifest = Manifest.load(folder)
        _check_manifest(manifest, avatar_id)
    except LipstreamError as error:
        yield Finding(avatar_id, "manifest", False, str(error))
        return
    root = folder.parent
    checks: tuple[tuple[str, Callable[[], str]], ...] = (
        ("pack", lambda: _pack(folder)),
        ("test frame", lambda: _test_frame(folder)),
        ("network", lambda: _network(manifest, root)),
        ("audio encoder", lambda: _encoder(manifest, root)),
        ("ensembles", lambda: _ensembles(manifest, root)),
    )
    for part, check in checks:
        try:
            yield Finding(avatar_id, part, True, check())
        except LipstreamError as error:
            yield Finding(avatar_id, part, False, str(error))


def _shared_caches(root: Path) -> Iterator[Finding]:
    """Networks that would draw with another one's cached engine, whichever avatar is looked at."""
    for shared in shared_caches(root):
        yield Finding("", "engine cache", False, shared.text)


def _leftovers(root: Path, avatars: set[str]) -> Iterator[Finding]:
    """Folders that belong to no avatar."""
    for path in sorted(root.glob(f"{STAGE_PREFIX}*")):
        text = f"{path} belongs to an import that is running, or was killed; the next import puts it in order"
        yield Finding("", "leftover", False, text)
    for prefix in (contract.FEATURES_PREFIX, contract.LIPSYNC_PREFIX):
        for path in sorted(root.glob(f"{prefix}*")):
            avatar_id = path.name.removeprefix(prefix)
            if contract.AVATAR_PREFIX + avatar_id not in avatars and not is_shared(path):
                text = f"{path} has no {contract.AVATAR_PREFIX}{avatar_id} beside it; import the avatar again"
                yield Finding(avatar_id, "leftover", False, text)


# --- manifest and pack ---
def _check_manifest(manifest: Manifest, avatar_id: str) -> None:
    if manifest.id != avatar_id:
        raise ExportError(f"{MANIFEST_NAME} is of the avatar {manifest.id!r}; {avatar_id!r} is wanted")
    mode = audio_mode(manifest.family, manifest.audio_shape)
    if manifest.audio_mode != mode:
        raise ExportError(
            f"{MANIFEST_NAME} says audio_mode {manifest.audio_mode!r}; "
            f"audio_shape {list(manifest.audio_shape)} is that of {mode!r}"
        )
    _check_idle_key(manifest)


def _check_idle_key(manifest: Manifest) -> None:
    if manifest.idle_key not in (None, manifest.network_key):
        raise ExportError(
            f"{MANIFEST_NAME} says that the network with the key {manifest.idle_key} drew the idle frames; "
            f"{manifest.network_key}, the avatar's own, is wanted: import the avatar again"
        )


def _pack(folder: Path) -> str:
    with AvatarPack(folder) as pack:
        pack.verify()
        manifest = pack.manifest
        size = f"{manifest.width}x{manifest.height} px"
        idle = "; its idle frames bear no key, import it again to have them shown"
        keyless = idle if pack.has_idle and manifest.idle_key is None else ""
        return f"{manifest.frames} frames of {size}, {pack.nbytes / 1e6:.1f} MB, checksums equal{keyless}"


def _test_frame(folder: Path) -> str:
    """Composite the template's own face into the last frame, decode the result, and look beside the face."""
    with AvatarPack(folder) as pack:
        last = pack.frames - 1
        mouth = np.ascontiguousarray(pack.faces[last].transpose(1, 2, 0))[None]
        key = np.array([[pack.manifest.network_key]], np.int64)
        (jpeg,) = compose(pack, np.array([last], np.intp), mouth, key)
        spliced, template = (decode_frame(data, last) for data in (jpeg, pack.frame_jpeg(last)))
        if spliced.shape != (pack.manifest.height, pack.manifest.width, 3):
            raise ExportError(f"frame {last} decodes to {list(spliced.shape)}; the manifest says otherwise")
        region = pack.regions[last]
        for pixels in (spliced, template):
            top, left = max(0, region.y1 - _BLEED_PX), max(0, region.x1 - _BLEED_PX)
            pixels[top : region.y2 + _BLEED_PX, left : region.x2 + _BLEED_PX] = 0
        if not np.array_equal(spliced, template):
            raise ExportError(f"frame {last} changes outside its face box when a mouth is put into it")
    return f"frame {last} spliced and decoded, {len(jpeg) / 1e3:.0f} kB"


def decode_frame(jpeg: bytes, frame: int) -> NDArray[np.uint8]:
    """The pixels uint8 [H,W,3] RGB of a JPEG; `ExportError`, naming the frame, if it does not decode."""
    try:
        with Image.open(io.BytesIO(jpeg), formats=("JPEG",)) as picture:
            return np.array(picture.convert("RGB"))
    except OSError as error:
        raise ExportError(f"frame {frame} does not decode: {error}") from error


# --- networks ---
def check_graphs(manifest: Manifest, root: Path) -> None:
    """Refuse (`LipstreamError`) an avatar whose network or audio encoder in `root` is not what its manifest says.

    So is one whose idle frames another network drew.
    """
    _check_idle_key(manifest)
    _network_graph(manifest, root)
    if manifest.encoder is not None:
        _encoder_graph(root / contract.audio_encoder_name(manifest.encoder))


def _network(manifest: Manifest, root: Path) -> str:
    summed = _network_graph(manifest, root)
    network = Network(manifest.network, FAMILIES[manifest.family].network_px, manifest.audio_shape)
    _check_config_pair(root / manifest.network, network.model, contract.MAX_FRAMES)
    engine = engine_note(root / manifest.network)
    shared = manifest.network != contract.lipsync_name(manifest.id)
    if shared and not is_shared(root / manifest.network):
        raise ExportError(
            f"{root / manifest.network} has no {SHARED_FILE}, and is not this avatar's own: an import of the avatar "
            "whose id it bears would exchange it"
        )
    name = f"{manifest.network} (shared)" if shared else manifest.network
    about = f"{manifest.family} family, {manifest.audio_mode}"
    return f"{name}, {about}, key equal{_summed(summed)}{engine}"


def _network_graph(manifest: Manifest, root: Path) -> bool:
    """Look at the graph; whether there was a checksum to compare it with."""
    folder = root / manifest.network
    network = inspect_network(_model_file(folder), clone=True)
    if (network.family, network.audio_shape) != (manifest.family, manifest.audio_shape):
        raise ExportError(
            f"{folder} is a {network.family} network with audio {list(network.audio_shape)}; the manifest says "
            f"{manifest.family} with {list(manifest.audio_shape)}"
        )
    if network.key != manifest.network_key:
        raise ExportError(
            f"{folder} has the key {network.key}; the manifest says {manifest.network_key}: "
            "the network is another avatar's, or an import was cut off; import the avatar again"
        )
    return compare_sums(folder)


def _encoder(manifest: Manifest, root: Path) -> str:
    if manifest.hears_mel:
        return "none: the network hears mel windows"
    if manifest.encoder is None:
        return "none: features come ready from the client"
    name = contract.audio_encoder_name(manifest.encoder)
    summed = _encoder_graph(root / name)
    _check_config_pair(root / name, contract.audio_encoder_model(name), contract.MAX_WINDOWS)
    return f"{name}{_summed(summed)}"


def _encoder_graph(folder: Path) -> bool:
    inspect_encoder(_model_file(folder))
    return compare_sums(folder)


def _summed(summed: bool) -> str:
    return ", checksum equal" if summed else ", no checksum to compare with"


def _model_file(folder: Path) -> Path:
    path = folder / MODEL_FILE
    if not path.is_file():
        raise ExportError(f"{path} is not there")
    return path


def _check_config_pair(folder: Path, model: Model, rows: int) -> None:
    """What an operator may tune (instances, queues, accelerators) is left to them."""
    for name in (PRODUCTION_CONFIG, EMBEDDED_CONFIG):
        config = _read(folder / name)
        backends = ("onnxruntime", "tensorrt") if name == PRODUCTION_CONFIG else ("onnxruntime",)
        if config.name != model.name or config.backend not in backends:
            raise ExportError(
                f"{folder / name} is of the model {config.name!r} on the backend {config.backend!r}; "
                f"{model.name!r} on {' or '.join(map(repr, backends))} is wanted"
            )
        if config.max_batch_size < rows:
            raise ExportError(
                f"{folder / name} has max_batch_size {config.max_batch_size}; a request may have {rows} rows"
            )
        _check_config_files(folder, name, config)
        for given, tensors in ((config.input, model.inputs), (config.output, model.outputs)):
            found = [_described(tensor) for tensor in given]
            wanted = [(t.name, t.config_dtype, t.shape[1:]) for t in tensors]
            if found != wanted:
                raise ExportError(f"{folder / name} has the tensors {found}; {wanted} are wanted")


def _check_config_files(folder: Path, name: Path, config: pb.ModelConfig) -> None:
    """A config leads Triton to a graph of its own folder, and to no code."""
    libraries = config.model_operations.op_library_filename
    if libraries:
        raise ExportError(
            f"{folder / name} lets Triton load the code in {libraries[0]!r}; an avatar brings none"
        )
    graph = config.default_model_filename
    if not graph or Path(graph).name != graph:
        raise ExportError(f"{folder / name} serves {graph!r}; a file of {folder / '1'} is wanted")
    if not (folder / "1" / graph).is_file():
        raise ExportError(
            f"{folder / name} serves {folder / '1' / graph}, which is not there; "
            "python -m export engine builds engines anew"
        )


def _described(tensor: Any) -> tuple[str, str, tuple[int, ...]]:
    return tensor.name, pb.DataType.Name(tensor.data_type), tuple(tensor.dims)


# --- ensembles ---
def _ensembles(manifest: Manifest, root: Path) -> str:
    network = Network(manifest.network, FAMILIES[manifest.family].network_px, manifest.audio_shape)
    wanted = [model_configs.features_ensemble(manifest.id, network)]
    if manifest.hears_speech:
        wanted.append(model_configs.avatar_ensemble(manifest.id, manifest.encoder, network))
    for config in wanted:
        folder = root / config.name
        _check_ensemble(folder / PRODUCTION_CONFIG, config, root)
        if not (folder / "1").is_dir():
            raise ExportError(f"{folder} has no version folder named 1; an ensemble needs an empty one")
    return ", ".join(config.name for config in wanted)


def _check_ensemble(path: Path, wanted: pb.ModelConfig, root: Path) -> None:
    """An ensemble is what the manifest makes it, and the steps that the avatars' repository holds are there."""
    found = _read(path)
    shared = {model.name for model in contract.SHARED_MODELS}
    for step in found.ensemble_scheduling.step:
        if step.model_name not in shared and not (root / step.model_name / PRODUCTION_CONFIG).is_file():
            raise ExportError(f"{path} has the step {step.model_name}, which is not in {root}")
    if found != wanted:
        steps = [[step.model_name for step in c.ensemble_scheduling.step] for c in (found, wanted)]
        what = f"has the steps {steps[0]}" if steps[0] != steps[1] else "maps its tensors differently"
        raise ExportError(f"{path} {what}; the manifest wants {steps[1]} with the contract's tensors")


def _read(path: Path) -> pb.ModelConfig:
    try:
        return read_config(path)
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise ExportError(f"{path} cannot be read: {error}") from error
