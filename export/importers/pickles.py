"""Reads the boxes of a pickle, and refuses every pickle that is more than a list of boxes.

Three guards, each of which is enough for the pickles that attack only one thing. The opcodes are looked at before
anything is built: those that a list of numbers needs, and no more of them than so many boxes need. Then an
unpickler knows two names, those by which numpy writes its integers, and what it calls for them is written here.
Last, what came out must be boxes.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from pathlib import Path

from export.errors import ExportError

_BYTES_PER_BOX, _OPCODES_PER_BOX = 512, 64
"""Four numpy integers in the oldest of the protocols that can hold them take 230 bytes and 40 opcodes."""
_ALLOWANCE = 1000
"""For what comes once."""
_MOST_PX = 1_000_000

_OPCODES = frozenset(
    {
        *("PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK"),
        *("EMPTY_LIST", "LIST", "APPEND", "APPENDS", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "FLOAT", "BINFLOAT"),
        *("NONE", "NEWTRUE", "NEWFALSE"),
        *("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GET", "BINGET", "LONG_BINGET"),
        # From here on: what numpy's integers are made of.
        *("GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD"),
        *("SHORT_BINUNICODE", "BINUNICODE", "SHORT_BINBYTES", "BINBYTES", "SHORT_BINSTRING", "BINSTRING"),
    }
)
_MEMO = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
_NUMPY = frozenset({"numpy", "numpy.core.multiarray", "numpy._core.multiarray"})


class _NotBoxesError(Exception):
    """A pickle is not a list of boxes; the text says what is in it instead."""


def read_numbers(path: Path, frames: int) -> list[tuple[int, ...]]:
    """The four numbers of each box in a pickle that belongs to `frames` frames; `ExportError` if it holds more."""
    try:
        data = _read(path, frames)
        _check_opcodes(data, frames)
        return _rows(_Unpickler(io.BytesIO(data)).load())
    except _NotBoxesError as error:
        raise ExportError(f"{path} {error}; a list of boxes, four whole numbers each, is wanted") from None
    except (
        pickle.UnpicklingError,
        EOFError,
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
    ) as error:
        raise ExportError(f"{path} is no pickle of boxes: {str(error)[:120]}") from None


def _read(path: Path, frames: int) -> bytes:
    most = frames * _BYTES_PER_BOX + _ALLOWANCE
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise ExportError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > most:
        raise _NotBoxesError(f"has {path.stat().st_size} bytes, more than {frames} boxes need")
    return data


def _check_opcodes(data: bytes, frames: int) -> None:
    """What a pickle would do, before it does it: a memo's number or a count may ask for all memory there is."""
    most = frames * _OPCODES_PER_BOX + _ALLOWANCE
    before: list[object] = []
    for count, (opcode, argument, _at) in enumerate(pickletools.genops(data)):
        if opcode.name == "GLOBAL":
            _check_global(*str(argument).split(" ", 1))
        elif opcode.name == "STACK_GLOBAL" and all(isinstance(name, str) for name in before[-2:]):
            _check_global(*map(str, before[-2:]))
        if opcode.name not in _OPCODES:
            raise _NotBoxesError(f"holds the opcode {opcode.name}")
        if count > most or (opcode.name in _MEMO and int(argument or 0) > most):
            raise _NotBoxesError(f"does more than {frames} boxes need")
        if opcode.name not in ("MEMOIZE", *_MEMO):
            before = [*before[-1:], argument]


def _check_global(module: str, name: str = "") -> None:
    if module not in _NUMPY or name not in ("dtype", "scalar"):
        raise _NotBoxesError(f"wants to call {module[:80]}.{name[:80]} while it is read, which may run code")


class _Unpickler(pickle.Unpickler):
    """Knows no name but the two of numpy's integers."""

    def find_class(self, module: str, name: str) -> object:
        _check_global(module, name)
        return _IntegerType if name == "dtype" else _integer

    def persistent_load(self, pid: object) -> object:
        raise _NotBoxesError(f"refers to {str(pid)[:80]!r} outside")


class _IntegerType:
    """Stands for numpy's dtype of an integer: ``i8``, ``u2`` and the like, and the byte order of its state."""

    def __init__(self, code: object, *_copy: object) -> None:
        kinds = {f"{kind}{size}": (int(size), kind == "i") for kind in "iu" for size in "1248"}
        if not isinstance(code, str) or code not in kinds:
            raise _NotBoxesError(f"holds values of numpy's type {str(code)[:40]!r}")
        self.size, self.signed = kinds[code]
        self.order = "little"

    def __setstate__(self, state: object) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        if order not in ("<", ">", "|", "="):
            raise _NotBoxesError("holds a numpy type that is no plain integer")
        self.order = "big" if order == ">" else "little"


def _integer(kind: object, data: object) -> int:
    """Numpy's integer, as Python's."""
    if not isinstance(kind, _IntegerType) or not isinstance(data, bytes) or len(data) != kind.size:
        raise _NotBoxesError("holds a numpy value that is no plain integer")
    return int.from_bytes(data, "big" if kind.order == "big" else "little", signed=kind.signed)


def _rows(loaded: object) -> list[tuple[int, ...]]:
    if not isinstance(loaded, (list, tuple)):
        raise _NotBoxesError(f"holds {_kind(loaded)}")
    return [_row(number, row) for number, row in enumerate(loaded)]


def _row(number: int, row: object) -> tuple[int, ...]:
    if not isinstance(row, (list, tuple)) or len(row) != 4:
        raise _NotBoxesError(f"holds {_kind(row)} as box {number}")
    for value in row:
        whole = type(value) is int or (type(value) is float and value.is_integer())
        if not whole or abs(value) > _MOST_PX:
            raise _NotBoxesError(f"holds {_kind(value)} in box {number}")
    return tuple(int(value) for value in row)


def _kind(value: object) -> str:
    """Never the value's own text: it may be as deep or long as its maker liked."""
    if isinstance(value, (list, tuple)):
        return f"a {type(value).__name__} of {len(value)}"
    return (
        f"{value!r:.40}"
        if isinstance(value, (bool, float)) or value is None
        else f"a value of {type(value).__name__}"
    )
