"""Between Triton's Python backend and numpy: the only module that knows `triton_python_backend_utils`.

That module exists inside a Triton stub process alone.
"""

from __future__ import annotations

import json
import os
import traceback
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from compositor_backend.errors import DamagedAvatarError, RequestError, TensorError
from compositor_backend.memory import Rest
from compositor_backend.settings import Settings, read_settings

Tensors = dict[str, NDArray[Any]]
Handler = Callable[[Tensors], Mapping[str, NDArray[Any]]]
"""Answers one request: input tensors by name to output tensors by name.

BYTES tensors are object arrays of `bytes`. Optional inputs that did not come are absent.
Inputs are views of Triton's memory: not to be written to, nor kept.
"""


_REST = Rest()


def model_settings(args: Mapping[str, str]) -> Settings:
    """The settings of a model from the `args` that Triton hands to ``initialize``."""
    config = json.loads(args["model_config"])
    parameters = {key: value["string_value"] for key, value in config.get("parameters", {}).items()}
    return read_settings(os.environ, parameters, Path(args["model_repository"]))


def serve(requests: Iterable[Any], handle: Handler) -> list[Any]:
    """One response for each request, in order; a request that fails takes no other with it.

    A `RequestError` is answered with its text, as an invalid argument. Anything else is the server's fault:
    it goes to the log whole, under an id, and the caller gets the id; of a `DamagedAvatarError` the text as well.
    """
    responses = [_respond(request, handle) for request in requests]
    _REST.worked()
    return responses


class _Inputs(Tensors):
    """The tensors of a request. Triton lets pass that one is missing if the model has others that are optional."""

    def __missing__(self, name: str) -> NDArray[Any]:
        raise TensorError(f"{name} is missing; it is wanted in every request")


def _respond(request: Any, handle: Handler) -> Any:
    try:
        outputs = handle(_Inputs((tensor.name(), tensor.as_numpy()) for tensor in request.inputs()))
        wanted = request.requested_output_names()
        return pb_utils.InferenceResponse([_to_tensor(name, outputs[name]) for name in wanted])
    except RequestError as error:
        return _refuse(str(error), pb_utils.TritonError.INVALID_ARG)
    except DamagedAvatarError as error:
        fault_id = _log_fault(str(error.__cause__))
        return _refuse(
            f"{error} (fault {fault_id}); its log says what is wrong", pb_utils.TritonError.INTERNAL
        )
    except Exception:  # noqa: BLE001 - the server's boundary: whatever it was, the others must be served
        fault_id = _log_fault(traceback.format_exc())
        message = f"The server failed to answer this request; its log has the cause under fault {fault_id}."
        return _refuse(message, pb_utils.TritonError.INTERNAL)


def _to_tensor(name: str, array: NDArray[Any]) -> Any:
    return pb_utils.Tensor(name, np.ascontiguousarray(array))


def _refuse(message: str, code: int) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))


def _log_fault(cause: str) -> str:
    """Logs what went wrong under an id, and gives the id."""
    fault_id = uuid.uuid4().hex[:12]
    pb_utils.Logger.log_error(f"fault {fault_id}: {cause}")
    return fault_id
