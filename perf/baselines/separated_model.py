"""The separated way's network inside its Triton: whatever batch comes, row by row, by Lipstream's own runtime."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from compositor_backend.graph_file import GraphFile
from compositor_backend.onnx_runtime import Device, Runtime, usable_cpus
from compositor_backend.pack import file_sha256
from perf.baselines.float_graph import INPUT, OUTPUT

_ROW_BYTES = 1 << 40
"""More than any budget: one row at a time, as `lipsync` computes a network of this size on a CPU."""


class SeparatedModel:
    """One instance of the model, as Triton's Python backend wants it."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the network beside the code."""
        path = Path(args["model_repository"]) / args["model_version"] / "model.onnx"
        runtime = Runtime(
            Device("CPU"),
            threads=usable_cpus(),
            scratch_bytes=None,
            cache_folder=Path(tempfile.gettempdir()) / "lipstream-separated",
            load_timeout_s=60,
            warn=pb_utils.Logger.log_warn,
        )
        graph = GraphFile(path, file_sha256(path), path.stat().st_size, _ROW_BYTES)
        self._network = runtime.open(graph)

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response for each request, in order."""
        return [self._respond(request) for request in requests]

    def _respond(self, request: Any) -> Any:
        inputs = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        visual = inputs[INPUT]
        drawn = np.empty((len(visual), 3, *visual.shape[2:]), np.float32)
        for row in range(len(visual)):
            piece = slice(row, row + 1)
            self._network.run({name: array[piece] for name, array in inputs.items()}, {OUTPUT: drawn[piece]})
        return pb_utils.InferenceResponse([pb_utils.Tensor(OUTPUT, drawn)])
