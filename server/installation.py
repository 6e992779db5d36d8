"""Finds a Triton: the one of the ``nvidia-pytriton`` wheel, or of NVIDIA's container image."""

from __future__ import annotations

import ctypes.util
import importlib.util
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server.errors import InstallationError

STUB = "triton_python_backend_stub"
IMAGE = Path("/opt/tritonserver")
"""Where NVIDIA's container image has it."""


@dataclass(frozen=True)
class Installation:
    """Where the parts of Triton lie; `library_folders` are for ``LD_LIBRARY_PATH``."""

    binary: Path
    python_backend: Path
    stub: Path
    library_folders: tuple[Path, ...]


def find_installation(image: Path = IMAGE) -> Installation:
    """The Triton of this interpreter's ``nvidia-pytriton``, or without that package the one in the folder `image`.

    `InstallationError` if anything is missing.
    """
    # find_spec does not import: pytriton's own start-up is slow and unwanted.
    spec = importlib.util.find_spec("pytriton")
    if spec is not None and spec.origin is not None:
        return _of_wheel(Path(spec.origin).parent)
    if not (image / "bin" / "tritonserver").exists():
        raise InstallationError(
            "nvidia-pytriton, whose wheel carries Triton, is not installed here: "
            f"{sys.executable} -m pip install 'lipstream[server]'"
        )
    backend = image / "backends" / "python"
    return Installation(image / "bin" / "tritonserver", backend, backend / STUB, library_folders=())


def _of_wheel(package: Path) -> Installation:
    root = package / "tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    installation = Installation(
        binary=root / "bin" / "tritonserver",
        python_backend=root / "backends" / "python",
        stub=root / "python_backend_stubs" / version / STUB,
        library_folders=(package.parent / "nvidia_pytriton.libs", *_libpython_folders()),
    )
    for path in (installation.binary, installation.python_backend, installation.stub):
        if not path.exists():
            raise InstallationError(
                f"nvidia-pytriton lacks {path}: it does not support Python {version} here"
            )
    return installation


def _libpython_folders() -> tuple[Path, ...]:
    folder = find_libpython(sysconfig.get_config_vars(), Path(sys.base_prefix))
    return () if folder is None else (folder,)


def find_libpython(variables: Mapping[str, Any], base_prefix: Path) -> Path | None:
    """The folder of the shared libpython that belongs to this interpreter, by its ``sysconfig`` `variables`.

    None if the dynamic linker finds one by itself; `InstallationError` if there is none.
    """
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    name = f"libpython{version}.so.1.0"
    folders = [base_prefix / "lib", base_prefix / "lib" / str(variables.get("MULTIARCH") or "")]
    if variables.get("LIBDIR"):
        libdir = Path(variables["LIBDIR"])
        folders = [libdir, libdir / str(variables.get("MULTIARCH") or ""), *folders]
    for folder in folders:
        if (folder / name).exists():
            return folder
    if ctypes.util.find_library(f"python{version}") is not None:
        return None
    raise InstallationError(
        f"{sys.executable} has no shared {name}, which Triton's Python backend loads: "
        f"on Debian and Ubuntu install libpython{version}, with pyenv build Python with "
        "PYTHON_CONFIGURE_OPTS=--enable-shared"
    )
