"""Does an avatar work on this machine? All that `check` looks at, and then everything is done once.

Every template frame is decoded and compared with the pixels that its mouth will be put into, the networks are run on
speech, their mouths put into frames, and the idle frames drawn anew. Nothing is written, and torch is not needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from compositor_backend import contract
from compositor_backend.blend import crop_face
from compositor_backend.compositor import compose
from compositor_backend.errors import LipstreamError
from compositor_backend.jpeg import encode
from compositor_backend.manifest import ENCODER, NETWORK
from compositor_backend.pack import AvatarPack
from compositor_backend.windows import frame_windows, network_audio, utterance_windows
from export.avatar import Progress, graph_path
from export.check import Finding, check_avatar, decode_frame
from export.errors import ExportError
from export.idle import silent_audio
from export.served_graph import open_session, run

SPEECH = Path(__file__).parent / "demo" / "speech" / "hello.flac"
SPOKEN_FRAMES = 16
"""Template frames, spread over all, that are drawn to speech from all over the recording."""
IDLE_FRAMES = 300
"""Idle frames that are drawn anew at most, spread over all: at half width they take 10 s on 2 cores."""
BATCH = 4
"""Frames drawn at a time: a batch, as requests are, in 0.7 GB for the largest network."""
FEATURES_SEED = 21

LEAST_PSNR_DB = 40.0
"""Of a region, decoded, against what it should be. Measured on the demo's avatar: networks on another processor,
off by 1 of 255 in a thousandth of their values, 62 dB; in half precision 53 dB; off by up to 3 everywhere 47 dB; the
mouth of another sound 34 to 40 dB."""
LEAST_TILE_PSNR_DB = 28.0
"""The same of its worst 16 px tile, where a mouth that moved cannot hide in a large region: 40, 38, 34; 15 to 22 dB."""
_TILE_PX = 16
_BLEED_PX = 2
"""How far a decoder's interpolation of chroma carries what lies outside a region into it."""
_MOST_FACE_STEPS = 4
"""Pillow and pillow-simd resize differently by up to 2 of 255, here in 0.3 % of the values."""


_Tell: TypeAlias = Callable[[int, int], None]
_Look: TypeAlias = Callable[[AvatarPack, _Tell], str]


def check_avatar_deeply(folder: Path, progress: Progress | None = None) -> Iterator[Finding]:
    """The findings of `check_avatar`, and those of running the avatar.

    What a part needs has to be whole first: without it the part is not run, which is a bad finding of its own.
    """
    whole: dict[str, bool] = {}
    for finding in check_avatar(folder):
        whole[finding.part] = finding.good
        yield finding
    if "pack" not in whole:
        return
    avatar_id = folder.name
    tell = progress or (lambda _what, _done, _total: None)
    parts: tuple[tuple[str, tuple[str, ...], _Look], ...] = (
        ("all frames", ("pack",), _all_frames),
        ("speech", ("pack", "network", "audio encoder"), _speech),
        ("idle frames", ("pack", "network", "audio encoder"), _idle_frames),
    )
    for part, needs, look in parts:
        broken = [need for need in needs if not whole[need]]
        if broken:
            yield Finding(
                avatar_id, part, False, f"not looked at: {' and '.join(broken)} must be whole first"
            )
        else:
            yield _found(avatar_id, part, folder, look, partial(tell, f"{avatar_id}: {part}"))


def _found(
    avatar_id: str,
    part: str,
    folder: Path,
    look: _Look,
    tell: _Tell,
) -> Finding:
    try:
        with AvatarPack(folder) as pack:
            return Finding(avatar_id, part, True, look(pack, tell))
    except LipstreamError as error:
        return Finding(avatar_id, part, False, str(error))


# --- template frames ---
def _all_frames(pack: AvatarPack, tell: _Tell) -> str:
    """Each frame decodes, and what lies beside its JPEG for its region and its face is that of the same picture."""
    for frame in range(pack.frames):
        _check_region(pack, frame, _decoded(pack, pack.frame_jpeg(frame), frame))
        _check_face(pack, frame)
        tell(frame + 1, pack.frames)
    return f"{pack.frames} frames decoded; their regions and faces are those of the same pictures"


def _decoded(pack: AvatarPack, jpeg: bytes, frame: int) -> NDArray[np.uint8]:
    pixels = decode_frame(jpeg, frame)
    wanted = (pack.manifest.height, pack.manifest.width, 3)
    if pixels.shape != wanted:
        raise ExportError(
            f"{pack.folder}: frame {frame} decodes to {list(pixels.shape)}; {list(wanted)} is wanted"
        )
    return pixels


def _check_region(pack: AvatarPack, frame: int, decoded: NDArray[np.uint8]) -> None:
    """The frame's own pixels in its region, encoded as the compositor does, are what the frame shows there."""
    region = pack.regions[frame]
    own = decode_frame(encode(pack.region_pixels(frame), pack.jpeg_settings), frame)
    shown = decoded[region.y1 : region.y2, region.x1 : region.x2]
    inside = slice(_BLEED_PX, -_BLEED_PX)
    found_db, _ = similarity(own[inside, inside], shown[inside, inside])
    if found_db < LEAST_PSNR_DB:
        raise ExportError(
            f"{pack.folder / 'region_data.npy'} and scan_data.npy show different pictures at frame {frame} "
            f"(PSNR {found_db:.1f} dB; {LEAST_PSNR_DB:.0f} is wanted)"
        )


def _check_face(pack: AvatarPack, frame: int) -> None:
    """What the network sees is the face box of the region's pixels."""
    x1, y1, x2, y2 = pack.rects[frame].tolist()
    region, family = pack.regions[frame], pack.family
    box = pack.region_pixels(frame)[y1 - region.y1 : y2 - region.y1, x1 - region.x1 : x2 - region.x1]
    crop = crop_face(box, family).transpose(2, 0, 1)
    off = int(np.abs(crop.astype(np.int16) - pack.faces[frame]).max())
    if off > _MOST_FACE_STEPS:
        raise ExportError(
            f"{pack.folder / 'faces.npy'} at frame {frame} is off by {off} of 255 from the face box in "
            f"region_data.npy; {_MOST_FACE_STEPS} at most is wanted"
        )


def similarity(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> tuple[float, float]:
    """PSNR in dB of two pictures [H,W,3], and of their worst tile of 16 px; infinity where they are equal."""
    error = np.square(one.astype(np.float32) - other).mean(axis=2)
    height, width = (max(1, side // _TILE_PX) for side in error.shape)
    tiles = [
        float(tile.mean())
        for rows in np.array_split(error, height)
        for tile in np.array_split(rows, width, axis=1)
        if tile.size
    ]
    return _psnr_db(float(error.mean())), _psnr_db(max(tiles))


def _psnr_db(square_error: float) -> float:
    return 10 * math.log10(255**2 / square_error) if square_error else math.inf


# --- networks ---
def _speech(pack: AvatarPack, tell: _Tell) -> str:
    """Draw a few frames to speech, put the mouths into them, and decode what comes of it."""
    count = min(SPOKEN_FRAMES, pack.frames)
    template = spread(pack.frames, count)
    network = _network_path(pack)
    session = open_session(network)
    mouths, keys = _draw(network, session, pack, template, _spoken_audio(pack, count))
    _check_mouths(network, template, mouths)
    for number, (frame, jpeg) in enumerate(
        zip(template.tolist(), compose(pack, template, mouths, keys), strict=True)
    ):
        _decoded(pack, jpeg, frame)
        tell(number + 1, count)
    heard = _moved(network, session, pack, template, mouths)
    what = "speech" if pack.manifest.takes_pcm else "made-up features"
    return (
        f"{count} frames drawn to {what}, composited and decoded; sound moves pixels by up to {heard} of 255"
    )


def _draw(
    network: Path,
    session: onnxruntime.InferenceSession,
    pack: AvatarPack,
    template: NDArray[np.intp],
    audio: NDArray[np.float32],
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """MOUTH and AVATAR_KEY of template frames; a key that is not the avatar's is an `ExportError`."""
    outputs = [contract.MOUTH.name, contract.AVATAR_KEY.name]
    drawn = []
    for first in range(0, len(template), BATCH):
        batch = slice(first, first + BATCH)
        inputs = {contract.FACE.name: pack.faces[template[batch]], contract.AUDIO.name: audio[batch]}
        drawn.append(run(network, session, outputs, inputs))
    mouths, keys = (np.concatenate(parts) for parts in zip(*drawn, strict=True))
    if (keys != pack.manifest.network_key).any():
        raise ExportError(
            f"{network} gives AVATAR_KEY {keys.tolist()}; {pack.manifest.network_key} is wanted"
        )
    return mouths, keys


def _check_mouths(network: Path, template: NDArray[np.intp], mouths: NDArray[np.uint8]) -> None:
    """A network that computes NaN, or whose weights are lost, draws one colour."""
    for frame, mouth in zip(template.tolist(), mouths, strict=True):
        if mouth.min() == mouth.max():
            raise ExportError(
                f"{network} draws nothing but the value {mouth.min()} for frame {frame}; a picture is wanted"
            )


def _moved(
    network: Path,
    session: onnxruntime.InferenceSession,
    pack: AvatarPack,
    template: NDArray[np.intp],
    mouths: NDArray[np.uint8],
) -> int:
    """By how much of 255 the sound changes a mouth, at most."""
    silence = np.zeros((len(template), *pack.manifest.audio_shape), np.float32)
    still, _ = _draw(network, session, pack, template, silence)
    return int(np.abs(mouths.astype(np.int16) - still).max())


def _spoken_audio(pack: AvatarPack, count: int) -> NDArray[np.float32]:
    """The network's audio input for `count` frames of a recording, or fixed numbers where it takes ready features."""
    shape = pack.manifest.audio_shape
    encoder = _encoder_path(pack)
    if pack.manifest.takes_mel:
        audio = frame_windows(utterance_windows(read_speech(SPEECH)), shape)
        return audio[spread(len(audio), count)]
    if encoder is None:
        return np.random.default_rng(FEATURES_SEED).normal(size=(count, *shape)).astype(np.float32)
    windows = utterance_windows(read_speech(SPEECH))
    (embedding,) = run(
        encoder, open_session(encoder), [contract.EMBEDDING.name], {contract.MEL.name: windows}
    )
    if not np.isfinite(embedding).all():
        raise ExportError(f"{encoder} makes NaN or infinity of speech; finite numbers are wanted")
    if np.ptp(embedding, axis=0).max() == 0:
        raise ExportError(f"{encoder} makes the same of every moment of speech")
    audio = network_audio(embedding, shape)
    return audio[spread(len(audio), count)]


def read_speech(path: Path) -> NDArray[np.int16]:
    """The samples int16 [n] of a mono recording at 16 kHz; `ExportError` if it is none."""
    import av

    try:
        with av.open(str(path)) as container:
            frames = [frame.to_ndarray().reshape(-1) for frame in container.decode(audio=0)]
            rate_hz = container.streams.audio[0].rate
    except (OSError, IndexError) as error:
        raise ExportError(f"{path}, the speech to try networks on, cannot be read: {error}") from error
    if rate_hz != contract.SAMPLE_RATE_HZ or not frames or frames[0].dtype != np.int16:
        raise ExportError(f"{path} is no recording of 16-bit samples at {contract.SAMPLE_RATE_HZ} Hz")
    return np.concatenate(frames)


def spread(available: int, count: int) -> NDArray[np.intp]:
    """`count` of the numbers 0 … available-1, evenly spread, ascending; all of them if there are no more."""
    return np.unique(np.linspace(0, available - 1, min(count, available)).round().astype(np.intp))


def _network_path(pack: AvatarPack) -> Path:
    return graph_path(pack.folder, NETWORK)


def _encoder_path(pack: AvatarPack) -> Path | None:
    return graph_path(pack.folder, ENCODER) if ENCODER in pack.manifest.graphs else None


# --- idle frames ---
def _idle_frames(pack: AvatarPack, tell: _Tell) -> str:
    """Idle frames show what the networks draw to silence today, as nearly as arithmetic differs by machine."""
    encoder = _encoder_path(pack)
    if not pack.has_idle or not pack.manifest.takes_pcm:
        return "none: the avatar has no audio encoder"
    # Every frame hears the same.
    silence = silent_audio(encoder, pack.manifest.audio_shape)[:1]
    network = _network_path(pack)
    session = open_session(network)
    template = spread(pack.frames, IDLE_FRAMES)
    equal, least_db = 0, math.inf
    for first in range(0, len(template), BATCH):
        batch = template[first : first + BATCH]
        mouths, keys = _draw(network, session, pack, batch, silence.repeat(len(batch), axis=0))
        for frame, jpeg in zip(batch.tolist(), compose(pack, batch, mouths, keys), strict=True):
            found_db = _check_idle(pack, frame, jpeg)
            equal, least_db = equal + (found_db == math.inf), min(least_db, found_db)
        tell(first + len(batch), len(template))
    others = "" if equal == len(template) else f", the others alike to {least_db:.1f} dB or more"
    return f"{equal} of {len(template)} drawn anew are equal{others}"


def _check_idle(pack: AvatarPack, frame: int, drawn: bytes) -> float:
    """PSNR in dB of an idle frame's region against `drawn`, the same drawn now; infinity if they are equal."""
    stored = pack.idle_jpeg(frame)
    if stored == drawn:
        return math.inf
    region = pack.regions[frame]
    shown, now = (
        _decoded(pack, jpeg, frame)[region.y1 : region.y2, region.x1 : region.x2] for jpeg in (stored, drawn)
    )
    found_db, tile_db = similarity(shown, now)
    if found_db < LEAST_PSNR_DB or tile_db < LEAST_TILE_PSNR_DB:
        raise ExportError(
            f"{pack.folder / 'idle_data.npy'} does not show what the networks draw to silence: frame {frame} has a "
            f"PSNR of {found_db:.1f} dB, its worst tile {tile_db:.1f} dB; {LEAST_PSNR_DB:.0f} and "
            f"{LEAST_TILE_PSNR_DB:.0f} are wanted. Import the avatar again"
        )
    return found_db
