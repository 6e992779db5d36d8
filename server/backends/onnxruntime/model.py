"""A Python-based Triton backend: serves ``backend: "onnxruntime"`` configs where there is no C++ backend."""

from __future__ import annotations

from typing import Any

import triton_python_backend_utils as pb_utils

from server.onnxruntime_backend.batching import Answer, Request, RequestFailedError
from server.onnxruntime_backend.model import OnnxModel


class TritonPythonModel:
    """One instance of a model; Triton makes one in each stub process."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model; a `ModelLoadError` is the reason in Triton's log and in the answer to a load."""
        self._model = OnnxModel.from_triton(args)

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response for each request."""
        return [_response(answer) for answer in self._model.answer([_read(request) for request in requests])]


def _read(request: Any) -> Request:
    inputs = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
    return Request(inputs, frozenset(request.requested_output_names()))


def _response(answer: Answer) -> Any:
    if isinstance(answer, RequestFailedError):
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(answer)))
    return pb_utils.InferenceResponse([pb_utils.Tensor(name, tensor) for name, tensor in answer.items()])
