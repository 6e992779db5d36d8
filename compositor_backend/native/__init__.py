"""The compiled paste (``paste.c``), where ``build.sh`` has made it; everything here works without, by Pillow."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

VERSION = 1
"""Of the C function's arguments; a library of another version is not used."""
LIBRARY = Path(__file__).with_name("libpaste.so")
COLUMN_GROUP = 4
"""Taps of a column come in multiples of this …"""
SPREAD = 4
"""… and each is stored so many times, in the order in which they are multiplied."""
COLUMNS = 4
"""Columns come in multiples of this; those past the width are made for nothing."""


@dataclass(frozen=True, eq=False)
class Side:
    """How each of n result pixels of a side comes about, with weights of 14 bits that add up to one.

    `first` int32 [n] is its first source pixel, `weights` int16 [n, taps] what each pixel from there on counts;
    those of columns as `column_side` makes them.
    """

    first: NDArray[np.int32]
    weights: NDArray[np.int16]


class Plan:
    """How mouths are pasted into boxes of one size, as the kernel's arguments."""

    def __init__(
        self, rows: Side, columns: Side, down: NDArray[np.int16], across: NDArray[np.int16], edge: int
    ) -> None:
        """`down` [height] and `across` [3 width] are alphas of 7 bits, of rows and of each byte of a row.

        `edge` bytes at either end of a row have an alpha of less than one.
        """
        # The addresses below are good as long as this lives.
        self._kept = rows, columns, down, across
        self.arguments = (
            _address(rows.first), _address(rows.weights), rows.weights.shape[1],
            _address(columns.first), _address(columns.weights), columns.weights.shape[1] // SPREAD,
            _address(down), _address(across), edge,
        )  # fmt: skip


def column_side(first: NDArray[np.int32], weights: NDArray[np.int16]) -> Side:
    """`first` [n] and `weights` [n, taps] of columns as the kernel wants them: filled up, and the weights spread.

    Of each group of four taps, 0 and 1 come four times, then 2 and 3 four times.
    """
    count, taps = weights.shape
    weights = np.pad(weights, ((0, -count % COLUMNS), (0, -taps % COLUMN_GROUP)))
    pairs = weights.reshape(len(weights), -1, 1, 2)
    spread = np.ascontiguousarray(pairs.repeat(SPREAD, axis=2).reshape(len(weights), -1))
    return Side(np.pad(first, (0, -count % COLUMNS)), spread)


class Kernel:
    """The C function, called without Python's interpreter lock."""

    def __init__(self, library: ctypes.CDLL) -> None:
        pointer, integer = ctypes.c_void_p, ctypes.c_int32
        self._paste = library.lipstream_paste
        self._paste.argtypes = [
            pointer, ctypes.c_int64, integer, integer, pointer, integer,
            pointer, pointer, integer, pointer, pointer, integer, pointer, pointer, integer,
        ]  # fmt: skip
        self._paste.restype = None

    def paste(self, under: NDArray[np.uint8], mouth: NDArray[np.uint8], plan: Plan) -> None:
        """Draw `mouth` [S,S,3], contiguous, over `under` [h,w,3], whose rows may lie apart."""
        height, width = under.shape[:2]
        stride = under.strides[0]
        self._paste(_address(under), stride, width, height, _address(mouth), len(mouth), *plan.arguments)


def load_kernel(path: Path = LIBRARY) -> Kernel | None:
    """The compiled function; None where it was not built, or for another version of this file."""
    try:
        library = ctypes.CDLL(str(path))
        version = library.lipstream_paste_version()
    except (OSError, AttributeError):
        return None
    return Kernel(library) if version == VERSION else None


def _address(array: NDArray[Any]) -> int:
    # Half the time that array.ctypes.data takes.
    address: int = array.__array_interface__["data"][0]
    return address
