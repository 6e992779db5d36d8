"""The little of CUDA's driver that running an engine takes: a GPU's name, memory on it, copies, a stream.

It is the driver's own library, which lies wherever there is a GPU; no package has to match its version.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.errors import ExportError

LIBRARY = "libcuda.so.1"
_MAJOR, _MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and …_MINOR."""
_NAME_LENGTH = 256


class CudaDriver:
    """One GPU, by its number, with the context that CUDA's runtime in the same process uses too."""

    def __init__(self, device: int = 0, library: Any = None) -> None:
        self._library = library or _load()
        self._call("cuInit", 0)
        self._device = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(self._device), device)
        self._context = ctypes.c_void_p()
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self._device)
        self._call("cuCtxSetCurrent", self._context)

    @property
    def name(self) -> str:
        """As the driver calls the GPU: "NVIDIA H100 80GB HBM3"."""
        text = ctypes.create_string_buffer(_NAME_LENGTH)
        self._call("cuDeviceGetName", text, _NAME_LENGTH, self._device)
        return text.value.decode("utf-8", "replace")

    @property
    def compute_capability(self) -> str:
        """Major and minor number, "9.0"."""
        numbers = []
        for attribute in (_MAJOR, _MINOR):
            number = ctypes.c_int()
            self._call("cuDeviceGetAttribute", ctypes.byref(number), attribute, self._device)
            numbers.append(str(number.value))
        return ".".join(numbers)

    @contextmanager
    def stream(self) -> Iterator[int]:
        """The handle of a stream of its own."""
        handle = ctypes.c_void_p()
        self._call("cuStreamCreate", ctypes.byref(handle), 0)
        try:
            yield int(handle.value or 0)
        finally:
            self._call("cuStreamDestroy_v2", handle)

    def synchronize(self, stream: int) -> None:
        """Wait until all that was put into the stream is done."""
        self._call("cuStreamSynchronize", ctypes.c_void_p(stream))

    @contextmanager
    def memory(self, size: int) -> Iterator[int]:
        """The address of `size` bytes on the GPU."""
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
        try:
            yield address.value
        finally:
            self._call("cuMemFree_v2", address)

    def upload(self, address: int, array: NDArray[Any]) -> None:
        """Copy an array to the GPU."""
        data = np.ascontiguousarray(array)
        self._call(
            "cuMemcpyHtoD_v2",
            ctypes.c_uint64(address),
            ctypes.c_void_p(data.ctypes.data),
            ctypes.c_size_t(data.nbytes),
        )

    def download(self, address: int, array: NDArray[Any]) -> None:
        """Fill a contiguous array from the GPU."""
        self._call(
            "cuMemcpyDtoH_v2",
            ctypes.c_void_p(array.ctypes.data),
            ctypes.c_uint64(address),
            ctypes.c_size_t(array.nbytes),
        )

    def _call(self, function: str, *arguments: Any) -> None:
        code = getattr(self._library, function)(*arguments)
        if code != 0:
            raise ExportError(f"the GPU's driver refused {function} (error {code}){_hint(code)}")


_HINTS = {2: ": its memory is full", 100: ": it sees no GPU", 101: ": it has no GPU of that number"}


def _hint(code: int) -> str:
    return _HINTS.get(code, "")


def _load() -> Any:
    try:
        return ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise ExportError(
            f"an engine is built and run on an NVIDIA GPU, and there is no {LIBRARY} here"
        ) from error
