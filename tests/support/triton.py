"""A real Triton for functional tests."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from server.launcher import TritonServer
from server.settings import ServerSettings


@contextmanager
def running_triton(avatars: Path | None = None, **settings: Any) -> Iterator[TritonServer]:
    """A Triton on free ports that serves `avatars`, with ``.grpc_url``, ``.http_url``, ``.metrics_url``.

    `settings` are further `ServerSettings`. Its optimised graphs lie beside it; it is gone when the block ends.
    """
    ports = {"grpc_port": 0, "http_port": 0, "metrics_port": 0}
    with tempfile.TemporaryDirectory(prefix="lipstream-graphs-") as cache:
        chosen = {**ports, "cache": Path(cache), **settings}
        with TritonServer(ServerSettings(avatars=avatars, **chosen)) as server:
            yield server
