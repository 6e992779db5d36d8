"""`avatar.json`: what an avatar folder holds, read strictly.

    avatars/<id>/
      avatar.json          the manifest
      network.onnx         the lip-sync network; network.fp16.onnx beside it where a GPU is to serve it
      encoder.onnx         the audio encoder, of an avatar that needs one to take speech
      *.npy                the pack (`compositor_backend.pack`)

Everything that opens an avatar trusts its manifest, so nothing in it is guessed: a missing field, a field too
many, a wrong type or a value out of range is a `PackError` with one sentence that names file and field.
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compositor_backend.contract import AVATAR_ID_PATTERN, FRAME_RATE_HZ, MEL
from compositor_backend.errors import PackError
from compositor_backend.geometry import FAMILIES, MCU_SIZES_PX

MANIFEST_NAME = "avatar.json"
FORMAT = 3
BLENDS = ("hard", "feather")
PACK_FILES = (
    "faces",
    "rects",
    "scan_data",
    "scan_offsets",
    "region_data",
    "region_boxes",
    "jpeg_header",
)
"""The arrays of a pack; each lies beside the manifest as ``<name>.npy``."""
IDLE_FILES = ("idle_data", "idle_offsets")
"""Those of an avatar that can also be shown while nobody speaks: both of them, or neither."""
NETWORK, NETWORK_FP16, ENCODER = "network", "network.fp16", "encoder"
GRAPHS = (NETWORK, NETWORK_FP16, ENCODER)
"""The ONNX graphs of an avatar; each lies beside the manifest as ``<name>.onnx``. The first is always there."""

MAX_SIDE_PX = 65_500
"""libjpeg's limit on a side of an image."""
MAX_MANIFEST_BYTES = 1 << 20
"""A manifest is some 2 kB long, however many frames there are."""
MAX_INTERVAL = 65_535
"""A restart interval is 16 bits wide in the DRI marker."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One ``.npy`` file of a pack: its size in bytes and SHA-256 (hex), its array's dtype name and shape."""

    bytes: int
    sha256: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class GraphEntry:
    """One ONNX graph: its file's size in bytes and SHA-256 (hex), and the memory that one row of a batch takes.

    `row_bytes` is the most that activations take at a time while one row is computed, in the graph's own precision.
    """

    bytes: int
    sha256: str
    row_bytes: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """The content of ``avatar.json``.

    `width` and `height` are the frames' in px, `frames` the number of template frames (≥ 1), `family` the network
    family ("328", "160", "wav2lip-96" …), `audio_mode` the kind of its audio input ("ave", "hubert", "wenet", "mel"),
    `audio_shape` that input's shape without the batch dimension. `network_key` is the AVATAR_KEY that its network
    gives.
    `quality` (1 to 100), `subsampling` ("420", "422", "444") and `restart_interval` (MCUs) are the JPEG's.
    `files` maps the names in `PACK_FILES`, and in `IDLE_FILES` if there are any, to what lies on disk; `graphs` those
    of `GRAPHS` that there are. `idle_key` is the AVATAR_KEY of the network that drew the idle frames, None where there
    are none.
    """

    id: str
    width: int
    height: int
    frames: int
    family: str
    audio_mode: str
    audio_shape: tuple[int, ...]
    network_key: int
    quality: int
    subsampling: str
    restart_interval: int
    blend: str
    created_by: str
    files: Mapping[str, FileEntry]
    graphs: Mapping[str, GraphEntry]
    fps: int = FRAME_RATE_HZ
    format: int = FORMAT
    idle_key: int | None = None

    @property
    def takes_mel(self) -> bool:
        """Whether the network takes mel windows themselves, without an encoder."""
        return self.audio_shape == MEL.shape[1:]

    @property
    def takes_pcm(self) -> bool:
        """Whether the avatar can be sent speech, and not ready features only."""
        return self.takes_mel or ENCODER in self.graphs

    def to_json(self) -> str:
        """The text of ``avatar.json``: indented, a line feed at the end."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    def save(self, folder: Path) -> None:
        """Write ``avatar.json`` into `folder`."""
        (folder / MANIFEST_NAME).write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """The manifest of the pack in `folder`; `PackError` if it is missing, unreadable or wrong."""
        path = folder / MANIFEST_NAME
        try:
            with path.open("rb") as file:
                data = file.read(MAX_MANIFEST_BYTES + 1)
            text = data.decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise PackError(f"{path} cannot be read: {error}") from error
        if len(data) > MAX_MANIFEST_BYTES:
            raise PackError(f"{path} is longer than {MAX_MANIFEST_BYTES} bytes; no manifest is")
        return cls.from_json(text, str(path))

    @classmethod
    def from_json(cls, text: str, source: str = MANIFEST_NAME) -> Manifest:
        """The manifest in `text`; `source` names it in errors (`PackError`)."""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise PackError(f"{source} is not JSON: {error}") from error
        return _Reader(source, value).manifest()


class _Reader:
    """Takes a JSON object apart field by field; every complaint is a `PackError` that names the source."""

    def __init__(self, source: str, value: object) -> None:
        self._source = source
        if not isinstance(value, dict):
            raise PackError(f"{source} holds {_kind(value)}; an object is wanted")
        self._fields: dict[str, Any] = value

    def manifest(self) -> Manifest:
        found = self.integer("format", 0, 2**31)
        if found != FORMAT:
            raise PackError(f"{self._source} is of format {found}; this version reads format {FORMAT}")
        self._only([field.name for field in dataclasses.fields(Manifest)])
        files = self._files()
        return Manifest(
            id=self._id(),
            width=self.integer("width", 1, MAX_SIDE_PX),
            height=self.integer("height", 1, MAX_SIDE_PX),
            frames=self.integer("frames", 1, 2**31 - 1),
            family=self.choice("family", tuple(FAMILIES)),
            audio_mode=self.text("audio_mode"),
            audio_shape=self.shape("audio_shape"),
            network_key=self._key("network_key"),
            quality=self.integer("quality", 1, 100),
            subsampling=self.choice("subsampling", tuple(MCU_SIZES_PX)),
            restart_interval=self.integer("restart_interval", 1, MAX_INTERVAL),
            blend=self.choice("blend", BLENDS),
            created_by=self.text("created_by"),
            files=files,
            graphs=self._graphs(),
            fps=self.integer("fps", FRAME_RATE_HZ, FRAME_RATE_HZ),
            idle_key=self._idle_key(files),
        )

    def integer(self, name: str, least: int, most: int) -> int:
        value = self._get(name)
        if type(value) is not int:
            raise self._wrong(name, _kind(value), "an integer")
        if not least <= value <= most:
            wanted = str(least) if least == most else f"{least} to {most}"
            raise self._wrong(name, str(value), wanted)
        return value

    def text(self, name: str) -> str:
        value = self._get(name)
        if not isinstance(value, str) or not value:
            raise self._wrong(name, _kind(value), "a text that is not empty")
        return value

    def choice(self, name: str, choices: tuple[str, ...]) -> str:
        value = self.text(name)
        if value not in choices:
            raise self._wrong(name, _shorten(value), " or ".join(choices))
        return value

    def digest(self, name: str) -> str:
        value = self.text(name)
        if _SHA256.fullmatch(value) is None:
            raise self._wrong(name, _shorten(value), "64 hexadecimal digits")
        return value

    def shape(self, name: str) -> tuple[int, ...]:
        value = self._get(name)
        if not isinstance(value, list) or not value or not all(type(n) is int and n > 0 for n in value):
            raise self._wrong(name, _shorten(value), "a list of positive integers")
        return tuple(value)

    def _id(self) -> str:
        value = self.text("id")
        if AVATAR_ID_PATTERN.fullmatch(value) is None:
            raise self._wrong("id", _shorten(value), f"a name that matches {AVATAR_ID_PATTERN.pattern}")
        return value

    def _key(self, name: str) -> int:
        return self.integer(name, -(2**63), 2**63 - 1)

    def _idle_key(self, files: Mapping[str, FileEntry]) -> int | None:
        if self._get("idle_key") is None and IDLE_FILES[0] not in files:
            return None
        if IDLE_FILES[0] not in files:
            raise self._wrong("idle_key", "there without idle frames", "null")
        return self._key("idle_key")

    def _graphs(self) -> dict[str, GraphEntry]:
        entries = _Reader(f"graphs of {self._source}", self._get("graphs"))
        entries._only(list(GRAPHS))
        entries._get(NETWORK)
        return {name: entries._graph(name) for name in GRAPHS if name in entries._fields}

    def _graph(self, name: str) -> GraphEntry:
        entry = _Reader(f"{name} in {self._source}", self._get(name))
        entry._only([field.name for field in dataclasses.fields(GraphEntry)])
        size, row = entry.integer("bytes", 1, 2**63 - 1), entry.integer("row_bytes", 1, 2**63 - 1)
        return GraphEntry(size, entry.digest("sha256"), row)

    def _files(self) -> dict[str, FileEntry]:
        entries = _Reader(f"files of {self._source}", self._get("files"))
        entries._only([*PACK_FILES, *IDLE_FILES])
        idle = IDLE_FILES if any(name in entries._fields for name in IDLE_FILES) else ()
        return {name: entries._file(name) for name in (*PACK_FILES, *idle)}

    def _file(self, name: str) -> FileEntry:
        entry = _Reader(f"{name} in {self._source}", self._get(name))
        entry._only([field.name for field in dataclasses.fields(FileEntry)])
        size = entry.integer("bytes", 1, 2**63 - 1)
        # One text for all: thousands of manifests are open at a time.
        dtype = sys.intern(entry.text("dtype"))
        return FileEntry(size, entry.digest("sha256"), dtype, entry.shape("shape"))

    def _only(self, names: list[str]) -> None:
        extra = sorted(set(self._fields) - set(names))
        if extra:
            raise PackError(f"{self._source} has the unknown field {_shorten(extra[0])}")

    def _get(self, name: str) -> Any:
        if name not in self._fields:
            raise PackError(f"{self._source} lacks the field {name!r}")
        return self._fields[name]

    def _wrong(self, name: str, came: str, wanted: str) -> PackError:
        return PackError(f"{name} in {self._source} is {came}; {wanted} is wanted")


def _kind(value: object) -> str:
    names = {"dict": "an object", "list": "a list", "str": "a text", "NoneType": "null", "bool": "a boolean"}
    kind = type(value).__name__
    return names.get(kind, f"a number ({value})")


def _shorten(value: object, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}…"
