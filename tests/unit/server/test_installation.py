from __future__ import annotations

import ctypes.util
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from server.errors import InstallationError
from server.installation import find_installation, find_libpython

LIBPYTHON = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"


def test_the_triton_that_is_found_runs_and_its_stub_finds_its_libraries() -> None:
    found = find_installation()
    libraries = os.pathsep.join(map(str, found.library_folders))
    environment = {**os.environ, "LD_LIBRARY_PATH": libraries}
    usage = subprocess.run(
        [found.binary, "--help"], env=environment, capture_output=True, text=True, timeout=30, check=False
    )
    assert "--model-control-mode" in usage.stdout + usage.stderr
    linked = subprocess.run(["ldd", found.stub], env=environment, capture_output=True, text=True, check=True)
    assert LIBPYTHON in linked.stdout
    assert "not found" not in linked.stdout


def test_finding_it_does_not_import_pytriton() -> None:
    find_installation()
    assert "pytriton" not in sys.modules


def test_without_the_wheel_the_container_images_triton_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("bin/tritonserver", "backends/python/triton_python_backend_stub"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    found = find_installation(tmp_path)
    assert (found.binary, found.stub) == (
        tmp_path / "bin" / "tritonserver",
        tmp_path / "backends" / "python" / "triton_python_backend_stub",
    )


def test_without_either_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(InstallationError, match=r"nvidia-pytriton.*pip install 'lipstream\[server\]'"):
        find_installation(tmp_path)


@pytest.mark.parametrize("place", ["libdir", "libdir/x86_64-linux-gnu", "prefix/lib"])
def test_a_shared_libpython_is_found_where_builds_put_it(tmp_path: Path, place: str) -> None:
    (tmp_path / place).mkdir(parents=True)
    (tmp_path / place / LIBPYTHON).touch()
    variables = {"LIBDIR": str(tmp_path / "libdir"), "MULTIARCH": "x86_64-linux-gnu"}
    assert find_libpython(variables, tmp_path / "prefix") == tmp_path / place


def test_a_libpython_that_the_linker_finds_needs_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ctypes.util, "find_library", lambda _name: LIBPYTHON)
    assert find_libpython({}, tmp_path) is None


def test_a_static_python_is_told_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes.util, "find_library", lambda _name: None)
    with pytest.raises(InstallationError, match=r"no shared libpython.*install libpython.*--enable-shared"):
        find_libpython({"LIBDIR": str(tmp_path)}, tmp_path)
