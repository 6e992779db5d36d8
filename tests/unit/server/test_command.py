from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from server.command import Ports, lay_out_backends, triton_command, triton_environment
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
    chosen = ServerSettings(model_repositories=(Path("models"),), **settings)
    return triton_command(chosen, installation, Path("/run/backends"), PORTS, ["a", "avatar_b"], "shm_")


def test_backends_are_tritons_python_with_our_interpreters_stub_and_our_own(
    installation: Installation, tmp_path: Path
) -> None:
    folder = tmp_path / "backends"
    lay_out_backends(installation, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["onnxruntime", "python"]
    assert sorted(path.name for path in (folder / "python").iterdir()) == ["libtriton_python.so", STUB]
    assert os.access(folder / "python" / STUB, os.X_OK)
    assert "class TritonPythonModel" in (folder / "onnxruntime" / "model.py").read_text()


def test_the_command_names_repositories_models_addresses_and_control_mode(
    installation: Installation, tmp_path: Path
) -> None:
    made = command(installation, avatars=tmp_path / "avatars", host="0.0.0.0")
    assert made[0] == str(installation.binary)
    for flag in (
        f"--model-repository={Path('models').resolve()}",
        f"--model-repository={tmp_path / 'avatars'}",
        "--backend-directory=/run/backends",
        "--model-control-mode=explicit",
        "--grpc-address=0.0.0.0",
        "--grpc-port=1",
        "--http-port=2",
        "--metrics-port=3",
        "--rate-limit=execution_count",
        "--rate-limit-resource=gpu_slot:8",
        "--backend-config=python,shm-region-prefix-name=shm_",
    ):
        assert flag in made
    assert [flag for flag in made if flag.startswith("--load-model")] == [
        "--load-model=a",
        "--load-model=avatar_b",
    ]


def test_without_a_gpu_the_embedded_configs_go_first(installation: Installation) -> None:
    assert "--model-config-name=embedded" in command(installation)
    with_gpu = command(installation, gpu=True, gpu_slots=4)
    assert not any(flag.startswith("--model-config-name") for flag in with_gpu)
    assert "--rate-limit-resource=gpu_slot:4" in with_gpu


def test_a_client_that_pings_every_ten_seconds_is_tolerated(installation: Installation) -> None:
    flags = dict(flag.split("=", 1) for flag in command(installation) if flag.startswith("--grpc-"))
    assert int(flags["--grpc-http2-min-recv-ping-interval-without-data"]) < 10_000


def test_own_options_come_last_so_that_they_win(installation: Installation) -> None:
    assert command(installation, triton_options=("--log-verbose=9",))[-1] == "--log-verbose=9"


def test_the_environment_leads_stubs_to_our_packages_and_avatars(
    installation: Installation, tmp_path: Path
) -> None:
    before = {"PATH": "/usr/bin", "LD_LIBRARY_PATH": "/mine", "OMP_NUM_THREADS": "3", "HOME": "/home/ann"}
    after = triton_environment(ServerSettings(avatars=tmp_path), installation, before)
    assert after["PATH"] == f"{Path(sys.executable).parent}:/usr/bin"
    assert after["LD_LIBRARY_PATH"] == f"{tmp_path / 'libs'}:{tmp_path / 'libpython'}:/mine"
    assert after["PYTHONPATH"] == str(ROOT)
    assert after["LIPSTREAM_AVATARS"] == str(tmp_path)
    assert (after["OMP_NUM_THREADS"], after["OPENBLAS_NUM_THREADS"]) == ("3", "1")
    assert after["MALLOC_TRIM_THRESHOLD_"] == str(128 << 20)
    assert after["ORT_DISABLE_TELEMETRY"] == "1"
    assert after["HOME"] == "/home/ann"
    assert before["PATH"] == "/usr/bin"
