"""Looks at an ONNX file before anything else opens it: what would make a reader open other files is refused.

onnxruntime follows what a graph says of its weights: tensors may lie in other files, anywhere on the disk. Here the
bytes of the file are walked through where they are mapped, by the protobuf wire format: nothing is loaded, however
large the file is, and only those fields of onnx.proto are known that lead to a tensor.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from export.errors import ExportError

MAX_ONNX_BYTES = 1 << 30
"""The largest lip-sync network known has a fifth of it; protobuf ends at twice that."""
MAX_FIELDS = 4_000_000
"""Of all messages that are walked through: an honest network has some ten thousand, and a hostile one ends soon."""
MAX_DEPTH = 100
"""Protobuf's own limit for messages in messages."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_ORT_FORMAT = b"ORTM"

# Messages of onnx.proto, by the numbers of their fields, as far as they lead to a tensor.
_MESSAGES: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_OP_TYPE = 4
_DIMS, _EXTERNAL_DATA, _DATA_LOCATION = 1, 13, 14
_TOO_MANY = 1 << 63
_PAYLOADS = frozenset({4, 5, 6, 7, 9, 10, 11})
_ENGINE_OP = b"EPContext"
"""Stands for a compiled engine, which its attributes may place in another file."""


def refuse_foreign_files(path: Path, called: Path | None = None) -> None:
    """`ExportError`, naming the file as `called`, if reading the ONNX file at `path` could lead to another file.

    So is what claims more data than the file holds, and what is larger or deeper than any network.
    """
    name = called or path
    try:
        size = path.stat().st_size
        if size > MAX_ONNX_BYTES:
            raise ExportError(
                f"{name} is {size} bytes long; {MAX_ONNX_BYTES} at most are wanted of an ONNX file"
            )
        if size == 0:
            raise ExportError(f"{name} is empty; an ONNX graph is wanted")
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            _Walk(name, data).model()
    except OSError as error:
        raise ExportError(f"{name} cannot be read: {error.strerror or error}") from error


@dataclass(frozen=True)
class _Field:
    """A field of a message: its number, and its value or where its bytes lie."""

    number: int
    value: int | None
    start: int = 0
    end: int = 0

    @property
    def nbytes(self) -> int:
        return self.end - self.start


class _Walk:
    """Goes through the messages of one file."""

    def __init__(self, name: Path, data: mmap.mmap) -> None:
        self._name = name
        self._data = data
        self._fields = 0

    def model(self) -> None:
        if self._data[4:8] == _ORT_FORMAT:
            raise ExportError(f"{self._name} is in onnxruntime's own format; an ONNX graph is wanted")
        waiting = [("model", 0, len(self._data), 0)]
        while waiting:
            kind, start, end, depth = waiting.pop()
            if depth > MAX_DEPTH:
                raise ExportError(f"{self._name} has graphs within graphs, {MAX_DEPTH} deep; no network has")
            if kind == "tensor":
                self._tensor(start, end)
                continue
            inner = _MESSAGES[kind]
            for field in self._message(start, end):
                if field.value is None and field.number in inner:
                    waiting.append((inner[field.number], field.start, field.end, depth + 1))
                elif kind == "node" and field.number == _OP_TYPE:
                    self._op(field)

    def _op(self, field: _Field) -> None:
        if field.nbytes == len(_ENGINE_OP) and self._data[field.start : field.end] == _ENGINE_OP:
            raise ExportError(
                f"{self._name} holds a compiled engine (EPContext); a network's graph is wanted"
            )

    def _tensor(self, start: int, end: int) -> None:
        elements, payload = 1, 0
        for field in self._message(start, end):
            if field.number in (_EXTERNAL_DATA, _DATA_LOCATION) and field.value != 0:
                raise ExportError(f"{self._name} keeps its weights in other files; a single file is wanted")
            if field.number == _DIMS:
                for size in self._dims(field):
                    elements = min(elements * size, _TOO_MANY)
            elif field.number in _PAYLOADS:
                # A text may be empty, so each counts for one more.
                payload += 1 + field.nbytes
        # Two 4-bit numbers share a byte; everything else takes a byte or more.
        if elements > 2 * payload:
            raise ExportError(
                f"{self._name} has a tensor of {elements:.3g} numbers in {payload} bytes; it is cut off or damaged"
            )

    def _dims(self, field: _Field) -> Iterator[int]:
        """The dimensions in a field: one of them, or several packed together."""
        if field.value is not None:
            yield field.value
            return
        at = field.start
        while at < field.end:
            self._count()
            value, at = self._varint(at, field.end)
            yield value

    def _message(self, start: int, end: int) -> Iterator[_Field]:
        at = start
        while at < end:
            self._count()
            tag, at = self._varint(at, end)
            number, wire = tag >> 3, tag & 7
            if wire == _VARINT:
                value, at = self._varint(at, end)
                yield _Field(number, value)
                continue
            if wire == _BYTES:
                length, at = self._varint(at, end)
            else:
                length = {_FIXED64: 8, _FIXED32: 4}.get(wire, -1)
            if number == 0 or length < 0 or length > end - at:
                raise self._damaged(at)
            yield _Field(number, None, at, at + length)
            at += length

    def _count(self) -> None:
        self._fields += 1
        if self._fields > MAX_FIELDS:
            raise ExportError(f"{self._name} has more than {MAX_FIELDS} parts; no network has")

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        """The number at `at`, and where the next thing is."""
        value = 0
        for shift in range(0, 70, 7):
            if at >= end:
                break
            byte = self._data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
        raise self._damaged(at)

    def _damaged(self, at: int) -> ExportError:
        return ExportError(f"{self._name} is no ONNX graph, or cut off: what is at byte {at} cannot be read")
