"""The wire contract: names, dtypes, shapes and limits of every tensor, and the checks on what comes in.

Written once, here; servers, clients, exporters, configs and tests import it.
``-1`` in a shape is a dimension that varies. Shapes include the batch dimension.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compositor_backend.errors import AvatarIdError, TensorError

# --- time ---
SAMPLE_RATE_HZ = 16_000
FRAME_RATE_HZ = 25
SAMPLES_PER_FRAME = SAMPLE_RATE_HZ // FRAME_RATE_HZ  # 640
FRAMES_BEFORE = 10
"""Frames (400 ms) of audio that a request carries before its first frame."""
FRAMES_AFTER = 12
"""Frames (480 ms) of audio that a request carries after its last frame; the network looks 452 ms ahead."""
CHUNK_GRID_FRAMES = 5
"""Chunks start on multiples of this: 200 ms is a whole number of mel frames (16), so windows fall alike."""
MAX_FRAMES = 32
"""Frames in one request, at most."""

# --- mel and encoder ---
MEL_BANDS = 80
MEL_FRAMES_PER_WINDOW = 16
EMBEDDING_SIZE = 512
WINDOWS_BEFORE = 9
"""Encoder frames i-9 … i+6 make the network's audio input for frame i."""
WINDOWS_AFTER = 6
WINDOWS_PER_FRAME = WINDOWS_BEFORE + 1 + WINDOWS_AFTER  # 16
MAX_WINDOWS = MAX_FRAMES + WINDOWS_PER_FRAME - 1  # 47

AVATAR_ID_PATTERN = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


@dataclass(frozen=True)
class Tensor:
    """A tensor on the wire.

    `dtype` is the KServe v2 name (``UINT8``, ``FP32``, ``BYTES`` …), `shape` includes the batch dimension.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def config_dtype(self) -> str:
        """The name of the same type in a ``config.pbtxt``."""
        return "TYPE_STRING" if self.dtype == "BYTES" else f"TYPE_{self.dtype}"


# --- what clients send and get ---
AVATAR = Tensor("AVATAR", "BYTES", (1,))
FRAME_INDEX = Tensor("FRAME_INDEX", "INT32", (-1,))
PCM = Tensor("PCM", "INT16", (-1,))
JPEG = Tensor("JPEG", "BYTES", (-1,))
RECT = Tensor("RECT", "INT32", (-1, 4))
REGION = Tensor("REGION", "BYTES", (-1,))
"""The changed part of each frame, a baseline JPEG of REGION_RECT."""
REGION_RECT = Tensor("REGION_RECT", "INT32", (-1, 4))
MANIFEST = Tensor("MANIFEST", "BYTES", (-1,))
OFFSET = Tensor("OFFSET", "INT32", (1,))
LIMIT = Tensor("LIMIT", "INT32", (1,))
FRAME_OUTPUTS = (JPEG, RECT, REGION, REGION_RECT)
"""What `avatar`, `avatar_from_features` and `idle_frames` give, each only if it is asked for."""

# --- what goes between the models ---
MEL = Tensor("MEL", "FP32", (-1, 1, MEL_BANDS, MEL_FRAMES_PER_WINDOW))
EMBEDDING = Tensor("EMBEDDING", "FP32", (-1, -1))
"""A row for each mel window: 512 numbers of the avatar's audio encoder, or the window's own 80 x 16 numbers for a
network that takes mel itself."""
AVATAR_ROWS = Tensor("AVATAR_ROWS", "BYTES", (-1, 1))
"""AVATAR once for each row of a batch."""
FRAME_INDEX_ROWS = Tensor("FRAME_INDEX_ROWS", "INT32", (-1, 1))
ROW_AVATAR = Tensor("AVATAR", "BYTES", (-1, 1))
"""AVATAR as a model with a batch dimension takes it."""
ROW_FRAME_INDEX = Tensor("FRAME_INDEX", "INT32", (-1, 1))
AVATAR_KEY = Tensor("AVATAR_KEY", "INT64", (-1, 1))
# The sizes of these depend on the avatar's network family; the models take any.
MOUTH = Tensor("MOUTH", "UINT8", (-1, -1, -1, 3))
AUDIO = Tensor("AUDIO", "FP32", (-1, -1, -1, -1))
FEATURES = Tensor("FEATURES", "FP32", (-1, -1, -1, -1))
"""Ready audio features on their way into `audio_windows`, where they are checked and handed on as AUDIO."""
FACE = Tensor("FACE", "UINT8", (-1, 3, -1, -1))
"""Input of a network's graph; never on the wire: `lipsync` reads it from the avatar's folder."""


@dataclass(frozen=True)
class Model:
    """Inputs and outputs of a Triton model, or of an ONNX graph.

    `optional` names inputs that may be left out. `max_batch_size` is 0 where a request's first dimension is its own.
    """

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    optional: frozenset[str] = frozenset()
    max_batch_size: int = 0


AUDIO_FEATURES_MODEL = Model("audio_features", (AVATAR, FRAME_INDEX, PCM), (MEL, AVATAR_ROWS))
AUDIO_ENCODER_MODEL = Model("audio_encoder", (ROW_AVATAR, MEL), (EMBEDDING,), max_batch_size=MAX_WINDOWS)
AUDIO_WINDOWS_MODEL = Model(
    "audio_windows",
    (AVATAR, FRAME_INDEX, EMBEDDING, FEATURES),
    (AUDIO, AVATAR_ROWS, FRAME_INDEX_ROWS, RECT),
    optional=frozenset({"EMBEDDING", "FEATURES"}),
)
LIPSYNC_MODEL = Model(
    "lipsync", (ROW_AVATAR, ROW_FRAME_INDEX, AUDIO), (MOUTH, AVATAR_KEY), max_batch_size=MAX_FRAMES
)
COMPOSITOR_MODEL = Model("compositor", (AVATAR, FRAME_INDEX, MOUTH, AVATAR_KEY), FRAME_OUTPUTS)
IDLE_FRAMES_MODEL = Model("idle_frames", (AVATAR, FRAME_INDEX), FRAME_OUTPUTS)
"""What `avatar` gives where all of PCM is silence, rendered at import: no network runs."""
CATALOG_MODEL = Model(
    "catalog", (AVATAR, OFFSET, LIMIT), (MANIFEST,), optional=frozenset({"AVATAR", "OFFSET", "LIMIT"})
)
AVATAR_ENSEMBLE = Model("avatar", (AVATAR, FRAME_INDEX, PCM), FRAME_OUTPUTS)
FEATURES_ENSEMBLE = Model("avatar_from_features", (AVATAR, FRAME_INDEX, AUDIO), FRAME_OUTPUTS)
ENSEMBLES = (AVATAR_ENSEMBLE, FEATURES_ENSEMBLE)
PYTHON_MODELS = (
    AUDIO_FEATURES_MODEL,
    AUDIO_ENCODER_MODEL,
    AUDIO_WINDOWS_MODEL,
    LIPSYNC_MODEL,
    COMPOSITOR_MODEL,
    IDLE_FRAMES_MODEL,
    CATALOG_MODEL,
)
MODELS = (*PYTHON_MODELS, *ENSEMBLES)
"""All models of the model repository."""
AVATAR_ID_METADATA = "x-avatar-id"
"""gRPC metadata of every call about one avatar, by which a balancer can keep its requests on one server."""


def face_tensor(size_px: int) -> Tensor:
    """FACE of a network of that size: RGB, planar."""
    return Tensor(FACE.name, FACE.dtype, (-1, 3, size_px, size_px))


def mouth_tensor(size_px: int) -> Tensor:
    """MOUTH of a network of that size: RGB, interleaved."""
    return Tensor(MOUTH.name, MOUTH.dtype, (-1, size_px, size_px, 3))


def audio_tensor(shape: tuple[int, ...]) -> Tensor:
    """AUDIO of a network whose audio input is of that shape, batch dimension left out."""
    return Tensor(AUDIO.name, AUDIO.dtype, (-1, *shape))


def network_graph(size_px: int, audio_shape: tuple[int, ...]) -> Model:
    """Inputs and outputs of a U-Net's ONNX graph."""
    inputs = (face_tensor(size_px), audio_tensor(audio_shape))
    return Model("network", inputs, (mouth_tensor(size_px), AVATAR_KEY))


ENCODER_GRAPH = Model("encoder", (MEL,), (Tensor(EMBEDDING.name, EMBEDDING.dtype, (-1, EMBEDDING_SIZE)),))
"""Inputs and outputs of an audio encoder's ONNX graph."""


def check_avatar_id(value: str) -> str:
    """`value` itself if it is an avatar id, `AvatarIdError` otherwise; call it before any path is built."""
    if AVATAR_ID_PATTERN.fullmatch(value) is None:
        raise AvatarIdError(
            f"AVATAR {_shorten(value)} is not an avatar id: expected 1 to 64 of a-z, 0-9, '_' and '-', "
            "a letter or digit first"
        )
    return value


def avatar_key(checkpoint_sha256: str) -> int:
    """The first 8 bytes of a checkpoint's SHA-256 (hex), read as a big-endian signed 64-bit integer."""
    return int.from_bytes(bytes.fromhex(checkpoint_sha256[:16]), "big", signed=True)


# --- checks on what comes in ---
def pcm_samples(frames: int) -> int:
    """Samples of PCM that a request for `frames` frames carries."""
    return (FRAMES_BEFORE + frames + FRAMES_AFTER) * SAMPLES_PER_FRAME


def parse_avatar(tensor: NDArray[Any]) -> str:
    """The avatar id in an AVATAR tensor (object [1] of bytes, UTF-8)."""
    if tensor.shape != (1,):
        raise TensorError(f"AVATAR has shape {list(tensor.shape)}; [1] is wanted")
    try:
        value = bytes(tensor[0]).decode("utf-8")
    except UnicodeDecodeError:
        raise AvatarIdError(f"AVATAR {_shorten(bytes(tensor[0]))} is not UTF-8") from None
    return check_avatar_id(value)


def parse_avatar_rows(tensor: NDArray[Any], rows: int) -> str:
    """The avatar id that all rows of an AVATAR tensor (object [rows, 1] of bytes, UTF-8) hold."""
    if tensor.shape != (rows, 1):
        raise TensorError(f"expected AVATAR {[rows, 1]}, got {list(tensor.shape)}")
    if len(set(tensor[:, 0].tolist())) > 1:
        raise TensorError("AVATAR holds different ids; expected the same in all rows of a request")
    return parse_avatar(tensor[0])


def repeat_avatar(avatar_id: str, rows: int) -> NDArray[Any]:
    """An AVATAR_ROWS tensor, object [rows, 1], of one avatar."""
    tensor = np.empty((rows, 1), object)
    tensor[:] = avatar_id.encode()
    return tensor


def check_frame_index(tensor: NDArray[Any]) -> NDArray[np.int32]:
    """A FRAME_INDEX tensor (int32 [B], 1 ≤ B ≤ 32, all ≥ 0), checked."""
    _check_dtype(FRAME_INDEX.name, tensor, np.int32)
    if tensor.ndim != 1 or not 1 <= tensor.shape[0] <= MAX_FRAMES:
        raise TensorError(
            f"FRAME_INDEX has shape {list(tensor.shape)}; [B] with 1 <= B <= {MAX_FRAMES} is wanted"
        )
    if tensor.min() < 0:
        raise TensorError(f"FRAME_INDEX holds {tensor.min()}; frame numbers start at 0")
    return tensor


def check_pcm(tensor: NDArray[Any], frames: int) -> NDArray[np.int16]:
    """A PCM tensor (int16, as long as a request for `frames` frames wants), checked."""
    _check_dtype(PCM.name, tensor, np.int16)
    wanted = pcm_samples(frames)
    if tensor.shape != (wanted,):
        raise TensorError(
            f"PCM has shape {list(tensor.shape)}; [{wanted}] is wanted for {frames} frames: "
            f"({FRAMES_BEFORE} + {frames} + {FRAMES_AFTER}) x {SAMPLES_PER_FRAME} samples"
        )
    return tensor


def check_audio(tensor: NDArray[Any], frames: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Ready audio features (float32 [frames, *shape], finite), checked."""
    _check_dtype(AUDIO.name, tensor, np.float32)
    wanted = (frames, *shape)
    if tensor.shape != wanted:
        raise TensorError(f"AUDIO has shape {list(tensor.shape)}; {list(wanted)} is wanted")
    if not np.isfinite(tensor).all():
        raise TensorError("AUDIO holds NaN or infinity; finite numbers are wanted")
    return tensor


def check_mel(tensor: NDArray[Any]) -> NDArray[np.float32]:
    """Mel windows (float32 [M, 1, 80, 16], 1 ≤ M ≤ 47, finite), checked."""
    _check_dtype(MEL.name, tensor, np.float32)
    if tensor.shape[1:] != MEL.shape[1:] or not 1 <= len(tensor) <= MAX_WINDOWS:
        raise TensorError(
            f"expected MEL [M, 1, {MEL_BANDS}, {MEL_FRAMES_PER_WINDOW}] with 1 <= M <= {MAX_WINDOWS}, "
            f"got {list(tensor.shape)}"
        )
    if not np.isfinite(tensor).all():
        raise TensorError("MEL holds NaN or infinity; expected finite numbers")
    return tensor


def _check_dtype(name: str, tensor: NDArray[Any], dtype: type[np.generic]) -> None:
    if tensor.dtype != dtype:
        raise TensorError(f"{name} is {tensor.dtype}; {np.dtype(dtype)} is wanted")


def _shorten(value: str | bytes, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}… ({len(value)} long)"
