"""JPEG encoding with restart markers, and finding them again: the only module that knows `turbojpeg`.

Always baseline with the standard Huffman tables, so that frames and regions of the same settings share
every table.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import turbojpeg
from numpy.typing import NDArray

from compositor_backend.errors import PackError

SOI = b"\xff\xd8"
_EOI_CODE = 0xD9
_SOF0_CODE = 0xC0
_SOS_CODE = 0xDA
_RST0_CODE = 0xD0
_APP0_CODE = 0xE0
_COM_CODE = 0xFE
RESTART_MARKERS = 8
"""Restart markers are numbered modulo this."""
MARKER_BYTES = 2

_SUBSAMPLINGS = {
    "420": turbojpeg.SAMP.Y420,
    "422": turbojpeg.SAMP.Y422,
    "444": turbojpeg.SAMP.Y444,
}


@dataclass(frozen=True, slots=True)
class JpegSettings:
    """`quality` 1 to 100, `subsampling` "420", "422" or "444", `restart_interval` in MCUs (0: no markers)."""

    quality: int
    subsampling: str
    restart_interval: int = 0


def encode(pixels: NDArray[np.uint8], settings: JpegSettings) -> bytes:
    """A whole baseline JPEG of `pixels` (uint8 [H,W,3] RGB, copied if not contiguous)."""
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(f"pixels are {pixels.dtype} {list(pixels.shape)}; uint8 [H, W, 3] is wanted")
    # turbojpeg takes no notice of strides: anything but a C-ordered array would be garbled silently.
    jpeg: bytes = turbojpeg.compress(
        np.ascontiguousarray(pixels),
        settings.quality,
        _SUBSAMPLINGS[settings.subsampling],
        restartblocks=settings.restart_interval,
    )
    return jpeg


@dataclass(frozen=True, slots=True)
class Header:
    """A JPEG's header, SOI … SOS: its bytes, and the same without comments (COM), as the encoder writes them.

    `size_at` says where height and width (16 bits each) lie in the latter.
    """

    data: bytes
    encoded: bytes
    size_at: int
    width: int
    height: int

    def of_size(self, width: int, height: int) -> bytes:
        """The header of a picture of another size in px, without comments."""
        size = height.to_bytes(2, "big") + width.to_bytes(2, "big")
        return self.encoded[: self.size_at] + size + self.encoded[self.size_at + 4 :]

    def same_tables(self, jpeg: bytes) -> bool:
        """True if `jpeg` starts with this header, its comments, height and width aside."""
        at, length = self.size_at, len(self.encoded)
        return jpeg[:at] == self.encoded[:at] and jpeg[at + 4 : length] == self.encoded[at + 4 :]


def read_header(jpeg: bytes) -> Header:
    """The header of a baseline JPEG; `PackError` if `jpeg` is none or is cut off."""
    if jpeg[:2] != SOI:
        raise PackError("a JPEG header does not start with SOI")
    at, size_at, encoded = len(SOI), 0, SOI
    while True:
        code, length = _segment(jpeg, at)
        end = at + MARKER_BYTES + length
        if code == _SOF0_CODE:
            size_at = len(encoded) + 5  # marker, length, sample precision
        if code != _COM_CODE:
            encoded += jpeg[at:end]
        at = end
        if code == _SOS_CODE:
            break
    if not size_at:
        raise PackError("a JPEG header holds no baseline frame (SOF0)")
    height, width = (int.from_bytes(encoded[i : i + 2], "big") for i in (size_at, size_at + 2))
    data = jpeg[:at]
    # One object, not two equal ones, where there is no comment.
    return Header(data, data if data == encoded else encoded, size_at, width, height)


def with_comment(jpeg: bytes, text: bytes) -> bytes:
    """A JPEG, or its header, with a comment (COM); `PackError` if `jpeg` is none.

    It stands as early as it may: JFIF wants its own segment (APP0) to be the first.
    """
    at = len(SOI)
    code, length = _segment(jpeg, at)
    if code == _APP0_CODE:
        at += MARKER_BYTES + length
    comment = bytes([0xFF, _COM_CODE]) + (MARKER_BYTES + len(text)).to_bytes(2, "big") + text
    return jpeg[:at] + comment + jpeg[at:]


def _segment(jpeg: bytes, at: int) -> tuple[int, int]:
    """Code and length (that of the two length bytes included) of the marker segment at offset `at`."""
    head = jpeg[at : at + 4]
    if len(head) < 4 or head[0] != 0xFF:
        raise PackError(f"a JPEG header is damaged at byte {at}")
    length = int.from_bytes(head[2:], "big")
    if length < 2 or at + MARKER_BYTES + length > len(jpeg):
        raise PackError(f"a JPEG header is cut off at byte {at}")
    return head[1], length


def marker_offsets(scan: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Offsets of the markers (RST and EOI) in entropy-coded data, each pointing at its 0xFF.

    In such data an 0xFF that is no marker is always followed by a stuffed zero.
    """
    candidates = np.flatnonzero(scan[:-1] == 0xFF)
    markers: NDArray[np.intp] = candidates[scan[candidates + 1] != 0]
    return markers


def marker_codes(first: int, count: int, segments: int) -> NDArray[np.uint8]:
    """Second bytes of the markers after segments `first` … of a frame with that many `segments`.

    RST0 … RST7 in turn; EOI after the frame's last segment.
    """
    numbers = np.arange(first, first + count)
    codes = _RST0_CODE + numbers % RESTART_MARKERS
    return np.where(numbers == segments - 1, _EOI_CODE, codes).astype(np.uint8)
