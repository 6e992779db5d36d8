from __future__ import annotations

import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.errors import ExportError
from export.importers.pickles import read_numbers

ROWS = [(10, 20, 110, 120), (11, 21, 111, 121), (300, 70000, -4, 0)]


class Calls:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self._call


def written(folder: Path, data: bytes) -> Path:
    path = folder / "coords.pkl"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("protocol", range(3, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("dtype", [None, "i8", "i4", ">i4", "i2", ">i8"])
def test_boxes_as_every_python_and_numpy_writes_them(
    tmp_path: Path, protocol: int, dtype: str | None
) -> None:
    rows = [row for row in ROWS if dtype != "i2" or max(row) < 1 << 15]
    boxes: Any = rows if dtype is None else [tuple(np.array(row, dtype)) for row in rows]
    assert read_numbers(written(tmp_path, pickle.dumps(boxes, protocol)), len(rows)) == rows


@pytest.mark.parametrize("protocol", [0, 1, 2])
def test_older_protocols(tmp_path: Path, protocol: int) -> None:
    boxes = [list(row) for row in ROWS]
    assert read_numbers(written(tmp_path, pickle.dumps(tuple(boxes), protocol)), 3) == ROWS


def test_newer_numpy_calls_the_same_things_otherwise(tmp_path: Path) -> None:
    data = pickle.dumps([tuple(np.array(row)) for row in ROWS], 3)
    assert b"numpy.core.multiarray" in data
    renamed = data.replace(b"numpy.core.multiarray", b"numpy._core.multiarray")
    assert read_numbers(written(tmp_path, renamed), 3) == ROWS


def test_whole_numbers_may_be_floats(tmp_path: Path) -> None:
    assert read_numbers(written(tmp_path, pickle.dumps([(1.0, 2.0, 3.0, 4)])), 1) == [(1, 2, 3, 4)]


@given(
    rows=st.lists(st.tuples(*[st.integers(-1_000_000, 1_000_000)] * 4), max_size=30),
    kind=st.sampled_from("lna"),
)
def test_any_boxes(rows: list[tuple[int, ...]], kind: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    make = {"l": list, "n": lambda row: tuple(np.array(row)), "a": tuple}[kind]
    data = pickle.dumps([make(row) for row in rows])
    assert read_numbers(written(tmp_path_factory.getbasetemp(), data), len(rows)) == rows


MARKER = "touched"


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (Calls(os.system, f"touch {MARKER}"), r"posix\.system"),
        (Calls(eval, f"open('{MARKER}', 'w')"), r"builtins\.eval"),
        (Calls(np.full, 4, 7), r"numpy\.(core\.)?numeric\.full|numpy\.full"),
        (np.array(ROWS), r"numpy\.core\.multiarray\._reconstruct"),
        (np.array([object()], object), r"numpy\.core\.multiarray\._reconstruct"),
        (Path("x"), r"pathlib\.PosixPath"),
        (np.float64(1.5), r"numpy's type 'f8'"),
        (np.bool_(True), r"numpy's type 'b1'"),
        (np.str_("x"), r"numpy's type 'U1'"),
        (np.datetime64("2020-01-01"), "the opcode EMPTY_DICT"),
    ],
    ids=lambda value: None if isinstance(value, str) else "case",
)
@pytest.mark.parametrize("protocol", [3, 4])
def test_what_would_run_code_is_named_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Any, name: str, protocol: int
) -> None:
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path, pickle.dumps([(call, 1, 2, 3)], protocol))
    with pytest.raises(ExportError, match=f"coords.pkl .*{name}.*; a list of boxes, four whole numbers"):
        read_numbers(path, 5)
    assert not (tmp_path / MARKER).exists()


def deep(levels: int) -> bytes:
    return b"\x80\x04" + b"(" * levels + b"t" * levels + b"."


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x80\x04]r\xff\xff\xff\x7f.", "does more than 5 boxes need"),
        (b"\x80\x04]p2147483647\n.", "does more than 5 boxes need"),
        (b"\x80\x05\x96" + struct.pack("<Q", 100 << 30) + b".", "no pickle of boxes|opcode BYTEARRAY8"),
        (b"\x80\x04\x8d" + struct.pack("<Q", 100 << 30) + b".", "no pickle of boxes"),
        (b"\x80\x04\x95" + struct.pack("<Q", 100 << 30) + b"].", "no pickle of boxes|holds 5 boxes"),
        (deep(600), "holds a tuple of"),
        (deep(900), "does more than 5 boxes need"),
        (b"\x80\x04" + b"]" * 1500 + b".", "does more than 5 boxes need"),
        (b"\x80\x04" + b"]" * 200_000 + b".", "has 200003 bytes, more than 5 boxes need"),
        (b"\x80\x04}.", "holds the opcode EMPTY_DICT"),
        (b"\x80\x04]2\x86.", "holds the opcode DUP"),
        (b"\x80\x04\x82\x01.", "holds the opcode EXT1"),
        (b"\x80\x04Pname\n.", "holds the opcode PERSID"),
        (b"(S'ls'\nios\nsystem\n.", "holds the opcode"),
        (b"I" + b"9" * 3000 + b"\n.", "no pickle of boxes|holds a value of int"),
        (b"", "is no pickle of boxes"),
        (b"hello", "is no pickle of boxes|holds the opcode"),
        (pickle.dumps([(1, 2, 3, 4)])[:-3], "is no pickle of boxes"),
        (pickle.dumps([(1, 2, 3)]), "holds a tuple of 3 as box 0"),
        (pickle.dumps([(1, 2, 3, "4")]), "holds a value of str in box 0"),
        (pickle.dumps([(1, 2, 3, 4), (1, 2, 3, 4.5)]), r"holds 4\.5 in box 1"),
        (pickle.dumps([(1, 2, 3, float("nan"))]), "holds nan in box 0"),
        (pickle.dumps([(1, 2, 3, True)]), "holds True in box 0"),
        (pickle.dumps([(1, 2, 3, 10**7)]), "holds a value of int in box 0"),
        (pickle.dumps(7), "holds a value of int;"),
        (pickle.dumps([None]), "holds None as box 0"),
    ],
)
def test_what_is_no_list_of_boxes(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(ExportError, match=message) as caught:
        read_numbers(written(tmp_path, data), 5)
    assert len(str(caught.value)) < 300 + len(str(tmp_path))


def test_numpy_values_that_lie_about_their_size(tmp_path: Path) -> None:
    data = pickle.dumps([tuple(np.array(row)) for row in ROWS], 4)
    cut = data.replace(b"i8", b"i4")
    with pytest.raises(ExportError, match="holds a numpy value that is no plain integer"):
        read_numbers(written(tmp_path, cut), 3)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="cannot be read: No such file"):
        read_numbers(tmp_path / "coords.pkl", 3)
