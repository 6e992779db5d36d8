"""Memory on a GPU, taken from CUDA itself.

onnxruntime's own allocator of device tensors takes regions each twice as large as the one before, and keeps what was
freed: 32 networks of 25 MB took 1,040 MB of an H100, and the fortieth would take another 1,070.
"""

from __future__ import annotations

import ctypes
import weakref
from functools import cache

import numpy as np
from numpy.typing import NDArray

LIBRARIES = ("libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0", "libcudart.so")
_TO_DEVICE = 1
"""``cudaMemcpyHostToDevice``."""


class DeviceMemoryError(Exception):
    """CUDA gave no memory; the text says why."""


class DeviceBuffer:
    """A copy of `data`, uint8 [n], on the GPU `device_id`, at `pointer`; freed when this is collected."""

    def __init__(self, data: NDArray[np.uint8], device_id: int) -> None:
        library = _library()
        address = ctypes.c_void_p()
        _check(library, library.cudaSetDevice(device_id))
        _check(library, library.cudaMalloc(ctypes.byref(address), ctypes.c_size_t(data.nbytes)))
        self.pointer = address.value or 0
        weakref.finalize(self, _free, library, device_id, self.pointer)
        source = np.ascontiguousarray(data)
        to, start = ctypes.c_void_p(self.pointer), ctypes.c_void_p(source.ctypes.data)
        _check(library, library.cudaMemcpy(to, start, ctypes.c_size_t(source.nbytes), _TO_DEVICE))


def _free(library: ctypes.CDLL, device_id: int, pointer: int) -> None:
    library.cudaSetDevice(device_id)
    library.cudaFree(ctypes.c_void_p(pointer))


@cache
def _library() -> ctypes.CDLL:
    """CUDA's runtime: onnxruntime has it loaded, so its name is enough."""
    for name in LIBRARIES:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        library.cudaGetErrorString.restype = ctypes.c_char_p
        return library
    raise DeviceMemoryError(f"none of {', '.join(LIBRARIES)} can be loaded")


def _check(library: ctypes.CDLL, status: int) -> None:
    if status:
        # Asked for, so that the next call does not find the same error again.
        library.cudaGetLastError()
        raise DeviceMemoryError(f"CUDA: {library.cudaGetErrorString(status).decode()}")
