"""What the final stage of Dockerfile.cpu holds, laid out in a temporary folder in place of ``/opt/lipstream``."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import urllib.request
from pathlib import Path

import pytest

from server.settings import ROOT
from tests.support.leftovers import Leftovers
from tests.unit.docker.dockerfile import Stage, read_dockerfile

pytestmark = pytest.mark.functional

IMAGE_FOLDER = "/opt/lipstream"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """The folder, with a venv that has this one's packages, but not this checkout's rooms."""
    folder = tmp_path / "image"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    (own,) = (folder / "venv" / "lib").glob("python*/site-packages")
    (own / "packages.pth").write_text(sysconfig.get_path("purelib"))
    return folder


def environment_of(folder: Path) -> dict[str, str]:
    """What the stage sets, and nothing of this checkout's."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))
    }
    path = f"{folder / 'venv' / 'bin'}:{Path(sys.base_prefix) / 'bin'}:{os.environ['PATH']}"
    own = {"LIPSTREAM_AVATARS": str(folder / "avatars"), "LIPSTREAM_CACHE": str(folder / "cache")}
    return {**kept, "PATH": path, **own}


def build(stage: Stage, folder: Path) -> None:
    """COPY and RUN, without what only root in a container can do."""
    for instruction in stage.instructions:
        if instruction.name == "COPY" and instruction.words[-1] != "venv":
            source, target = instruction.words[-2:]
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / source.removeprefix(IMAGE_FOLDER + "/"), folder / target, ignore=ignored)
        elif instruction.name == "RUN" and "apt-get" not in instruction.text:
            script = instruction.text.replace(IMAGE_FOLDER, str(folder))
            subprocess.run(["sh", "-ec", script], cwd=folder, env=environment_of(folder), check=True)


def test_what_the_cpu_image_holds_and_starts_serves(
    image: Path, tmp_path: Path, leftovers: Leftovers
) -> None:
    _, final = read_dockerfile(ROOT / "docker" / "Dockerfile.cpu")
    build(final, image)
    replaced = {"/dev/stdout": str(tmp_path / "triton.log"), "0.0.0.0": "127.0.0.1"}
    command = [replaced.get(word, word) for word in final.last("ENTRYPOINT").exec_form]
    command += ["--grpc-port", "0", "--http-port", "0", "--metrics-port", "0", "--health-port", "0"]
    # Not in the image's folder: stubs would find our rooms there without being told.
    server = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment_of(image),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert server.stdout
    lines = [server.stdout.readline() for _ in range(2)]
    assert lines[1].startswith("HTTP"), lines
    with urllib.request.urlopen(f"{lines[1].split()[1]}/v2/models/compositor/ready") as answer:
        assert answer.status == 200
    server.send_signal(signal.SIGTERM)
    server.communicate(timeout=60)
    assert server.returncode == 0
    leftovers.assert_none_within(0, server.pid)
