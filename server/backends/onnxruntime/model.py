"""A Python-based Triton backend: serves ``backend: "onnxruntime"`` configs where there is no C++ backend."""

from __future__ import annotations

from typing import Any

import triton_python_backend_utils as pb_utils

from server.errors import ModelLoadError
from server.onnxruntime_backend.batching import Answer, Request, RequestFailedError
from server.onnxruntime_backend.model import OnnxModel


class TritonPythonModel:
    """One instance of a model; Triton makes one in each stub process."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model; what is wrong with it becomes the reason in Triton's log."""
        try:
            self._model = OnnxModel.from_triton(args)
        except ModelLoadError as error:
            raise pb_utils.TritonModelException(str(error)) from error

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response for each request."""
        answers = self._model.answer([self._read(request) for request in requests])
        return [_response(answer) for answer in answers]

    def _read(self, request: Any) -> Request:
        tensors = {name: pb_utils.get_input_tensor_by_name(request, name) for name in self._model.input_names}
        given = {name: tensor.as_numpy() for name, tensor in tensors.items() if tensor is not None}
        return Request(given, frozenset(request.requested_output_names()))


def _response(answer: Answer) -> Any:
    if isinstance(answer, RequestFailedError):
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(answer)))
    return pb_utils.InferenceResponse([pb_utils.Tensor(name, tensor) for name, tensor in answer.items()])
