"""Triton's entry to `compositor_backend.idle_frames`."""

from __future__ import annotations

from typing import Any

from compositor_backend import triton
from compositor_backend.idle_frames import IdleFrames


class TritonPythonModel:
    """One instance of the model, in a process of its own."""

    def initialize(self, args: dict[str, str]) -> None:
        """Packs are opened by the requests that want them."""
        self._idle_frames = IdleFrames.from_settings(triton.model_settings(args))

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response for each request, in order."""
        return triton.serve(requests, self._idle_frames)
