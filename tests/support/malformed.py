"""Requests that are surely wrong, for every model and every tensor: what `malformed_grpc` and `malformed_http` send.

Each starts from a request that its model answers, and is broken in one to three places. With it come its clues: an
answer names the cause if it holds one of them.

Left out, since Triton 2.51 itself dies of them, before any model sees them:

- a shape whose size in bytes is that of the data but for a multiple of 2**64: the process of the model dies
  (`_wraps`);
- a positive ``classification`` parameter for an output of BYTES, such as JPEG: all of Triton dies;
- over HTTP, a shape far greater than the JSON ``data`` beside it: Triton takes memory for the shape first, and dies
  if there is not as much; up to then it takes seconds;
- over HTTP, ``data`` of 40,000 nested arrays, or a body of 1,000,000 chunks: all of Triton dies of its stack.

Left out since Triton takes them for right: a first dimension of a model that batches which is 0, or the right one but
for a multiple of 2**32; more raw contents than inputs; data nested otherwise than its shape; an
Inference-Header-Content-Length with something after the number, or the right one but for a multiple of 2**32.

Never asked for: loading, unloading, and registering of shared memory.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray
from tritonclient.utils import serialize_byte_tensor

from compositor_backend import contract
from compositor_backend.contract import Model
from compositor_backend.geometry import FAMILIES
from compositor_backend.manifest import Manifest
from compositor_backend.windows import window_count

FRAMES = 2
_DTYPES = ("BOOL", "UINT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BF16", "BYTES")
_ITEM_BYTES = {"UINT8": 1, "INT16": 2, "INT32": 4, "INT64": 8, "FP32": 4}
_FLOATS = frozenset({"AUDIO", "FEATURES", "EMBEDDING"})
"""What is looked at before a network gets it: NaN in it is refused."""
MANY_NUMBERS = 100_000
"""So many are not sent as text, which would be slow to make."""


# --- what is right ---
@dataclass
class Input:
    """An input tensor of a request, in whatever form it is sent."""

    name: str
    datatype: str
    shape: list[int]
    data: bytes
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass
class Request:
    """An inference request, in whatever form it is sent; `outputs` are names and their parameters."""

    model: str
    inputs: list[Input]
    version: str = ""
    outputs: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Valid:
    """A request that is answered, and what has to be known to break it.

    `strangers` are ids that are wrong there; `batched`, whether the first dimension is the model's batch; `free`,
    whether it may have other sizes in one tensor alone.
    """

    request: Request
    outputs: tuple[str, ...]
    dims: Mapping[str, tuple[int, ...]]
    strangers: tuple[str, ...] = ()
    batched: bool = False
    free: bool = False


def valid_requests(avatars: Path, avatar_id: str, idle_id: str) -> list[Valid]:
    """One or more for each model that serves the avatar; `idle_id` is an avatar that has idle frames, as it has not."""
    manifest = Manifest.load(avatars / contract.avatar_ensemble_name(avatar_id))
    assert manifest.encoder
    size_px, shape = FAMILIES[manifest.family].network_px, manifest.audio_shape
    index, windows = np.arange(FRAMES, dtype=np.int32), window_count(FRAMES)
    pcm = np.zeros(contract.pcm_samples(FRAMES), np.int16)
    audio = np.zeros((FRAMES, *shape), np.float32)
    embedding = np.zeros((windows, contract.EMBEDDING_SIZE), np.float32)
    face = np.zeros((FRAMES, 3, size_px, size_px), np.uint8)
    mouth = np.zeros((FRAMES, size_px, size_px, 3), np.uint8)
    keys = np.full((FRAMES, 1), manifest.network_key, np.int64)
    of_avatar = {"AVATAR": _text(avatar_id), "FRAME_INDEX": index}
    of_idle = {"AVATAR": _text(idle_id), "FRAME_INDEX": index}
    encoder = contract.audio_encoder_model(contract.audio_encoder_name(manifest.encoder))
    mel = np.zeros((windows, *contract.MEL.shape[1:]), np.float32)
    network = contract.lipsync_model(manifest.network, size_px, shape)
    others, nobody = (idle_id, "nobody"), ("nobody",)
    return [
        _valid(contract.avatar_ensemble(avatar_id), {**of_avatar, "PCM": pcm}, others),
        _valid(contract.features_ensemble(avatar_id, shape), {**of_avatar, "AUDIO": audio}, others),
        _valid(contract.AUDIO_FEATURES_MODEL, {"PCM": pcm, "FRAME_INDEX": index}),
        _valid(encoder, {"MEL": mel}, batched=True, free=True),
        _valid(contract.AVATAR_FRAMES_MODEL, {**of_avatar, "EMBEDDING": embedding}, nobody),
        _valid(contract.AVATAR_FRAMES_MODEL, {**of_avatar, "FEATURES": audio}, nobody),
        _valid(network, {"FACE": face, "AUDIO": audio}, batched=True),
        _valid(contract.COMPOSITOR_MODEL, {**of_avatar, "MOUTH": mouth, "AVATAR_KEY": keys}, others),
        _valid(contract.IDLE_FRAMES_MODEL, of_idle, (avatar_id, "nobody"), free=True),
    ]


def _valid(
    model: Model, tensors: Mapping[str, NDArray[Any]], strangers: tuple[str, ...] = (), **traits: bool
) -> Valid:
    contracts = {tensor.name: tensor for tensor in model.inputs}
    inputs = [
        Input(name, contracts[name].dtype, list(array.shape), _raw(array)) for name, array in tensors.items()
    ]
    dims = {name: contracts[name].shape for name in tensors}
    return Valid(
        Request(model.name, inputs), tuple(out.name for out in model.outputs), dims, strangers, **traits
    )


def _text(value: str) -> NDArray[Any]:
    return np.array([value.encode()], object)


def _raw(array: NDArray[Any]) -> bytes:
    return bytes(serialize_byte_tensor(array).item()) if array.dtype == object else array.tobytes()


_NUMPY = {"UINT8": np.uint8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64, "FP32": np.float32}


def values_of(tensor: Input) -> list[Any]:
    """The elements of a tensor that nothing has been done to."""
    if tensor.datatype == "BYTES":
        return [tensor.data[4:]]
    values: list[Any] = np.frombuffer(tensor.data, _NUMPY[tensor.datatype]).tolist()
    return values


# --- what is wrong ---
Draw = st.DrawFn


@dataclass
class Broken:
    """A request that is being broken; `whole` are its inputs that nothing has been done to."""

    draw: Draw
    valid: Valid
    request: Request
    whole: list[Input]
    kinds: list[str] = field(default_factory=list)
    clues: set[str] = field(default_factory=set)

    @classmethod
    def from_valid(cls, draw: Draw, valid: Valid) -> Broken:
        request = deepcopy(valid.request)
        return cls(draw, valid, request, list(request.inputs))

    def one_of(self, *choices: Any) -> Any:
        return self.draw(st.sampled_from(choices))

    def take(self, *, of: frozenset[str] | None = None) -> Input | None:
        """An input to break, of which nothing else is broken; None if there is none."""
        fitting = [tensor for tensor in self.whole if of is None or tensor.name in of]
        if not fitting:
            return None
        taken: Input = self.draw(st.sampled_from(fitting))
        self.whole = [tensor for tensor in self.whole if tensor is not taken]
        return taken

    @property
    def names(self) -> list[str]:
        return [tensor.name for tensor in self.valid.request.inputs]


Clues = Sequence[str]
Break = Callable[[Broken], Clues]
"""Breaks a request; its clues, none if it could not."""


def _missing_tensor(broken: Broken) -> Clues:
    if (tensor := broken.take()) is None:
        return ()
    broken.request.inputs.remove(tensor)
    return (f"'{tensor.name}'", f"{tensor.name} is missing", "EMBEDDING, FEATURES and MEL: none came")


def _extra_tensor(broken: Broken) -> Clues:
    name = broken.one_of("EXTRA", "avatar", "PCM ", "FACE/../MOUTH", "é" * 50)
    broken.request.inputs.append(Input(name, "INT32", [1], bytes(4)))
    return (f"'{name}'",)


def _tensor_twice(broken: Broken) -> Clues:
    if (tensor := broken.take()) is None:
        return ()
    broken.request.inputs.append(deepcopy(tensor))
    return (f"'{tensor.name}' already exists",)


def _two_sounds(broken: Broken) -> Clues:
    """`avatar_frames` takes one of three."""
    if broken.take(of=frozenset({"EMBEDDING", "FEATURES"})) is None:
        return ()
    rows = window_count(FRAMES)
    mel = Input(
        "MEL", "FP32", [rows, *contract.MEL.shape[1:]], bytes(rows * math.prod(contract.MEL.shape[1:]) * 4)
    )
    broken.request.inputs.append(mel)
    return ("exactly one of them is wanted",)


def _unknown_model(broken: Broken) -> Clues:
    name = broken.one_of("nobody", "avatar_nobody", "avatar_", "lipsync_..", "%00", "a" * 300)
    broken.request.model = name
    return (f"unknown model: '{name}'",)


def _unknown_version(broken: Broken) -> Clues:
    broken.request.version = broken.one_of("2", "7", "2147483647")
    return (f"version {broken.request.version} is not found",)


def _unknown_output(broken: Broken) -> Clues:
    name = broken.one_of("NOPE", "jpeg", "AVATAR", "x" * 300)
    broken.request.outputs = [(broken.one_of(*broken.valid.outputs), {}), (name, {})]
    return (f"unexpected inference output '{name}'",)


def _output_in_no_region(broken: Broken) -> Clues:
    region = {"shared_memory_region": "nowhere", "shared_memory_byte_size": broken.one_of(1, 8, 2**40)}
    broken.request.outputs = [(broken.one_of(*broken.valid.outputs), region)]
    return ("shared memory region: 'nowhere'",)


def _wrong_parameter(broken: Broken) -> Clues:
    key, value = broken.one_of(
        ("priority", "x"),
        ("timeout", "x"),
        ("sequence_id", 0.5),
        ("sequence_start", "x"),
        ("sequence_end", 0.5),
        ("triton_x", "x"),
        ("triton_enable_empty_final_response", "x"),
    )
    broken.request.parameters[key] = value
    return (f"'{key}'", "keys starting with 'triton_'")


def _tensor_in_no_region(broken: Broken) -> Clues:
    if (tensor := broken.take()) is None:
        return ()
    tensor.parameters = {"shared_memory_region": "nowhere", "shared_memory_byte_size": len(tensor.data)}
    return ("shared memory region: 'nowhere'",)


def _other_datatype(broken: Broken) -> Clues:
    if (tensor := broken.take()) is None:
        return ()
    others = [name for name in (*_DTYPES, "NONSENSE", "") if name != tensor.datatype]
    tensor.datatype = broken.one_of(*others)
    return (f"'{tensor.name}'", f"input {tensor.name}")


def _other_rank(broken: Broken) -> Clues:
    if (tensor := broken.take()) is None:
        return ()
    shape = tensor.shape
    tensor.shape = broken.one_of([*shape, 1], [1, *shape], shape[:-1], [], [2**32, *shape, 2**32])
    return _names_for_shape(broken, tensor)


def _other_dimension(broken: Broken) -> Clues:
    if (tensor := broken.take()) is None:
        return ()
    at = broken.draw(st.integers(0, len(tensor.shape) - 1))
    sizes = st.sampled_from(
        (0, 1, 3, -1, -2, -5, 2**31, 2**32, 2**33 + 1, 2**40, 2**61, 2**62, 2**63 - 1, -(2**63))
    ) | st.integers(-(2**63), 2**63 - 1)
    right = tensor.shape[at]
    as_batch = at == 0 and broken.valid.batched
    tensor.shape[at] = broken.draw(
        sizes.filter(
            lambda size: (
                size != right
                and not (as_batch and size % 2**32 in (0, right))
                and not _wraps([*tensor.shape[:at], size, *tensor.shape[at + 1 :]], tensor)
            )
        )
    )
    return _names_for_shape(broken, tensor)


def _wraps(shape: Sequence[int], tensor: Input) -> bool:
    """Whether 64 bits hold such a shape's size in bytes as that of the tensor's data."""
    size = math.prod(shape) * _ITEM_BYTES.get(tensor.datatype, 1)
    return (size - len(tensor.data)) % 2**64 == 0


def _names_for_shape(broken: Broken, tensor: Input) -> Clues:
    """Of inputs whose batch sizes differ Triton names any; over HTTP a negative size is wrong before it has a name."""
    names = broken.names if broken.valid.batched else [tensor.name]
    return (*(f"input '{name}'" for name in names), "parse 'shape'", "batch-size must be <=")


def _other_size(broken: Broken) -> Clues:
    """Shape and data agree, but not with the other inputs, or with what the avatar's network takes."""
    if (tensor := broken.take(of=frozenset(broken.names) - {"AVATAR"})) is None:
        return ()
    dims = broken.valid.dims[tensor.name]
    at = broken.one_of(*(place for place, size in enumerate(dims) if size == -1))
    sizes = [0, *range(65, 80)] if broken.valid.free else [*range(33), *range(65, 80)]
    tensor.shape[at] = broken.one_of(*(size for size in sizes if size != tensor.shape[at]))
    tensor.data = bytes(math.prod(tensor.shape) * _ITEM_BYTES[tensor.datatype])
    return (*_by_name(broken.names), *(f"input '{name}'" for name in broken.names), "batch-size must be <=")


def _by_name(names: Sequence[str]) -> list[str]:
    """How our own models begin to complain of a tensor; what `avatar_frames` calls FEATURES is its clients' AUDIO."""
    said = ["AUDIO" if name == "FEATURES" else name for name in names]
    return [f"{name} {verb} " for name in said for verb in ("has shape", "holds", "is")]


def _cut_data(broken: Broken) -> Clues:
    if (tensor := broken.take()) is None:
        return ()
    size = len(tensor.data)
    keep = broken.draw(st.sampled_from((0, 1, size - 1, size // 2)) | st.integers(0, size - 1))
    tensor.data = tensor.data[:keep]
    return (f"input '{tensor.name}'",)


def _more_data(broken: Broken) -> Clues:
    if (tensor := broken.take()) is None:
        return ()
    tensor.data += broken.draw(st.binary(min_size=1, max_size=100))
    return (f"input '{tensor.name}'",)


def _broken_text(broken: Broken) -> Clues:
    """BYTES whose lengths are not those of what follows."""
    if (tensor := broken.take(of=frozenset({"AVATAR"}))) is None:
        return ()
    length = broken.one_of(0, 1, 4, 2**16, 2**31 - 1, 2**31, 2**32 - 1)
    text = broken.draw(st.binary(max_size=8).filter(lambda text: len(text) != length))
    tensor.data = struct.pack("<I", length) + text
    return ("input 'AVATAR'",)


def _no_id(broken: Broken) -> Clues:
    if (tensor := broken.take(of=frozenset({"AVATAR"}))) is None:
        return ()
    texts = st.sampled_from(
        (
            b"",
            b"../x",
            b"/etc/passwd",
            b"a/../b",
            b".",
            b"..",
            b"a\0b",
            b"small\n",
            b" small",
            b"SMALL",
            b"%2e%2e",
            b"\xff\xfe",
            b"\xc3",
            b"a" * 65,
            b"a" * 300_000,
            "small\u0301".encode(),
            "\U0001f600".encode() * 20,
        )
    )
    anything = st.binary(max_size=70).filter(
        lambda text: contract.AVATAR_ID_PATTERN.fullmatch(text.decode("latin-1")) is None
    )
    tensor.data = _raw(np.array([broken.draw(texts | anything)], object))
    return ("is not an avatar id", "is not UTF-8")


def _strangers_id(broken: Broken) -> Clues:
    """A good id, but of somebody else, or of nobody."""
    if not broken.valid.strangers or (tensor := broken.take(of=frozenset({"AVATAR"}))) is None:
        return ()
    tensor.data = _raw(_text(broken.one_of(*broken.valid.strangers)))
    return ("AVATAR_KEY is", "AVATAR 'nobody' is not on this server", "has no idle frames")


def _strangers_key(broken: Broken) -> Clues:
    if (tensor := broken.take(of=frozenset({"AVATAR_KEY"}))) is None:
        return ()
    right = struct.unpack("<2q", tensor.data)
    keys = st.integers(-(2**63), 2**63 - 1).filter(lambda key: key not in right)
    tensor.data = struct.pack("<2q", right[0], broken.draw(keys))
    return ("AVATAR_KEY is",)


def _negative_frame(broken: Broken) -> Clues:
    if (tensor := broken.take(of=frozenset({"FRAME_INDEX"}))) is None:
        return ()
    number = broken.draw(st.integers(-(2**31), -1))
    tensor.data = struct.pack("<2i", *broken.draw(st.permutations((0, number))))
    return (f"FRAME_INDEX holds {number}",)


def _not_a_number(broken: Broken) -> Clues:
    """Not of networks: they take what they get."""
    if broken.valid.batched or (tensor := broken.take(of=_FLOATS)) is None:
        return ()
    at = broken.draw(st.integers(0, len(tensor.data) // 4 - 1)) * 4
    value = struct.pack("<f", broken.one_of(math.nan, math.inf, -math.inf))
    tensor.data = tensor.data[:at] + value + tensor.data[at + 4 :]
    return ("holds NaN or infinity",)


_BREAKS: tuple[Break, ...] = (
    _missing_tensor,
    _extra_tensor,
    _tensor_twice,
    _two_sounds,
    _unknown_model,
    _unknown_version,
    _unknown_output,
    _output_in_no_region,
    _wrong_parameter,
    _tensor_in_no_region,
    _other_datatype,
    _other_rank,
    _other_dimension,
    _other_size,
    _cut_data,
    _more_data,
    _broken_text,
    _no_id,
    _strangers_id,
    _strangers_key,
    _negative_frame,
    _not_a_number,
)


def kind(chosen: Callable[..., Any]) -> str:
    """What is wrong after such a break, in words."""
    return chosen.__name__.strip("_").replace("_", " ")


def break_somewhere(broken: Broken, *more: Break) -> None:
    """In one place mostly, in three at most; each in another way, so that no two make each other good."""
    wanted = broken.one_of(1, 1, 1, 2, 3)
    for chosen in broken.draw(st.permutations((*_BREAKS, *more))):
        if clues := chosen(broken):
            broken.kinds.append(kind(chosen))
            broken.clues.update(clues)
        if len(broken.kinds) == wanted:
            return
