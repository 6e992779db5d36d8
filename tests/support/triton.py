"""A real Triton for functional tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from server.launcher import TritonServer
from server.settings import ROOT, ServerSettings


@contextmanager
def running_triton(
    model_repositories: Sequence[Path] = (ROOT / "model_repository",),
    avatars: Path | None = None,
    load: Sequence[str] = (),
    **settings: Any,
) -> Iterator[TritonServer]:
    """A Triton on free ports, with ``.grpc_url``, ``.http_url``, ``.metrics_url`` and ``.log_path``.

    `load` names avatars; `settings` are further `ServerSettings`. It is gone when the block ends.
    """
    ports = {"grpc_port": 0, "http_port": 0, "metrics_port": 0}
    with TritonServer(
        ServerSettings(
            model_repositories=tuple(model_repositories),
            avatars=avatars,
            load=tuple(load),
            **{**ports, **settings},
        )
    ) as server:
        yield server
