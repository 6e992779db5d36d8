"""The container's entrypoint, started outside a container: with the Triton of the wheel in the image's place."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from server.command import lay_out_backends, triton_environment
from server.installation import find_installation
from server.settings import ROOT, ServerSettings
from server.supervisor import remove_shared_memory
from tests.support.onnx_models import DOUBLING_CONFIG, doubling_graph, write_model

pytestmark = pytest.mark.functional

KEY = {"triton-grpc-protocol-admin-key": "s3cret"}


@dataclass
class Container:
    process: subprocess.Popen[bytes]
    grpc_url: str
    log: Path


@contextmanager
def entered(folder: Path, **variables: str) -> Iterator[Container]:
    """The entrypoint on ``folder/models`` and ``folder/avatars``, as far as it goes without being ready."""
    installation = find_installation()
    lay_out_backends(installation, folder / "backends")
    prefix = f"lipstream_entrypoint_{os.getpid()}_"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # What differs from the image: where backends lie, and ports that other servers here do not use.
    options = [
        f"--backend-directory={folder / 'backends'}",
        f"--backend-config=python,shm-region-prefix-name={prefix}",
        *(f"--grpc-port={port}", "--allow-http=false", "--allow-metrics=false"),
    ]
    wrapper = folder / "bin" / "tritonserver"
    wrapper.parent.mkdir()
    wrapper.write_text(
        f'#!/bin/sh\nexec {shlex.quote(str(installation.binary))} "$@" {shlex.join(options)}\n'
    )
    wrapper.chmod(0o755)
    environment = triton_environment(ServerSettings(), installation, os.environ)
    environment |= {
        "PATH": f"{wrapper.parent}:{environment['PATH']}",
        "LIPSTREAM_MODELS": str(folder / "models"),
        "LIPSTREAM_AVATARS": str(folder / "avatars"),
        **variables,
    }
    log = folder / "triton.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [ROOT / "docker" / "entrypoint.sh"], env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        yield Container(process, f"127.0.0.1:{port}", log)
    finally:
        process.kill()
        process.wait()
        remove_shared_memory(prefix)


def wait_until_ready(container: Container, client: grpcclient.InferenceServerClient) -> None:
    deadline = time.monotonic() + 20
    while True:
        assert container.process.poll() is None, container.log.read_text()
        assert time.monotonic() < deadline, container.log.read_text()
        try:
            if client.is_server_ready():
                return
        except InferenceServerException:
            time.sleep(0.05)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_model(tmp_path / "models", "tiny", doubling_graph(), DOUBLING_CONFIG)
    write_model(tmp_path / "avatars", "lipsync_ann", doubling_graph(), DOUBLING_CONFIG)
    return tmp_path


def test_it_serves_and_only_who_has_the_key_controls_models(folder: Path) -> None:
    with entered(folder, LIPSTREAM_ADMIN_KEY="s3cret") as container:
        with grpcclient.InferenceServerClient(container.grpc_url) as client:
            wait_until_ready(container, client)
            # The release of the image that docker/.env pins: 24.10.
            assert client.get_server_metadata().version == "2.51.0"
            assert "TRITON_VERSION=24.10-" in (ROOT / "docker" / ".env").read_text()
            tensor = grpcclient.InferInput("X", [1, 4], "FP32")
            tensor.set_data_from_numpy(np.ones((1, 4), np.float32))
            assert client.infer("tiny", [tensor]).as_numpy("Y").tolist() == [[2, 2, 2, 2]]
            with pytest.raises(InferenceServerException, match="protocol is restricted"):
                client.load_model("lipsync_ann")
            client.load_model("lipsync_ann", headers=KEY)
            assert client.is_model_ready("lipsync_ann")
        container.process.send_signal(signal.SIGINT)
        assert container.process.wait(20) == 0
