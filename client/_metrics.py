"""Fetching what a server or a pool tells Prometheus."""

from __future__ import annotations

import urllib.request
from http.client import HTTPException

from client.errors import SettingsError

FETCH_ERRORS = (OSError, HTTPException, ValueError)
"""What `fetch_metrics`, and parsing what it returns, may raise."""

_TIMEOUT_S = 2.0
_MAX_BYTES = 64 << 20


def check_metrics_url(url: str) -> str:
    """The URL itself; `SettingsError` if it is no HTTP address."""
    if not url.startswith(("http://", "https://")):
        raise SettingsError(f"{url!r} is no metrics address; one like http://host:8002/metrics is wanted")
    return url


def fetch_metrics(url: str) -> str:
    """Prometheus's text format from that address; blocks for seconds at most, and raises `FETCH_ERRORS`."""
    # http_proxy in the environment is not meant for metrics.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=_TIMEOUT_S) as answer:
        text: bytes = answer.read(_MAX_BYTES)
    return text.decode()
