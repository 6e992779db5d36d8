"""Is an avatar folder whole? Every part of it is looked at, and each finding is one sentence."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from compositor_backend import contract
from compositor_backend.compositor import compose
from compositor_backend.engines import ENGINES_FOLDER
from compositor_backend.errors import LipstreamError
from compositor_backend.geometry import FAMILIES
from compositor_backend.manifest import ENCODER, MANIFEST_NAME, NETWORK, NETWORK_FP16, Manifest
from compositor_backend.pack import AvatarPack, file_sha256
from export.atomic import STAGE_PREFIX, finish_ready_stages
from export.avatar import STAMP_FILE, audio_mode
from export.engine_check import engine_findings
from export.errors import ExportError
from export.picture_parity import PictureLimits, compare, run_graph, trial_inputs
from export.served_graph import inspect_encoder, inspect_network

_BLEED_PX = 16
"""How far a JPEG decoder's chroma interpolation can carry a change."""
_HALF_LIMITS = PictureLimits(min_psnr_db=40.0, max_steps=8)
"""Of the network in half precision against float32. Import demands more; this allows for another processor."""


@dataclass(frozen=True)
class Finding:
    """What was found of one part of an avatar; `text` says what is there, or what is wrong."""

    avatar: str
    part: str
    good: bool
    text: str


def check_avatars(folder: Path, look: Callable[[Path], Iterator[Finding]] | None = None) -> Iterator[Finding]:
    """The findings of an avatar's folder, or of all avatars in a folder of them.

    `look` looks at one avatar (`check_avatar` by default). `ExportError` if the folder is neither. An import that was
    killed while its folder appeared is finished first; where nothing may be written it is reported.
    """
    look = look or check_avatar
    if (folder / MANIFEST_NAME).exists():
        yield from look(folder)
        return
    with suppress(OSError):
        finish_ready_stages(folder)
    inside = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    leftovers = [path for path in inside if path.name.startswith(STAGE_PREFIX)]
    avatars = [path for path in inside if not path.name.startswith(".")]
    if not avatars and not leftovers:
        raise ExportError(f"{folder} is no avatar's folder and holds none")
    for avatar in avatars:
        yield from look(avatar)
    for path in leftovers:
        text = f"{path} belongs to an import that is running, or was killed; the next import puts it in order"
        yield Finding("", "leftover", False, text)


def check_avatar(folder: Path) -> Iterator[Finding]:
    """The findings of one avatar; without a manifest there is one finding only."""
    try:
        avatar_id = contract.check_avatar_id(folder.name)
        manifest = Manifest.load(folder)
        _check_manifest(manifest, avatar_id)
    except LipstreamError as error:
        yield Finding(folder.name, "manifest", False, str(error))
        return
    checks: tuple[tuple[str, Callable[[], str]], ...] = (
        ("pack", lambda: _pack(folder)),
        ("test frame", lambda: _test_frame(folder)),
        ("network", lambda: _network(manifest, folder)),
        ("audio encoder", lambda: _encoder(manifest, folder)),
        ("files", lambda: _files(manifest, folder)),
    )
    for part, check in checks:
        try:
            yield Finding(avatar_id, part, True, check())
        except LipstreamError as error:
            yield Finding(avatar_id, part, False, str(error))
    for good, text in engine_findings(folder, manifest):
        yield Finding(avatar_id, "engines", good, text)


# --- manifest and pack ---
def _check_manifest(manifest: Manifest, avatar_id: str) -> None:
    if manifest.id != avatar_id:
        raise ExportError(f"{MANIFEST_NAME}: expected the avatar {avatar_id!r}, got {manifest.id!r}")
    mode = audio_mode(manifest.family, manifest.audio_shape)
    if manifest.audio_mode != mode:
        raise ExportError(
            f"{MANIFEST_NAME} says audio_mode {manifest.audio_mode!r}; "
            f"audio_shape {list(manifest.audio_shape)} is that of {mode!r}"
        )
    if manifest.idle_key not in (None, manifest.network_key):
        raise ExportError(
            f"{MANIFEST_NAME} says that the network with the key {manifest.idle_key} drew the idle frames; "
            f"expected {manifest.network_key}, the avatar's own: import the avatar again"
        )


def _pack(folder: Path) -> str:
    with AvatarPack(folder) as pack:
        pack.verify()
        manifest = pack.manifest
        size = f"{manifest.width}x{manifest.height} px"
        return f"{manifest.frames} frames of {size}, {pack.nbytes / 1e6:.1f} MB, checksums equal"


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
def check_graphs(manifest: Manifest, folder: Path) -> None:
    """Refuse (`LipstreamError`) an avatar whose network or audio encoder is not what its manifest says."""
    _network(manifest, folder)
    _encoder(manifest, folder)


def _network(manifest: Manifest, folder: Path) -> str:
    whole = _checked_file(manifest, folder, NETWORK)
    _check_network(manifest, whole)
    kind = f"{manifest.family} family, {manifest.audio_mode}"
    if NETWORK_FP16 not in manifest.graphs:
        return f"{kind}, key and checksum equal"
    half = _checked_file(manifest, folder, NETWORK_FP16)
    _check_network(manifest, half)
    trial = trial_inputs(FAMILIES[manifest.family].network_px, manifest.audio_shape, [1])
    parity = compare(str(half), run_graph(half), run_graph(whole), trial, _HALF_LIMITS)
    return f"{kind}, key and checksum equal; in half precision too: {parity}"


def _check_network(manifest: Manifest, path: Path) -> None:
    network = inspect_network(path)
    if (network.family, network.audio_shape) != (manifest.family, manifest.audio_shape):
        raise ExportError(
            f"{path} is a {network.family} network with audio {list(network.audio_shape)}; the manifest says "
            f"{manifest.family} with {list(manifest.audio_shape)}"
        )
    if network.key != manifest.network_key:
        raise ExportError(
            f"{path} has the key {network.key}; the manifest says {manifest.network_key}: "
            "the network is another avatar's; import the avatar again"
        )


def _encoder(manifest: Manifest, folder: Path) -> str:
    if manifest.takes_mel:
        return "none: the network takes mel windows"
    if ENCODER not in manifest.graphs:
        return "none: features come ready from the client"
    inspect_encoder(_checked_file(manifest, folder, ENCODER))
    return "checksum equal"


def _checked_file(manifest: Manifest, folder: Path, name: str) -> Path:
    path, entry = folder / f"{name}.onnx", manifest.graphs[name]
    if not path.is_file():
        raise ExportError(f"{path} is not there")
    if (size := path.stat().st_size) != entry.bytes:
        raise ExportError(f"{path} is {size} bytes long; the manifest says {entry.bytes}")
    if file_sha256(path) != entry.sha256:
        raise ExportError(f"{path} is damaged: its SHA-256 is not the manifest's")
    return path


def _files(manifest: Manifest, folder: Path) -> str:
    """Nothing lies in the folder that serving does not look at."""
    known = {MANIFEST_NAME, STAMP_FILE, ENGINES_FOLDER, *(f"{name}.npy" for name in manifest.files)}
    known |= {f"{name}.onnx" for name in manifest.graphs}
    others = sorted(path.name for path in folder.iterdir() if path.name not in known)
    if others:
        raise ExportError(f"{folder} holds {others[0]}, which is no part of an avatar")
    return "no others than an avatar's"
