"""Triton's entry to `compositor_backend.audio_windows`."""

from __future__ import annotations

from typing import Any

from compositor_backend import triton
from compositor_backend.audio_windows import AudioWindows


class TritonPythonModel:
    """One instance of the model, in a process of its own."""

    def initialize(self, args: dict[str, str]) -> None:
        """Packs are opened by the requests that want them."""
        self._windows = AudioWindows.from_settings(triton.model_settings(args))

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response for each request, in order."""
        return triton.serve(requests, self._windows)
