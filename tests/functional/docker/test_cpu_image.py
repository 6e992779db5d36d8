"""The steps of Dockerfile.cpu, carried out in a temporary folder in place of a container's ``/opt/lipstream``."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from server.settings import ROOT
from tests.support.leftovers import Leftovers
from tests.unit.docker.dockerfile import Stage, read_dockerfile

pytestmark = [pytest.mark.functional, pytest.mark.slow]

IMAGE_FOLDER = "/opt/lipstream"


def environment_of(folder: Path) -> dict[str, str]:
    """What the image's final stage sets, and nothing of this checkout's."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))
    }
    # The base image's python3 is this test's interpreter.
    return {**kept, "PATH": f"{folder / 'venv' / 'bin'}:{Path(sys.base_prefix) / 'bin'}:{os.environ['PATH']}"}


def build(stage: Stage, folder: Path, environment: dict[str, str]) -> None:
    """COPY and RUN of a stage, without what only root in a container can do."""
    for instruction in stage.instructions:
        if instruction.name == "COPY" and not instruction.text.startswith("--from"):
            *sources, target = instruction.words
            for source in sources:
                _copy(ROOT / source, folder / target, into=target.endswith("/"))
        elif instruction.name == "RUN" and "apt-get" not in instruction.text:
            script = instruction.text.replace(IMAGE_FOLDER, str(folder))
            subprocess.run(["sh", "-ec", script], cwd=folder, env=environment, check=True, timeout=500)


def _copy(source: Path, target: Path, *, into: bool) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        return
    target.mkdir(parents=True, exist_ok=True) if into else None
    shutil.copy(source, target)


def test_what_the_cpu_image_installs_and_starts_serves(tmp_path: Path, leftovers: Leftovers) -> None:
    folder, avatars, log = tmp_path / "image", tmp_path / "avatars", tmp_path / "triton.log"
    folder.mkdir()
    avatars.mkdir()
    environment = environment_of(folder)
    packages, final = read_dockerfile(ROOT / "docker" / "Dockerfile.cpu")
    build(packages, folder, environment)
    build(final, folder, environment)
    entrypoint = final.last("ENTRYPOINT").exec_form
    replaced = {"/avatars": str(avatars), "/dev/stdout": str(log), "0.0.0.0": "127.0.0.1"}
    command = [replaced.get(word, word) for word in entrypoint]
    command += ["--grpc-port", "0", "--http-port", "0", "--metrics-port", "0", "--health-port", "0"]
    command += ["--load-all"]
    server = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert server.stdout
    lines = [server.stdout.readline() for _ in range(2)]
    assert lines[1].startswith("HTTP"), lines
    with urllib.request.urlopen(f"{lines[1].split()[1]}/v2/models/compositor/ready") as answer:
        assert answer.status == 200
    server.send_signal(signal.SIGTERM)
    server.communicate(timeout=25)
    assert server.returncode == 0
    leftovers.assert_none_within(0, server.pid)
