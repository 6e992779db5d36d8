"""Networks of the contract that open well, and end the process that runs them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from compositor_backend.manifest import NETWORK, Manifest
from compositor_backend.pack import file_sha256
from tests.support.graphs import endless_loop


def hang(network: onnx.ModelProto) -> None:
    """Add a loop of 2^62 turns, which FACE waits for."""
    _before_face(network, endless_loop("zero_of_face", "idle"), "idle")


def crash(network: onnx.ModelProto) -> None:
    """Divide the smallest int64 by -1, for which x86 processors have no answer but SIGFPE."""
    nodes = [
        helper.make_node("Cast", ["zero_of_face"], ["zero_int"], to=TensorProto.INT64),
        helper.make_node("Add", ["zero_int", "least"], ["dividend"]),
        helper.make_node("Sub", ["zero_int", "unit"], ["divisor"]),
        helper.make_node("Div", ["dividend", "divisor"], ["quotient"]),
        helper.make_node("Cast", ["quotient"], ["harm"], to=TensorProto.FLOAT),
    ]
    network.graph.initializer.extend(
        [
            numpy_helper.from_array(np.array(np.iinfo(np.int64).min), "least"),
            numpy_helper.from_array(np.array(1), "unit"),
        ]
    )
    _before_face(network, nodes, "harm")


def _before_face(network: onnx.ModelProto, nodes: list[onnx.NodeProto], result: str) -> None:
    """Put nodes before the network's first one; they read `zero_of_face`, and their `result` is added to the face."""
    graph = network.graph
    rest = list(graph.node)
    assert (rest[0].op_type, rest[0].output[0]) == ("Cast", "face"), "a network of tests.support.golden"
    rest[0].output[0] = "plain face"
    start = [
        rest[0],
        helper.make_node("ReduceMax", ["plain face"], ["brightest"], keepdims=0),
        helper.make_node("Sub", ["brightest", "brightest"], ["zero_of_face"]),
        *nodes,
        helper.make_node("Add", ["plain face", result], ["face"]),
    ]
    del graph.node[:]
    graph.node.extend([*start, *rest[1:]])


def replace_network(avatar: Path, network: onnx.ModelProto) -> None:
    """Put another network into an avatar's folder, and its checksum into the manifest."""
    path, manifest = avatar / f"{NETWORK}.onnx", Manifest.load(avatar)
    path.unlink()  # never in place: it may be a link
    onnx.save(network, str(path))
    entry = dataclasses.replace(manifest.graphs[NETWORK], bytes=path.stat().st_size, sha256=file_sha256(path))
    dataclasses.replace(manifest, graphs={**manifest.graphs, NETWORK: entry}).save(avatar)
