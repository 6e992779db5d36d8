"""The machine that a report was measured on, and the versions of what ran there."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from server.settings import ROOT

NO_GPU = "none"
"""What ``describe()["GPU"]`` says where there is none."""

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")
# The wheel does not say it anywhere that can be read without starting Triton.
_TRITON_OF_WHEEL = {"0.7.0": "2.51.0"}
_ANSWER_WITHIN_S = 20


def describe() -> dict[str, str]:
    """What a reader needs to judge the figures, by name; nothing that tells whose machine it is or where it stands."""
    return {
        "CPU": cpu_model(),
        "cores": f"{usable_cores():g}",
        "memory": f"{memory_bytes() / 2**30:.0f} GiB",
        "GPU": gpu(),
        "system": system(),
        "Python": platform.python_version(),
        "tritonserver": _tritonserver(),
        "onnxruntime": _version("onnxruntime", "onnxruntime-gpu"),
        "numpy": _version("numpy"),
        "Pillow": _version("pillow-simd", "pillow"),
        "turbojpeg": _version("turbojpeg"),
        "tritonclient": _version("tritonclient"),
        "revision": revision(ROOT),
    }


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name as the kernel gives it, else its architecture."""
    with suppress(OSError):
        found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(encoding="utf-8"), re.MULTILINE)
        if found:
            return " ".join(found[1].split())
    return platform.machine() or "unknown"


def usable_cores(cgroups: Path = _CGROUPS, own: Path = _OWN_CGROUPS) -> float:
    """How many cores' worth of time this process may use: its affinity, or a container's quota if that is less."""
    return min([float(len(os.sched_getaffinity(0))), *_quotas(cgroups, own)])


def memory_bytes(
    meminfo: Path = Path("/proc/meminfo"), cgroups: Path = _CGROUPS, own: Path = _OWN_CGROUPS
) -> int:
    """The memory of this machine in bytes, or a container's limit if that is less; 0 if nobody says."""
    limits = []
    with suppress(OSError):
        found = re.search(r"^MemTotal:\s*(\d+) kB$", meminfo.read_text(encoding="utf-8"), re.MULTILINE)
        limits += [int(found[1]) * 1024] if found else []
    for folder in _folders(cgroups, own, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            words = _words(folder / name)
            limits += [int(word) for word in words[:1] if word.isdecimal()]
    return min(limits, default=0)


def gpu() -> str:
    """Name, memory and driver of each GPU that the driver's own tool lists; `NO_GPU` if there is no such tool."""
    question = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    return "; ".join((_output(question) or "").splitlines()) or NO_GPU


def system() -> str:
    """The distribution and the kernel's version, without what its builder appended."""
    name = platform.system()
    with suppress(OSError):
        name = platform.freedesktop_os_release()["PRETTY_NAME"]
    kernel = re.match(r"[\d.]*\d", platform.release())
    return f"{name}, {platform.system()} {kernel[0] if kernel else 'unknown'}, {platform.machine()}"


def revision(folder: Path) -> str:
    """The commit that `folder` is at, "… with changes" if tracked files differ from it; "unknown" without git."""
    commit = _output(["git", "-C", str(folder), "rev-parse", "--short=12", "HEAD"])
    if not commit:
        return "unknown"
    changes = _output(["git", "-C", str(folder), "status", "--porcelain", "--untracked-files=no"])
    return f"{commit} with changes" if changes else commit


def _quotas(cgroups: Path, own: Path) -> Iterator[float]:
    """Cores' worth of time that each control group above this process allows; nothing where there is no limit."""
    for folder in _folders(cgroups, own, "cpu"):
        quota = _words(folder / "cpu.max") or [
            *_words(folder / "cpu.cfs_quota_us"),
            *_words(folder / "cpu.cfs_period_us"),
        ]
        if len(quota) == 2 and all(word.isdecimal() for word in quota):
            yield int(quota[0]) / int(quota[1])


def _folders(cgroups: Path, own: Path, controller: str) -> Iterator[Path]:
    """The control groups of this process and all above: the second version's, and the first's of that controller."""
    with suppress(OSError):
        for line in own.read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and controller not in controllers.split(","):
                continue
            root = cgroups / controllers if controllers else cgroups
            inner = Path(path.lstrip("/"))
            yield from (root / inner, *(root / parent for parent in inner.parents))


def _words(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").split()
    except OSError:
        return []


def _tritonserver() -> str:
    wheel = _version("nvidia-pytriton")
    if wheel == "not installed":
        # NVIDIA's containers say it in the environment.
        return os.environ.get("TRITON_SERVER_VERSION", wheel)
    return f"{_TRITON_OF_WHEEL.get(wheel, 'version unknown')} (nvidia-pytriton {wheel})"


def _version(*packages: str) -> str:
    for package in packages:
        with suppress(importlib.metadata.PackageNotFoundError):
            version = importlib.metadata.version(package)
            return version if len(packages) == 1 else f"{package} {version}"
    return "not installed"


def _output(command: list[str]) -> str | None:
    """What the command prints, stripped; None if it is not there, fails or hangs."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_ANSWER_WITHIN_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
