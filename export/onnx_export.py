"""Exports networks to the ONNX graphs that Triton serves, and refuses a graph that differs from its network."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from compositor_backend import contract
from compositor_backend.memory import give_back
from export.atomic import replacing
from export.checkpoints import load_encoder, load_network
from export.graph_file import save_graph
from export.graphs import LipSyncNetwork, ServedEncoder, ServedNetwork
from export.limits import Limits, Parity
from export.networks.audio_encoder import AudioEncoder
from export.parity import check_encoder, check_unet

OPSET = 17
IR_VERSION = 8
"""What opset 17 came with; onnxruntime 1.12 and newer read it."""


def export_unet(
    checkpoint: Path, family: str | None, audio: str | None, out: Path, limits: Limits | None = None
) -> Parity:
    """Write the served graph of a lip-sync network's checkpoint to `out`; nothing is written if it is not equal.

    `family` and `audio` may be None where the weights tell them.
    """
    network, source = load_network(checkpoint, family, audio)
    sha256 = source.sha256
    del source  # and with it the weights as they were read, of which the network has its own
    give_back()
    return write_unet(network, sha256, out, limits)


def export_encoder(checkpoint: Path, out: Path, limits: Limits | None = None) -> Parity:
    """Write the served graph of an audio encoder's checkpoint to `out`; nothing if it is not equal."""
    encoder, source = load_encoder(checkpoint)
    return write_encoder(encoder, source.sha256, out, limits)


def write_unet(network: LipSyncNetwork, sha256: str, out: Path, limits: Limits | None = None) -> Parity:
    """The same for a network in memory; `sha256` (hex) is its checkpoint's and makes AVATAR_KEY."""
    side = network.family.geometry.network_px
    sample = (torch.zeros(2, 3, side, side, dtype=torch.uint8), torch.zeros(2, *network.mode.shape))
    wanted = contract.network_graph(side, network.mode.shape)
    about = {"family": network.family.name, "audio": network.mode.name, "checkpoint_sha256": sha256}
    key = contract.avatar_key(sha256)
    with replacing(out) as draft:
        _trace(ServedNetwork(network, sha256), sample, wanted, draft)
        _finish(draft, wanted, about)
        parity = check_unet(draft, network, key, limits)
    give_back()
    return parity


def write_encoder(encoder: AudioEncoder, sha256: str, out: Path, limits: Limits | None = None) -> Parity:
    """The same for an encoder in memory."""
    sample = (torch.zeros(2, 1, contract.MEL_BANDS, contract.MEL_FRAMES_PER_WINDOW),)
    wanted = contract.ENCODER_GRAPH
    with replacing(out) as draft:
        _trace(ServedEncoder(encoder), sample, wanted, draft)
        _finish(draft, wanted, {"checkpoint_sha256": sha256})
        return check_encoder(draft, encoder, limits)


def _trace(module: nn.Module, sample: tuple[Tensor, ...], wanted: contract.Model, path: Path) -> None:
    """Trace a module whose arguments and results are the inputs and outputs of `wanted`, in that order."""
    inputs, outputs = ([tensor.name for tensor in tensors] for tensors in (wanted.inputs, wanted.outputs))
    with warnings.catch_warnings():
        # The exporter that traces is announced as deprecated; the newer one needs a package of its own.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            # With gradients the exporter keeps every map of the network, half a gigabyte of the largest.
            module.eval().requires_grad_(False),
            sample,
            str(path),
            input_names=inputs,
            output_names=outputs,
            dynamic_axes={name: {0: "batch"} for name in (*inputs, *outputs)},
            opset_version=OPSET,
            dynamo=False,
        )


def _finish(path: Path, wanted: contract.Model, about: Mapping[str, str]) -> None:
    """Give a traced graph the dimensions of `wanted` and its properties ``lipstream.…``, and check it."""
    give_back()  # what tracing took
    model = onnx.load(str(path))
    model.ir_version = IR_VERSION
    for output, tensor in zip(model.graph.output, wanted.outputs, strict=True):
        # Triton's C++ backend compares dimensions to the letter, and the exporter leaves some of them open.
        element = output.type.tensor_type.elem_type
        shape: list[str | int] = ["batch", *tensor.shape[1:]]
        output.CopyFrom(onnx.helper.make_tensor_value_info(output.name, element, shape))
    onnx.helper.set_model_props(model, {f"lipstream.{key}": value for key, value in about.items()})
    save_graph(model, path)
    del model  # the checker makes copies of its own
    onnx.checker.check_model(str(path))
