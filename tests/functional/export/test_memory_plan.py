"""The plan of a machine's memory beside what sessions take of it, opened and run as `lipsync` does."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from export.graph_memory import read_memory
from export.memory_plan import GIB, cpu_plan_of, gpu_plan_of
from export.networks.unet import LipSyncUNet
from export.onnx_export import write_unet

pytestmark = [pytest.mark.functional, pytest.mark.slow]

AUDIO = {"328": "ave", "160": "hubert"}
FULL, HALF = (32, 64, 128, 256, 512), (16, 32, 64, 128, 256)
TOLERANCE = 0.15

MEASURE = """\
import ctypes, gc, hashlib, json, sys
from pathlib import Path
import numpy as np
from compositor_backend.graph_file import GraphFile
from compositor_backend.onnx_runtime import Device, Runtime

path, cache, rows, row_bytes = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])

def held():
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty"))

data = path.read_bytes()
graph = GraphFile(path, hashlib.sha256(data).hexdigest(), len(data), row_bytes)
del data
runtime = Runtime(
    Device("CPU"), threads=2, scratch_bytes=rows * row_bytes, cache_folder=cache, load_timeout_s=600, warn=print
)
side, audio = (320, (32, 16, 16)) if "328" in path.name else (160, (16, 32, 32))
inputs = {"FACE": np.ones((rows, 3, side, side), np.uint8), "AUDIO": np.ones((rows, *audio), np.float32)}
outputs = {"MOUTH": np.ones((rows, side, side, 3), np.uint8), "AVATAR_KEY": np.ones((rows, 1), np.int64)}
before = held()
network = runtime.open(graph)
network.run(inputs, outputs)
network.run(inputs, outputs)
print(json.dumps([network.rows, held() - before]))
"""


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Networks of both families in full and half width; their weights do not matter to their memory."""
    folder, found = tmp_path_factory.mktemp("graphs"), {}
    for family, audio in AUDIO.items():
        for name, widths in (("full", FULL), ("half", HALF)):
            torch.manual_seed(0)
            path = folder / f"{family}-{name}.onnx"
            write_unet(LipSyncUNet(family, audio, widths).eval(), "0" * 64, path)
            found[path.stem] = path
    return found


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("name", ["328-full", "328-half", "160-full", "160-half"])
def test_a_session_takes_what_the_plan_says(
    name: str, rows: int, graphs: Mapping[str, Path], tmp_path: Path
) -> None:
    graph = graphs[name]
    row_bytes = read_memory(graph).row_bytes
    plan = cpu_plan_of(graph, graph.stat().st_size, 64 * GIB, scratch_bytes=rows * row_bytes)
    command = [sys.executable, "-c", MEASURE, str(graph), str(tmp_path), str(rows), str(row_bytes)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    found_rows, measured = json.loads(done.stdout)
    assert found_rows == plan.rows == rows
    assert plan.network_bytes + plan.arena_bytes == pytest.approx(measured, rel=TOLERANCE)


@pytest.mark.parametrize("family", AUDIO)
def test_sixty_four_avatars_of_full_width_stay_in_each_of_eight_instances_in_24_gb(
    family: str, graphs: Mapping[str, Path]
) -> None:
    graph = graphs[f"{family}-full"]
    plan = gpu_plan_of(read_memory(graph).halved(), graph.stat().st_size // 2, 24 * GIB)
    assert plan.instances == 8
    assert plan.resident >= 64
    assert plan.total_bytes <= plan.usable_bytes
