from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from compositor_backend import blend, native
from compositor_backend.geometry import FAMILIES, Family
from compositor_backend.native import LIBRARY, Kernel, column_side, load_kernel
from tests.support.scenes import mouths, textured

FOLDER = LIBRARY.parent


@pytest.fixture(scope="module", params=["-DNO_AVX512", "-DPLAIN"])
def older(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Kernel:
    """The kernel as it is on a processor without AVX-512, and on one that has no vector code here."""
    if load_kernel() is None:
        pytest.skip("the kernel was not built: there is no C compiler here")
    folder = tmp_path_factory.mktemp("older")
    subprocess.run(
        [copy_sources(folder)], env={**os.environ, "CFLAGS": request.param}, check=True, timeout=60
    )
    kernel = load_kernel(folder / "libpaste.so")
    assert kernel is not None
    return kernel


def copy_sources(folder: Path) -> Path:
    for name in ("paste.c", "build.sh"):
        shutil.copy(FOLDER / name, folder)
    return folder / "build.sh"


def test_it_is_built_where_there_is_a_compiler(tmp_path: Path) -> None:
    if not any(shutil.which(name) for name in ("cc", "gcc", "clang")):
        pytest.skip("there is no C compiler here")
    subprocess.run([copy_sources(tmp_path)], check=True, timeout=60)
    assert load_kernel(tmp_path / "libpaste.so") is not None
    assert {path.name for path in tmp_path.iterdir()} == {"paste.c", "build.sh", "libpaste.so"}


@pytest.mark.parametrize("side", [1, 3, 50, 150, 190, 401])
@pytest.mark.parametrize("style", ["hard", "feather"])
@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_older_processors_give_the_same_pixels(
    older: Kernel, monkeypatch: pytest.MonkeyPatch, family: Family, side: int, style: str
) -> None:
    results = []
    for kernel in (load_kernel(), older):
        monkeypatch.setattr(blend, "_KERNEL", kernel)
        under = textured(side, side + 7, 1)
        blend.paste(under, mouths(1, family.network_px)[0], family, style)
        results.append(under)
    np.testing.assert_array_equal(*results)


def test_without_a_compiler_the_build_says_so_and_succeeds(tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "dirname"):
        (tools / name).symlink_to(str(shutil.which(name)))
    (tmp_path / "kernel").mkdir()
    script = copy_sources(tmp_path / "kernel")
    environment = {k: v for k, v in os.environ.items() if k != "CC"} | {"PATH": str(tools)}
    done = subprocess.run(
        [tools / "bash", script], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stderr == "no C compiler is here: mouths are pasted by Pillow, which takes twice as long\n"
    assert not (tmp_path / "kernel" / "libpaste.so").exists()


def test_a_library_that_is_missing_or_none_is_done_without(tmp_path: Path) -> None:
    assert load_kernel(tmp_path / "libpaste.so") is None
    (tmp_path / "libpaste.so").write_bytes(b"no library")
    assert load_kernel(tmp_path / "libpaste.so") is None


def test_a_library_of_another_version_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    if load_kernel() is None:
        pytest.skip("the kernel was not built: there is no C compiler here")
    monkeypatch.setattr(native, "VERSION", native.VERSION + 1)
    assert load_kernel() is None


def test_columns_are_filled_up_and_their_weights_spread() -> None:
    side = column_side(np.array([7, 9], np.int32), np.arange(10, dtype=np.int16).reshape(2, 5))
    assert side.first.tolist() == [7, 9, 0, 0]
    assert side.weights[1].tolist() == [5, 6] * 4 + [7, 8] * 4 + [9, 0] * 4 + [0, 0] * 4
    assert not side.weights[2:].any()
