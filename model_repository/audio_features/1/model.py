"""Triton's entry to `compositor_backend.audio_features`."""

from __future__ import annotations

from typing import Any

from compositor_backend import triton
from compositor_backend.audio_features import AudioFeatures


class TritonPythonModel:
    """One instance of the model, in a process of its own."""

    def initialize(self, args: dict[str, str]) -> None:
        """Makes what does not depend on the request."""
        self._features = AudioFeatures()

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response for each request, in order."""
        return triton.serve(requests, self._features)
