"""What an ONNX file is: a graph of the wire contract, one met in the wild, or neither."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from compositor_backend import contract
from compositor_backend.geometry import FAMILIES
from export.errors import ExportError
from export.onnx_guard import refuse_foreign_files

_STATE = onnxruntime.capi.onnxruntime_pybind11_state
_LOAD_ERRORS = (
    RuntimeError, ValueError, OSError, _STATE.Fail, _STATE.InvalidGraph, _STATE.InvalidProtobuf,
    _STATE.InvalidArgument, _STATE.NoSuchFile, _STATE.NotImplemented,
)  # fmt: skip


@dataclass(frozen=True)
class ServedNetwork:
    """A network's graph of the contract: its family ("328", "160", "wav2lip-96" …), audio input and AVATAR_KEY."""

    family: str
    audio_shape: tuple[int, ...]
    key: int


def open_session(path: Path, called: Path | None = None) -> onnxruntime.InferenceSession:
    """An onnxruntime session on the CPU; `ExportError`, naming the file as `called`, if it does not load."""
    refuse_foreign_files(path, called)
    return _open(str(path), called or path)


def open_bytes(name: Path, model: bytes) -> onnxruntime.InferenceSession:
    """The same of a graph in memory, called `name`."""
    return _open(model, name)


def _open(model: str | bytes, name: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # a failure comes back as an exception; printing it too helps nobody
    # Planned ahead, memory is taken twice over: 330 MB for each picture of the largest network, instead of 165.
    options.enable_mem_pattern = False
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except _LOAD_ERRORS as error:
        raise ExportError(f"{name} is no ONNX graph that onnxruntime loads: {str(error)[:200]}") from error


def input_names(session: onnxruntime.InferenceSession) -> set[str]:
    """Names of a graph's inputs."""
    return {tensor.name for tensor in session.get_inputs()}


def checkpoint_of(path: Path) -> str | None:
    """The SHA-256 (hex) of the checkpoint that a graph was exported from, None where it does not say."""
    found = open_session(path).get_modelmeta().custom_metadata_map.get("lipstream.checkpoint_sha256")
    return None if found is None else str(found)


def inspect_network(path: Path, called: Path | None = None) -> ServedNetwork:
    """Read what a U-Net's graph of the contract is, and run it once for its key; `ExportError` if it is none.

    Errors name the file as `called`.
    """
    name = called or path
    session = open_session(path, name)
    face, audio = _visual_and_audio_shapes(name, session)
    family = next((f.name for f in FAMILIES.values() if face[1:] == [3, f.network_px, f.network_px]), None)
    if family is None:
        sides = ", ".join(str(f.network_px) for f in FAMILIES.values())
        raise ExportError(f"{name} has FACE {face}; a side of one of {sides} px is wanted")
    wanted = contract.network_graph(face[2], tuple(audio[1:]))
    _check_tensors(name, session, wanted)
    return ServedNetwork(family, tuple(audio[1:]), _read_key(name, session, wanted))


def inspect_encoder(path: Path, called: Path | None = None) -> None:
    """Run an audio encoder's graph of the contract once; `ExportError`, naming it as `called`, if it is none."""
    name = called or path
    session = open_session(path, name)
    wanted = contract.ENCODER_GRAPH
    _check_tensors(name, session, wanted)
    _run_once(name, session, wanted)


def _visual_and_audio_shapes(
    name: Path, session: onnxruntime.InferenceSession
) -> tuple[list[Any], list[Any]]:
    shapes = {tensor.name: tensor.shape for tensor in session.get_inputs()}
    face, audio = shapes.get(contract.FACE.name, []), shapes.get(contract.AUDIO.name, [])
    if len(face) != 4 or not audio or not all(isinstance(n, int) for n in (*face[1:], *audio[1:])):
        raise ExportError(
            f"{name} has the inputs {_describe(shapes)}; FACE [B,3,S,S] and AUDIO [B,…] are wanted"
        )
    return face, audio


def _read_key(name: Path, session: onnxruntime.InferenceSession, wanted: contract.Model) -> int:
    keys = _run_once(name, session, wanted)[contract.AVATAR_KEY.name]
    if keys[0, 0] != keys[1, 0]:
        raise ExportError(
            f"{name} gives AVATAR_KEY {keys.tolist()} for two frames; one key for each is wanted"
        )
    return int(keys[0, 0])


_NUMPY_TYPES = {"UINT8": np.uint8, "FP32": np.float32}


def _run_once(name: Path, session: onnxruntime.InferenceSession, wanted: contract.Model) -> dict[str, Any]:
    """All outputs for a batch of two noughts; `ExportError` if one has another shape than the contract's."""
    sample = {t.name: np.zeros((2, *t.shape[1:]), _NUMPY_TYPES[t.dtype]) for t in wanted.inputs}
    names = [tensor.name for tensor in wanted.outputs]
    outputs = dict(zip(names, run(name, session, names, sample), strict=True))
    for tensor in wanted.outputs:
        shape = outputs[tensor.name].shape
        if shape != (2, *tensor.shape[1:]):
            raise ExportError(
                f"{name} gives {tensor.name} {list(shape)} for a batch of two; {[2, *tensor.shape[1:]]} is wanted"
            )
    return outputs


_TYPES = {"UINT8": "tensor(uint8)", "FP32": "tensor(float)", "INT64": "tensor(int64)"}


def _check_tensors(path: Path, session: onnxruntime.InferenceSession, wanted: contract.Model) -> None:
    """Names, types and shapes are the contract's, with the batch dimension left open."""
    for given, tensors in ((session.get_inputs(), wanted.inputs), (session.get_outputs(), wanted.outputs)):
        found = {tensor.name: tensor for tensor in given}
        if set(found) != {tensor.name for tensor in tensors}:
            names = ", ".join(tensor.name for tensor in tensors)
            raise ExportError(f"{path} has {', '.join(found) or 'no tensors'}; {names} are wanted")
        for tensor in tensors:
            shape, kind = found[tensor.name].shape, found[tensor.name].type
            open_batch = bool(shape) and not isinstance(shape[0], int)
            if kind != _TYPES[tensor.dtype] or not open_batch or tuple(shape[1:]) != tensor.shape[1:]:
                raise ExportError(
                    f"{path} has {tensor.name} {kind} {shape}; {_TYPES[tensor.dtype]} with an open first dimension "
                    f"and {list(tensor.shape[1:])} after it is wanted"
                )


def run(
    path: Path, session: onnxruntime.InferenceSession, outputs: list[str], inputs: dict[str, Any]
) -> list[Any]:
    """Run a graph; `ExportError` if it does not run."""
    try:
        return list(session.run(outputs, inputs))
    except _LOAD_ERRORS as error:
        raise ExportError(f"{path} does not run: {str(error)[:200]}") from error


def _describe(shapes: dict[str, Any]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in shapes.items()) or "none"
