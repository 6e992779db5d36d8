from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from compositor_backend.errors import SettingsError
from export.onnx_export import write_unet
from perf.null_network import write_null_network
from perf.roofline import CPU, Traffic, bandwidth, network_seconds, open_session, traffic
from tests.support.networks import TINY_WIDTHS, random_unet


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("roofline") / "tiny.onnx"
    write_unet(random_unet(widths=TINY_WIDTHS), "0123456789abcdef" * 4, path)
    return path


def test_traffic_counts_what_convolutions_read_and_write(graph: Path) -> None:
    found = traffic(graph)
    model = onnx.load(str(graph))
    heavy = [node for node in model.graph.node if node.op_type in ("Conv", "ConvTranspose")]
    used = {name for node in heavy for name in node.input}
    weights = sum(
        4 * onnx.numpy_helper.to_array(tensor).size
        for tensor in model.graph.initializer
        if tensor.name in used
    )
    assert found.a_run == weights
    # The first convolution alone reads six planes of floats, and each of the tiny network's layers less than that.
    assert 4 * 6 * 320 * 320 < found.a_frame < 4 * 6 * 320 * 320 * 2 * len(heavy)


def test_a_network_without_convolutions_moves_nothing(tmp_path: Path) -> None:
    assert traffic(write_null_network(tmp_path / "null.onnx")) == Traffic(0, 0)


def test_weights_are_read_once_a_run() -> None:
    moved = Traffic(a_frame=10, a_run=100)
    assert moved.seconds(1, 10.0) == 11
    assert moved.seconds(10, 10.0) == 20


def test_a_device_is_measured_by_copying() -> None:
    # Any machine that runs these tests copies between 100 MB/s and 10 TB/s.
    assert 1e8 < bandwidth(CPU, rounds=3, copied_bytes=1 << 22) < 1e13


def test_a_network_is_timed(graph: Path) -> None:
    assert 0 < network_seconds(graph, CPU, frames=2, rounds=2) < 10


def test_a_provider_that_does_not_start_is_an_error(graph: Path) -> None:
    with pytest.raises(SettingsError, match="no MadeUpProvider"):
        open_session(graph.read_bytes(), "MadeUpProvider")
