from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from compositor_backend.errors import NetworkError, RefusedNetworkError
from compositor_backend.graph_file import GraphFile
from compositor_backend.onnx_runtime import HUNG_STATUS
from tests.support.graphs import adding_graph, endless_graph, write_graph
from tests.support.runtimes import cpu_runtime


def draw(cache: Path, graph: GraphFile) -> list[list[float]]:
    network = cpu_runtime(cache).open(graph)
    out = np.empty((2, 4), np.float32)
    network.run({"X": np.ones((2, 4), np.float32)}, {"Y": out})
    return out.tolist()


def saved(cache: Path) -> list[Path]:
    return sorted(cache.rglob("*.onnx"))


def test_a_graph_is_opened_and_run(tmp_path: Path) -> None:
    graph = write_graph(tmp_path / "a.onnx", adding_graph(2))
    assert draw(tmp_path / "cache", graph) == [[3.0] * 4] * 2


def test_the_optimised_graph_is_saved_once_and_opened_from_then_on(tmp_path: Path) -> None:
    cache, graph = tmp_path / "cache", write_graph(tmp_path / "a.onnx", adding_graph(2))
    draw(cache, graph)
    (first,) = saved(cache)
    assert graph.sha256 in first.parts
    before = first.stat().st_ino
    assert draw(cache, graph) == [[3.0] * 4] * 2
    assert [path.stat().st_ino for path in saved(cache)] == [before]


@pytest.mark.parametrize("data", [b"", b"no graph", None])
def test_a_damaged_saved_graph_counts_as_absent(tmp_path: Path, data: bytes | None) -> None:
    cache, graph = tmp_path / "cache", write_graph(tmp_path / "a.onnx", adding_graph(2))
    draw(cache, graph)
    (path,) = saved(cache)
    path.write_bytes(path.read_bytes()[:-3] if data is None else data)
    assert draw(cache, graph) == [[3.0] * 4] * 2


def test_two_networks_of_the_same_name_have_saved_graphs_of_their_own(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    for value in (2, 5):
        graph = write_graph(tmp_path / "network.onnx", adding_graph(value))
        for _ in range(2):
            assert draw(cache, graph) == [[1.0 + value] * 4] * 2


def test_without_a_cache_folder_graphs_open_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file, where a folder should be")
    graph = write_graph(tmp_path / "a.onnx", adding_graph(2))
    warnings: list[str] = []
    network = cpu_runtime(tmp_path / "cache", warn=warnings.append).open(graph)
    out = np.empty((1, 4), np.float32)
    network.run({"X": np.ones((1, 4), np.float32)}, {"Y": out})
    assert out.tolist() == [[3.0] * 4]
    assert any("cannot be saved" in line for line in warnings)


def test_a_file_that_is_not_what_the_manifest_says_is_refused(tmp_path: Path) -> None:
    graph = write_graph(tmp_path / "a.onnx", adding_graph(2))
    write_graph(tmp_path / "a.onnx", adding_graph(3))
    with pytest.raises(NetworkError, match="SHA-256"):
        cpu_runtime(tmp_path / "cache").open(graph)
    (tmp_path / "a.onnx").unlink()
    with pytest.raises(NetworkError, match="cannot be read"):
        cpu_runtime(tmp_path / "cache").open(graph)


def test_what_is_no_graph_is_refused_in_one_line(tmp_path: Path) -> None:
    good = write_graph(tmp_path / "a.onnx", adding_graph(2))
    data = good.path.read_bytes()
    for damage in (b"", b"\x00" * 100, data[: len(data) // 2]):
        graph = write_bytes(tmp_path / "b.onnx", damage)
        with pytest.raises(NetworkError, match="does not open") as error:
            cpu_runtime(tmp_path / "cache").open(graph)
        assert "\n" not in str(error.value)


def write_bytes(path: Path, data: bytes) -> GraphFile:
    import hashlib

    path.write_bytes(data)
    return GraphFile(path, hashlib.sha256(data).hexdigest(), max(1, len(data)), 1000)


def test_a_run_of_the_wrong_shape_is_an_error_and_the_network_goes_on(tmp_path: Path) -> None:
    network = cpu_runtime(tmp_path / "cache").open(write_graph(tmp_path / "a.onnx", adding_graph(2)))
    out = np.empty((1, 4), np.float32)
    with pytest.raises(NetworkError, match="does not run"):
        network.run({"X": np.ones((1, 5), np.float32)}, {"Y": np.empty((1, 5), np.float32)})
    with pytest.raises(NetworkError, match="does not run"):
        network.run({"X": np.ones((1, 4), np.float32)}, {"Y": np.empty((1, 3), np.float32)})
    network.run({"X": np.ones((1, 4), np.float32)}, {"Y": out})
    assert out.tolist() == [[3.0] * 4]


@pytest.mark.parametrize(("row_bytes", "rows"), [(1, 8), (2000, 5), (10_000, 1), (10_001, 1), (3000, 3)])
def test_as_many_rows_at_a_time_as_the_scratch_holds(tmp_path: Path, row_bytes: int, rows: int) -> None:
    graph = write_graph(tmp_path / "a.onnx", adding_graph(2), row_bytes)
    assert cpu_runtime(tmp_path / "cache", scratch_bytes=10_000).open(graph).rows == rows


_OPENS = """
import sys
import threading
from pathlib import Path
import numpy as np
from compositor_backend.graph_file import GraphFile
from compositor_backend.onnx_runtime import Device, Runtime
path, sha256, size, cache = sys.argv[1:]
runtime = Runtime(
    Device("CPU"), threads=1, scratch_bytes=None, cache_folder=Path(cache), load_timeout_s=1.0, warn=print
)
network = runtime.open(GraphFile(Path(path), sha256, int(size), 1000))
network.run({"X": np.zeros((1, 4), np.float32)}, {"Y": np.zeros((1, 4), np.float32)})
"""


def test_a_graph_that_hangs_ends_its_process_and_is_then_refused(tmp_path: Path) -> None:
    graph, cache = write_graph(tmp_path / "a.onnx", endless_graph()), tmp_path / "cache"
    command = [
        sys.executable, "-c", _OPENS, str(graph.path), graph.sha256, str(graph.nbytes), str(cache),
    ]  # fmt: skip
    for _ in range(2):
        ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
        assert ended.returncode == HUNG_STATUS, ended.stderr
        assert "still being opened" in ended.stdout
    with pytest.raises(RefusedNetworkError):
        cpu_runtime(cache).open(graph)


def test_a_network_that_is_not_run_at_once_has_all_the_time(tmp_path: Path) -> None:
    graph = write_graph(tmp_path / "a.onnx", adding_graph(2))
    network = cpu_runtime(tmp_path / "cache").open(graph)
    limits = [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]
    assert all(limit.finished.is_set() for limit in limits)
    network.settle()
