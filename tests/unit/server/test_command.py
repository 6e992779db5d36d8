from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from server.command import Ports, lay_out_backends, lay_out_models, triton_command, triton_environment
from server.installation import STUB, Installation
from server.settings import ROOT, ServerSettings

PORTS = Ports(grpc=1, http=2, metrics=3)


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    python = tmp_path / "wheel" / "python"
    (python / "__pycache__").mkdir(parents=True)
    (python / "libtriton_python.so").touch()
    stub = tmp_path / "wheel" / STUB
    stub.write_text("#!/bin/sh\nexit 42\n")
    stub.chmod(0o644)
    return Installation(tmp_path / "tritonserver", python, stub, (tmp_path / "libs", tmp_path / "libpython"))


def command(installation: Installation, **settings: Any) -> list[str]:
    return triton_command(ServerSettings(**settings), installation, Path("/run/x"), PORTS, "shm_", "a-key")


def test_backends_are_tritons_python_with_our_interpreters_stub(
    installation: Installation, tmp_path: Path
) -> None:
    folder = tmp_path / "backends"
    lay_out_backends(installation, folder)
    assert [path.name for path in folder.iterdir()] == ["python"]
    assert sorted(path.name for path in (folder / "python").iterdir()) == ["libtriton_python.so", STUB]
    assert os.access(folder / "python" / STUB, os.X_OK)


def test_models_are_laid_out_so_that_what_is_written_beside_them_is_not_written_into_them(
    tmp_path: Path,
) -> None:
    repository, folder = tmp_path / "repository", tmp_path / "run" / "models"
    version = repository / "catalog" / "1"
    (version / "__pycache__").mkdir(parents=True)
    (version / "model.py").write_text("pass")
    (tmp_path / "elsewhere").symlink_to(repository)
    lay_out_models(tmp_path / "elsewhere", folder)
    assert (folder / "catalog" / "1" / "model.py").read_text() == "pass"
    assert [path.name for path in (folder / "catalog" / "1").iterdir()] == ["model.py"]
    (folder / "catalog" / "1" / "__pycache__").mkdir()
    (folder / "catalog" / "1" / "__pycache__" / "model.pyc").touch()
    assert list((version / "__pycache__").iterdir()) == []


def test_the_command_names_folders_addresses_and_static_models(installation: Installation) -> None:
    made = command(installation, host="0.0.0.0")
    assert made[0] == str(installation.binary)
    for flag in (
        "--model-repository=/run/x/model_repository",
        "--backend-directory=/run/x/backends",
        "--model-control-mode=none",
        "--grpc-address=0.0.0.0",
        "--grpc-port=1",
        "--http-port=2",
        "--metrics-port=3",
        "--backend-config=python,shm-region-prefix-name=shm_",
    ):
        assert flag in made


def test_what_can_harm_others_is_closed_over_both_protocols(installation: Installation) -> None:
    closed = "model-repository,shared-memory,trace,logging:lipstream-key=a-key"
    made = command(installation)
    assert f"--grpc-restricted-protocol={closed}" in made
    assert f"--http-restricted-api={closed}" in made


def test_without_a_gpu_the_embedded_configs_go_first(installation: Installation) -> None:
    assert "--model-config-name=embedded" in command(installation)
    assert not any(flag.startswith("--model-config-name") for flag in command(installation, gpu=True))


def test_a_client_that_pings_every_ten_seconds_is_tolerated(installation: Installation) -> None:
    flags = dict(flag.split("=", 1) for flag in command(installation) if flag.startswith("--grpc-"))
    assert int(flags["--grpc-http2-min-recv-ping-interval-without-data"]) < 10_000


def test_own_options_come_last_so_that_they_win(installation: Installation) -> None:
    assert command(installation, triton_options=("--log-verbose=9",))[-1] == "--log-verbose=9"


def test_the_environment_leads_stubs_to_our_packages(installation: Installation, tmp_path: Path) -> None:
    before = {"PATH": "/usr/bin", "LD_LIBRARY_PATH": "/mine", "OMP_NUM_THREADS": "3", "HOME": "/home/ann"}
    after = triton_environment(ServerSettings(), installation, before)
    assert after["PATH"] == f"{Path(sys.executable).parent}:/usr/bin"
    assert after["LD_LIBRARY_PATH"] == f"{tmp_path / 'libs'}:{tmp_path / 'libpython'}:/mine"
    assert after["PYTHONPATH"] == str(ROOT)
    assert (after["OMP_NUM_THREADS"], after["OPENBLAS_NUM_THREADS"]) == ("3", "1")
    assert after["MALLOC_TRIM_THRESHOLD_"] == str(128 << 20)
    assert after["ORT_DISABLE_TELEMETRY"] == "1"
    assert after["HOME"] == "/home/ann"
    assert before["PATH"] == "/usr/bin"


def test_the_models_are_told_what_was_chosen_and_keep_what_the_environment_says(
    installation: Installation, tmp_path: Path
) -> None:
    before = {"LIPSTREAM_NETWORK_CACHE_MIB": "1", "LIPSTREAM_SCRATCH_MIB": "2", "LIPSTREAM_WARM": "may"}
    settings = ServerSettings(avatars=tmp_path, networks_mib=9, cache=tmp_path / "cache")
    after = triton_environment(settings, installation, before)
    own = {name: value for name, value in after.items() if name.startswith("LIPSTREAM_")}
    assert own == {
        "LIPSTREAM_AVATARS": str(tmp_path),
        "LIPSTREAM_NETWORK_CACHE_MIB": "9",
        "LIPSTREAM_SCRATCH_MIB": "2",
        "LIPSTREAM_CACHE": str(tmp_path / "cache"),
        "LIPSTREAM_WARM": "may",
    }


def test_avatars_that_nobody_names_lie_beside_the_models(installation: Installation, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    settings = ServerSettings(model_repository=tmp_path / "models")
    named = {"LIPSTREAM_AVATARS": "/srv/avatars"}
    assert triton_environment(settings, installation, named)["LIPSTREAM_AVATARS"] == "/srv/avatars"
    assert triton_environment(settings, installation, {})["LIPSTREAM_AVATARS"] == str(tmp_path / "avatars")
