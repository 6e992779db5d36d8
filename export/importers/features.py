"""Audio features that lie beside a data set tell what its network was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from export.errors import ExportError


@dataclass(frozen=True)
class FeatureFile:
    """A table of audio features: a row for each frame of the training video, of `row_shape`."""

    path: Path
    mode: str
    rows: int
    row_shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.path.name}: {self.mode} features of {self.rows} frames, {list(self.row_shape)} each"


_ROW_SIZES = {"ave": 512, "hubert": 2 * 1024}
"""Numbers in a row; those of wenet differ from tool to tool."""
_FILES = {"aud_ave.npy": "ave", "aud_hu.npy": "hubert", "aud_wenet.npy": "wenet"}


def feature_files(folder: Path) -> list[FeatureFile]:
    """The feature tables in `folder`; `ExportError` if one is no table of its kind."""
    return [_look(folder / name, mode) for name, mode in _FILES.items() if (folder / name).is_file()]


def _look(path: Path, mode: str) -> FeatureFile:
    """Only the header is read: the features themselves are the training's, and nothing here needs them."""
    try:
        with path.open("rb") as file:
            shape, dtype = _header(file)
    except (OSError, ValueError, EOFError) as error:
        raise ExportError(f"{path} cannot be read as a .npy file: {str(error)[:120]}") from error
    size = int(np.prod(shape[1:], dtype=object))
    if dtype.kind != "f" or len(shape) < 2 or size != _ROW_SIZES.get(mode, size):
        wanted = f"[n, {_ROW_SIZES[mode]}]" if mode in _ROW_SIZES else "[n, …]"
        raise ExportError(
            f"{path} holds {dtype} {list(shape)}; floating-point {wanted} is wanted for {mode} features"
        )
    return FeatureFile(path, mode, shape[0], shape[1:])


def _header(file: object) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
    version = np.lib.format.read_magic(file)  # type: ignore[no-untyped-call]
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"its version is {version}")
    shape, _fortran, dtype = readers[version](file)  # type: ignore[no-untyped-call]
    return shape, dtype
