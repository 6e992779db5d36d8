"""Triton's entry to `compositor_backend.lipsync`."""

from __future__ import annotations

from typing import Any

from compositor_backend.network_instance import NetworkInstance


class TritonPythonModel:
    """One instance of the model, in a process of its own."""

    def initialize(self, args: dict[str, str]) -> None:
        """Networks are opened by the requests that want them."""
        self._instance = NetworkInstance.of_lipsync(args)

    def execute(self, requests: list[Any]) -> list[Any]:
        """A response for each request in order, None for one whose network is being opened: it is answered later."""
        return self._instance.answer(requests)

    def finalize(self) -> None:
        """Ends the threads that open networks."""
        self._instance.close()
