"""The examples of `model_repository/README.md`, as a reader would type them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from numpy.typing import NDArray

from server.settings import ROOT
from tests.functional.chain.conftest import Chain

pytestmark = pytest.mark.functional

README = (ROOT / "model_repository" / "README.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"<!-- example: (\w+) -->\n```\w+\n(.*?)```", README, re.DOTALL))
COMMANDS = {"python": [sys.executable, "-c"], "curl": ["bash", "-euo", "pipefail", "-c"]}


@pytest.mark.parametrize(
    "example",
    [
        "python",
        pytest.param(
            "curl", marks=pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
        ),
    ],
)
def test_an_example_gets_the_demos_first_frame(
    example: str, chain: Chain, speech: NDArray[np.int16], tmp_path: Path
) -> None:
    speech.tofile(tmp_path / "speech.pcm")
    text = EXAMPLES[example].replace("http://localhost:8000", chain.server.http_url)
    text = text.replace("localhost:8001", chain.url)
    assert "localhost" not in text
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    subprocess.run([*COMMANDS[example], text], cwd=tmp_path, env=environment, check=True, timeout=120)
    height, width, _, _ = simplejpeg.decode_jpeg_header((tmp_path / "frame.jpg").read_bytes())
    assert (width, height) == (1280, 720)
