from __future__ import annotations

import os
import signal

import pytest

# onnxruntime reads it when it is imported, and some tests import it before any room of ours does.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# A shell that starts the tests in the background has them ignore Ctrl-C, which some of them press.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Where tests run side by side, those that start a Triton follow one another in one process, beside the others."""
    if item.get_closest_marker("functional"):
        item.add_marker(pytest.mark.xdist_group("functional"))
