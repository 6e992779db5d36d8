from __future__ import annotations

import os
import signal
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

# onnxruntime reads it when it is imported, and some tests import it before any room of ours does.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# A shell that starts the tests in the background has them ignore Ctrl-C, which some of them press.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


class _TritonsInTurn(LoadScopeScheduling):  # type: ignore[misc]
    """Of two processes one runs the tests that start a Triton, one after another, and the other those that do not.

    By their folder: with `xdist_group` marks xdist 3.8 wants a pytest before 9.2.
    """

    def _split_scope(self, nodeid: str) -> str:
        return "functional" if nodeid.startswith("tests/functional/") else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """How tests are shared out where `--numprocesses` says so."""
    return _TritonsInTurn(config, log)
