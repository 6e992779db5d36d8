from __future__ import annotations

import getpass
import os
import platform
import socket
import subprocess
from pathlib import Path

import numpy
import pytest

from perf import machine


def test_the_description_names_what_figures_depend_on() -> None:
    found = machine.describe()
    assert found["numpy"] == numpy.__version__
    assert found["Python"] == platform.python_version()
    assert "onnxruntime" in found["onnxruntime"]
    assert "pillow" in found["Pillow"]
    assert 0 < float(found["cores"]) <= len(os.sched_getaffinity(0))
    assert all(found.values())


def test_the_description_tells_neither_whose_machine_it_is_nor_where_it_stands() -> None:
    text = "\n".join(machine.describe().values())
    private = (socket.gethostname(), getpass.getuser(), str(Path.home()), str(Path.cwd()))
    lines = text.splitlines()
    assert not [word for word in private for line in lines if word in line.split() or f"{word}/" in line]
    assert not [line for line in lines if line.startswith("/") or " /" in line]


def test_the_processor_is_named_as_the_kernel_names_it(tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text("processor\t: 0\nmodel name\t: Some   CPU @ 3 GHz\nmodel name\t: other\n")
    assert machine.cpu_model(file) == "Some CPU @ 3 GHz"
    file.write_text("Features: fp\n")
    assert machine.cpu_model(file) == platform.machine()
    assert machine.cpu_model(tmp_path / "none") == platform.machine()


@pytest.fixture
def group(tmp_path: Path) -> Path:
    """Control groups of both versions with this process in /a/b of each."""
    for folder in ("a/b", "cpu,cpuacct/a/b", "memory/a/b"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "own").write_text("4:memory:/a/b\n3:cpu,cpuacct:/a/b\n0::/a/b\n")
    return tmp_path


def cores(group: Path) -> float:
    return machine.usable_cores(group, group / "own")


def test_a_container_s_quota_limits_the_cores(group: Path) -> None:
    everything = len(os.sched_getaffinity(0))
    (group / "a" / "b" / "cpu.max").write_text("max 100000\n")
    assert cores(group) == everything
    (group / "a" / "cpu.max").write_text("50000 100000\n")
    assert cores(group) == 0.5
    (group / "a" / "cpu.max").write_text("6400000 100000\n")
    assert cores(group) == everything


def test_so_does_one_of_the_first_version(group: Path) -> None:
    folder = group / "cpu,cpuacct" / "a" / "b"
    (folder / "cpu.cfs_period_us").write_text("100000\n")
    (folder / "cpu.cfs_quota_us").write_text("-1\n")
    assert cores(group) == len(os.sched_getaffinity(0))
    (folder / "cpu.cfs_quota_us").write_text("25000\n")
    assert cores(group) == 0.25


@pytest.mark.parametrize("file", ["a/memory.max", "memory/a/b/memory.limit_in_bytes"])
def test_memory_is_that_of_the_machine_or_the_container_s_limit(group: Path, file: str) -> None:
    (group / "meminfo").write_text("MemTotal:        8388608 kB\nMemFree: 1 kB\n")
    (group / "a" / "b" / "memory.max").write_text("max\n")
    assert machine.memory_bytes(group / "meminfo", group, group / "own") == 8 * 2**30
    (group / file).write_text(f"{2**30}\n")
    assert machine.memory_bytes(group / "meminfo", group, group / "own") == 2**30


def test_a_machine_without_the_driver_has_no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.gpu() == machine.NO_GPU


def test_a_gpu_is_named_as_its_driver_names_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'Some GPU, 80000 MiB, 550.1'\necho 'Other, 1 MiB, 550.1'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert machine.gpu() == "Some GPU, 80000 MiB, 550.1; Other, 1 MiB, 550.1"
    tool.write_text("#!/bin/sh\necho 'no driver'\nexit 9\n")
    assert machine.gpu() == machine.NO_GPU


def git(folder: Path, *words: str) -> None:
    who = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    subprocess.run(["git", "-C", str(folder), *who, *words], check=True, capture_output=True)


def test_the_revision_says_whether_files_differ_from_it(tmp_path: Path) -> None:
    assert machine.revision(tmp_path) == "unknown"
    git(tmp_path, "init")
    (tmp_path / "a").write_text("1")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-m", "a")
    commit = machine.revision(tmp_path)
    assert len(commit) == 12
    (tmp_path / "a").write_text("2")
    assert machine.revision(tmp_path) == f"{commit} with changes"


def test_without_git_the_revision_is_unknown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.revision(Path.cwd()) == "unknown"
