"""Requests as tritonclient makes them, without Lipstream's client and its checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from numpy.typing import NDArray
from tritonclient.utils import np_to_triton_dtype


def ask(
    url: str, model: str, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str] = ("JPEG",)
) -> dict[str, NDArray[Any]]:
    """Send tensors as they are; an `InferenceServerException` is the server's answer to a wrong one."""
    tensors = []
    for name, value in inputs.items():
        tensor = triton.InferInput(name, list(value.shape), np_to_triton_dtype(value.dtype))
        tensor.set_data_from_numpy(value)
        tensors.append(tensor)
    with triton.InferenceServerClient(url) as client:
        requested = [triton.InferRequestedOutput(name) for name in outputs]
        answer = client.infer(model, tensors, outputs=requested, client_timeout=60)
        return {name: np.asarray(answer.as_numpy(name)) for name in outputs}


def counts(url: str, model: str) -> tuple[int, int, int]:
    """Requests that a model has answered, their rows, and the executions that they took, since Triton started."""
    with triton.InferenceServerClient(url) as client:
        (found,) = client.get_inference_statistics(model).model_stats
    return found.inference_stats.success.count, found.inference_count, found.execution_count
