"""The graph of a clone's network: its source's, with a key and a tint that lie in a small file beside it.

So the graph, weights and all, is the same for all clones of an avatar, and can be one file on the disk.
"""

from __future__ import annotations

import struct
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from compositor_backend import contract
from export.graph_file import save_graph
from export.onnx_guard import CLONE_FILE, refuse_foreign_files

TINT = 7 / 16
"""How much of a clone's colour is in what its network draws; a fraction that float32 holds exactly."""
Colour = tuple[int, int, int]

_VERSION = "1"
_PREFIX = "clone_"
_NUMBERS = struct.Struct("<q3f")
_KEY_BYTES = 8


def is_clone(folder: Path) -> bool:
    """Whether it is the folder of a clone's network."""
    return (folder / _VERSION / CLONE_FILE).exists()


def clone_numbers(key: int, colour: Colour) -> bytes:
    """The content of `CLONE_FILE`: AVATAR_KEY (int64), and the colour (RGB) as it is added (3 float32)."""
    # Half a step more: the sum is truncated to bytes.
    return _NUMBERS.pack(key, *(TINT * value + 0.5 for value in colour))


def write_clone_graph(source: Path, out: Path) -> None:
    """Write the graph in `source`, of the contract, to `out`, with the key and the tint of `CLONE_FILE` beside it.

    MOUTH is ``(1 - TINT) * drawn + TINT * colour``, rounded. Opened where there is no such file, it does not load.
    `ExportError` if `source` leads to other files, as a clone's graph does.
    """
    refuse_foreign_files(source)
    model = onnx.load(str(source), load_external_data=False)
    graph = model.graph
    drawn, former_key = (_PREFIX + tensor.name for tensor in (contract.MOUTH, contract.AVATAR_KEY))
    former = {contract.MOUTH.name: drawn, contract.AVATAR_KEY.name: former_key}
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [former.get(name, name) for name in names]
    graph.initializer.extend(_constants())
    graph.node.extend(_nodes(drawn))
    save_graph(model, out)


def _nodes(drawn: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("Cast", [drawn], ["clone_float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["clone_float", "clone_share"], ["clone_paler"]),
        helper.make_node("Add", ["clone_paler", "clone_tint"], ["clone_tinted"]),
        helper.make_node("Cast", ["clone_tinted"], [contract.MOUTH.name], to=TensorProto.UINT8),
        # The key is made from the batch: a constant wired to an output does not load in Triton's backend.
        helper.make_node("Shape", [contract.FACE.name], ["clone_shape"]),
        helper.make_node("Gather", ["clone_shape", "clone_first"], ["clone_batch"]),
        helper.make_node("Concat", ["clone_batch", "clone_one"], ["clone_key_shape"], axis=0),
        helper.make_node("Expand", ["clone_key", "clone_key_shape"], [contract.AVATAR_KEY.name]),
    ]


def _constants() -> list[TensorProto]:
    return [
        _beside("clone_key", TensorProto.INT64, [1, 1], 0, _KEY_BYTES),
        _beside("clone_tint", TensorProto.FLOAT, [3], _KEY_BYTES, _NUMBERS.size - _KEY_BYTES),
        helper.make_tensor("clone_share", TensorProto.FLOAT, [], [1 - TINT]),
        helper.make_tensor("clone_first", TensorProto.INT64, [1], [0]),
        helper.make_tensor("clone_one", TensorProto.INT64, [1], [1]),
    ]


def _beside(name: str, kind: int, shape: list[int], offset: int, length: int) -> TensorProto:
    """A tensor whose data lies in `CLONE_FILE`."""
    tensor = TensorProto(name=name, data_type=kind, dims=shape, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", CLONE_FILE), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
    return tensor
