"""Where an avatar's TensorRT engines lie: one folder for each kind of GPU and TensorRT, and network.

    avatars/<id>/engines/<GPU>-trt<version>/<first 16 digits of the network's SHA-256>/

onnxruntime names cached engines by tensors and never by weights, so no two networks may share a folder.
"""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

ENGINES_FOLDER = "engines"
_GPUS = Path("/proc/driver/nvidia/gpus")
_TENSORRT_LIBRARIES = ("libnvinfer.so", "libnvinfer.so.10", "libnvinfer.so.11")


def engine_folder(avatar: Path, platform: str, sha256: str) -> Path:
    """The folder of one network's engines for a platform (`platform_name`)."""
    return avatar / ENGINES_FOLDER / platform / sha256[:16]


def platform_name(gpu: str, tensorrt: int) -> str:
    """What engines are bound to: a GPU's name, and TensorRT's version as its library tells it (101300 is 10.13.0)."""
    slug = re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-")
    return f"{slug}-trt{tensorrt // 10_000}.{tensorrt // 100 % 100}.{tensorrt % 100}"


def this_platform() -> str | None:
    """The platform of this machine's first GPU, None where there is no NVIDIA driver or no TensorRT."""
    gpu, tensorrt = _gpu_name(), _tensorrt_version()
    return None if gpu is None or tensorrt is None else platform_name(gpu, tensorrt)


def _gpu_name() -> str | None:
    """As the driver tells it: "Model:   NVIDIA GeForce RTX 4090"."""
    for path in sorted(_GPUS.glob("*/information")):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key == "Model":
                return value.strip()
    return None


def _tensorrt_version() -> int | None:
    for name in _TENSORRT_LIBRARIES:
        try:
            return int(ctypes.CDLL(name).getInferLibVersion())
        except (OSError, AttributeError):
            continue
    return None
