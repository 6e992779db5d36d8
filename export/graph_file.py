"""Writes an ONNX file of any size with the memory of its largest tensor."""

from __future__ import annotations

from pathlib import Path

import onnx
from google.protobuf.message import Message


def save_graph(model: onnx.ModelProto, path: Path) -> None:
    """`onnx.save` with the memory of one tensor; `model` is taken apart, and of no use afterwards.

    Whole, a graph's bytes take up to four times what they are.
    A message is the sum of its fields, each behind its tag and length, in any order. Source: the encoding's
    specification, https://protobuf.dev/programming-guides/encoding/.
    """
    tensors = list(model.graph.initializer)
    del model.graph.initializer[:]
    graph = model.graph.SerializeToString()
    model.ClearField("graph")
    heads = [_field_head(onnx.GraphProto, "initializer", tensor.ByteSize()) for tensor in tensors]
    length = len(graph) + sum(
        len(head) + tensor.ByteSize() for head, tensor in zip(heads, tensors, strict=True)
    )
    with path.open("wb") as file:
        file.write(model.SerializeToString())
        file.write(_field_head(onnx.ModelProto, "graph", length))
        file.write(graph)
        for head, tensor in zip(heads, tensors, strict=True):
            file.write(head)
            file.write(tensor.SerializeToString())


def _field_head(message: type[Message], field: str, length: int) -> bytes:
    """The tag and the length that a field of `length` bytes begins with."""
    return _varint(message.DESCRIPTOR.fields_by_name[field].number << 3 | 2) + _varint(length)


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; the eighth says that more follow."""
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])
