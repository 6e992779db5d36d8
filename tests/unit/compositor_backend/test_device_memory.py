"""Against a library that stands in for CUDA's: host memory, and a count of what is not yet freed."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from compositor_backend import device_memory
from compositor_backend.device_memory import DeviceBuffer, DeviceMemoryError

SOURCE = """
#include <stdlib.h>
#include <string.h>
int live = 0;
int cudaSetDevice(int device) { return device == 3 ? 0 : 101; }
int cudaMalloc(void **address, size_t size) {
    if (size > 1000000) return 2;
    *address = malloc(size);
    live++;
    return 0;
}
int cudaMemcpy(void *to, const void *from, size_t size, int kind) {
    memcpy(to, from, size);
    return kind == 1 ? 0 : 21;
}
int cudaFree(void *address) { free(address); live--; return 0; }
int cudaGetLastError(void) { return 0; }
const char *cudaGetErrorString(int error) { return error == 2 ? "out of memory" : "invalid device ordinal"; }
"""

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler is here")


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ctypes.CDLL]:
    source, path = tmp_path / "cuda.c", tmp_path / "libcudart.so"
    source.write_text(SOURCE)
    subprocess.run(["cc", "-shared", "-fPIC", str(source), "-o", str(path)], check=True)
    monkeypatch.setattr(device_memory, "LIBRARIES", (str(tmp_path / "none.so"), str(path)))
    device_memory._library.cache_clear()
    yield ctypes.CDLL(str(path))
    device_memory._library.cache_clear()


def live(library: ctypes.CDLL) -> int:
    return ctypes.c_int.in_dll(library, "live").value


def test_what_is_copied_lies_at_the_pointer_until_the_buffer_goes(library: ctypes.CDLL) -> None:
    data = np.arange(1000, dtype=np.uint16).view(np.uint8)
    buffer = DeviceBuffer(data, 3)
    there = (ctypes.c_uint8 * data.size).from_address(buffer.pointer)
    assert bytes(there) == data.tobytes()
    assert live(library) == 1
    del buffer
    assert live(library) == 0


def test_a_refusal_is_said_in_cudas_words(library: ctypes.CDLL) -> None:
    with pytest.raises(DeviceMemoryError, match="out of memory"):
        DeviceBuffer(np.zeros(2_000_000, np.uint8), 3)
    with pytest.raises(DeviceMemoryError, match="invalid device"):
        DeviceBuffer(np.zeros(10, np.uint8), 0)
    assert live(library) == 0


def test_without_cuda_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(device_memory, "LIBRARIES", (str(tmp_path / "none.so"),))
    device_memory._library.cache_clear()
    with pytest.raises(DeviceMemoryError, match="none\\.so can be loaded"):
        DeviceBuffer(np.zeros(10, np.uint8), 0)
