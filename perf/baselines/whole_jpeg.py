"""Encodes whole frames in several threads at once."""

from __future__ import annotations

import ctypes
import threading
from functools import lru_cache
from typing import Any

import numpy as np
import turbojpeg
from numpy.typing import NDArray

from perf.baselines.float_graph import BaselineError

# From turbojpeg.h of libjpeg-turbo.
_PIXELS_RGB = 0
_SAMPLINGS = {"444": 0, "422": 1, "420": 2}
_NO_REALLOC = 1024
_ACCURATE_DCT = 4096


class WholeJpegEncoder:
    """libjpeg-turbo, the same build that `compositor_backend.jpeg` encodes with, without Python's lock.

    The binding that the compositor uses keeps the lock while it encodes, which is right where a process is an
    instance; a client that encodes in threads would wait for itself. Every thread has a compressor of its own.
    """

    def __init__(self, quality: int, subsampling: str) -> None:
        """`quality` 1 to 100, `subsampling` "420", "422" or "444"."""
        self._quality, self._sampling = quality, _SAMPLINGS[subsampling]
        self._own = threading.local()

    def __call__(self, pixels: NDArray[np.uint8]) -> bytes:
        """The baseline JPEG of `pixels` (uint8 [H,W,3] RGB, rows after one another), without restart markers."""
        library = _library()
        height, width = pixels.shape[:2]
        handle, buffer = self._compressor(library, width, height)
        start = ctypes.c_void_p(ctypes.addressof(buffer))
        size = ctypes.c_ulong(len(buffer))
        failed = library.tjCompress2(
            handle, ctypes.c_void_p(pixels.ctypes.data), width, pixels.strides[0], height, _PIXELS_RGB,
            ctypes.byref(start), ctypes.byref(size), self._sampling, self._quality, _NO_REALLOC | _ACCURATE_DCT,
        )  # fmt: skip
        if failed:
            raise BaselineError(f"libjpeg-turbo cannot encode a frame of {width}x{height} px")
        return ctypes.string_at(buffer, size.value)

    def _compressor(self, library: ctypes.CDLL, width: int, height: int) -> tuple[Any, Any]:
        """The calling thread's compressor, and room for the largest JPEG of that size."""
        if getattr(self._own, "size", None) != (width, height):
            if not hasattr(self._own, "handle"):
                self._own.handle = ctypes.c_void_p(library.tjInitCompress())
            largest = library.tjBufSize(width, height, self._sampling)
            self._own.buffer = (ctypes.c_ubyte * largest)()
            self._own.size = (width, height)
        return self._own.handle, self._own.buffer


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL:
    # Symbols of the libraries that the extension brings along are found through it.
    library = ctypes.CDLL(turbojpeg.__file__)
    library.tjInitCompress.restype = ctypes.c_void_p
    library.tjBufSize.restype = ctypes.c_ulong
    return library
