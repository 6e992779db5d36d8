"""Triton's entry to `compositor_backend.catalog`."""

from __future__ import annotations

from typing import Any

from compositor_backend import triton
from compositor_backend.catalog import Catalog


class TritonPythonModel:
    """One instance of the model, in a process of its own."""

    def initialize(self, args: dict[str, str]) -> None:
        """What is on disk is looked at when it is asked for."""
        self._catalog = Catalog(triton.model_settings(args).avatars_folder)

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response for each request, in order."""
        return triton.serve(requests, self._catalog)
