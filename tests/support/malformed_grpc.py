"""Malformed requests as gRPC brings them; `tests.support.malformed` says what is left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as pb

from tests.support.malformed import (
    MANY_NUMBERS,
    Broken,
    Clues,
    Draw,
    Request,
    Valid,
    break_somewhere,
    kind,
    values_of,
)


@dataclass(frozen=True)
class GrpcCase:
    """A request as bytes, to be sent alone or (`streamed`) in a stream."""

    model: str
    kinds: tuple[str, ...]
    clues: frozenset[str]
    message: bytes
    streamed: bool = False


@st.composite
def grpc_cases(draw: Draw, valid: Sequence[Valid]) -> GrpcCase:
    """A request that is wrong in what it says, in how gRPC says it, or is none at all."""
    base = draw(st.sampled_from(valid))
    streamed = draw(st.booleans())
    how = draw(st.sampled_from(("raw", "raw", "raw", "grpc", "typed", "garbage")))
    broken = Broken.from_valid(draw, base)
    if how == "garbage":
        return GrpcCase(base.request.model, ("garbage",), frozenset({"parse"}), _garbage(broken))
    few = sum(len(tensor.data) for tensor in base.request.inputs) <= MANY_NUMBERS
    if how == "raw":
        break_somewhere(broken)
        message = grpc_message(broken.request)
    else:
        choices = _TYPED_BREAKS if how == "typed" and few else _GRPC_BREAKS
        chosen = broken.one_of(*choices)
        message = _typed(broken.request) if choices is _TYPED_BREAKS else grpc_message(broken.request)
        broken.clues.update(chosen(broken, message))
        broken.kinds.append(f"grpc: {kind(chosen)}")
    return GrpcCase(
        base.request.model,
        tuple(broken.kinds),
        frozenset(broken.clues),
        message.SerializeToString(),
        streamed,
    )


def grpc_message(request: Request) -> pb.ModelInferRequest:
    """The form in which tritonclient sends a request; what lies in shared memory has no contents."""
    message = pb.ModelInferRequest(model_name=request.model, model_version=request.version, id="1")
    for tensor in request.inputs:
        sent = message.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        _put_parameters(sent.parameters, tensor.parameters)
        if not tensor.parameters:
            message.raw_input_contents.append(tensor.data)
    for name, parameters in request.outputs:
        _put_parameters(message.outputs.add(name=name).parameters, parameters)
    _put_parameters(message.parameters, request.parameters)
    return message


def _put_parameters(target: Any, parameters: Mapping[str, Any]) -> None:
    kinds = {int: "int64_param", str: "string_param", float: "double_param"}
    for key, value in parameters.items():
        setattr(target[key], kinds[type(value)], value)


def _garbage(broken: Broken) -> bytes:
    """Bytes that are no protobuf message of that kind."""
    whole = grpc_message(broken.request).SerializeToString()
    # The last field is that of the raw contents, which are longer than a byte.
    cut = broken.draw(st.integers(1, 7))
    return broken.one_of(
        whole[:-cut], whole + b"\xff", b"\xff" * 20, b"\x0a\x05abc", b"\x0a\xff\xff\xff\xff\x0f"
    )


def _contents_too(broken: Broken, message: pb.ModelInferRequest) -> Clues:
    tensor = broken.draw(st.sampled_from(message.inputs))
    tensor.contents.int_contents.append(1)
    return (f"contents field must not be specified when using raw_input_contents for '{tensor.name}'",)


def _contents_missing(broken: Broken, message: pb.ModelInferRequest) -> Clues:
    keep = broken.draw(st.integers(0, len(message.inputs) - 1))
    del message.raw_input_contents[keep:]
    return (f"unable to find data for input tensor '{message.inputs[keep].name}'",)


def _version_no_number(broken: Broken, message: pb.ModelInferRequest) -> Clues:
    message.model_version = broken.one_of("x", "-3", "0", "99999999999999999999")
    return ("model version", "is not found")


def _region_half_said(broken: Broken, message: pb.ModelInferRequest) -> Clues:
    tensor = broken.draw(st.sampled_from(message.inputs))
    key, value = broken.one_of(
        ("shared_memory_region", "nowhere"),
        ("shared_memory_region", 5),
        ("shared_memory_byte_size", 8),
        ("shared_memory_byte_size", "x"),
        ("shared_memory_offset", "x"),
    )
    _put_parameters(tensor.parameters, {key: value})
    return (f"tensor '{tensor.name}'",)


def _wrong_classification(broken: Broken, message: pb.ModelInferRequest) -> Clues:
    output = message.outputs.add(name=broken.one_of(*broken.valid.outputs))
    _put_parameters(output.parameters, {"classification": broken.one_of(0, -1, -(2**63), "x", 0.5)})
    return ("'classification' parameter",)


def _parameter_without_value(_: Broken, message: pb.ModelInferRequest) -> Clues:
    message.parameters["empty"].SetInParent()
    return ("'empty' parameter",)


_GrpcBreak = Callable[[Broken, pb.ModelInferRequest], Clues]
_GRPC_BREAKS: tuple[_GrpcBreak, ...] = (
    _contents_too,
    _contents_missing,
    _version_no_number,
    _region_half_said,
    _wrong_classification,
    _parameter_without_value,
)


def _typed(request: Request) -> pb.ModelInferRequest:
    """The request with its data as protobuf's numbers."""
    message = grpc_message(request)
    del message.raw_input_contents[:]
    for sent, tensor in zip(message.inputs, request.inputs, strict=True):
        getattr(sent.contents, _FIELDS[sent.datatype]).extend(values_of(tensor))
    return message


_FIELDS = {
    "BYTES": "bytes_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "FP32": "fp32_contents",
}


def _numbers_of_other_type(broken: Broken, message: pb.ModelInferRequest) -> Clues:
    tensor = broken.draw(st.sampled_from(message.inputs))
    if broken.draw(st.booleans()):
        tensor.ClearField("contents")
    other = broken.one_of("bool_contents", "int64_contents", "fp64_contents", "uint_contents")
    getattr(tensor.contents, other).append(1)
    return (f"unexpected explicit tensor data for input tensor '{tensor.name}'",)


def _too_few_numbers(broken: Broken, message: pb.ModelInferRequest) -> Clues:
    tensor = broken.draw(st.sampled_from(message.inputs))
    numbers = getattr(tensor.contents, _FIELDS[tensor.datatype])
    del numbers[broken.draw(st.integers(0, len(numbers) - 1)) :]
    return (f"input '{tensor.name}'", f"input tensor '{tensor.name}'")


def _too_many_numbers(broken: Broken, message: pb.ModelInferRequest) -> Clues:
    tensor = broken.draw(st.sampled_from(message.inputs))
    numbers = getattr(tensor.contents, _FIELDS[tensor.datatype])
    numbers.extend(list(numbers[:1]) * broken.one_of(1, 2, 100))
    return (f"input '{tensor.name}'",)


def _neither(broken: Broken, message: pb.ModelInferRequest) -> Clues:
    tensor = broken.draw(st.sampled_from(message.inputs))
    tensor.ClearField("contents")
    return (f"unable to find data for input tensor '{tensor.name}'",)


_TYPED_BREAKS: tuple[_GrpcBreak, ...] = (
    _numbers_of_other_type,
    _too_few_numbers,
    _too_many_numbers,
    _neither,
)
