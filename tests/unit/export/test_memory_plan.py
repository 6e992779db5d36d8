from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from compositor_backend.onnx_runtime import DEFAULT_SCRATCH_BYTES, arena_region_bytes, rows_of
from export.avatar import build_avatar
from export.errors import ExportError
from export.frames import open_frames
from export.graph_memory import read_memory
from export.memory_plan import GIB, MIB, cpu_plan, gpu_plan, gpu_plan_of, served_policy
from tests.support.avatar_sources import BOXES, Sources
from tests.support.convolutions import convolving_graph


@pytest.fixture(scope="module")
def avatar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sources = Sources.write(tmp_path_factory.mktemp("plan"))
    return build_avatar(sources.settings("ann"), open_frames(sources.frames), BOXES)


def test_what_is_planned_fits_and_one_network_more_does_not(avatar: Path) -> None:
    for plan in (gpu_plan(avatar, 24 * GIB), cpu_plan(avatar, 4 * GIB, 2)):
        assert plan.total_bytes <= plan.usable_bytes < plan.memory_bytes
        assert replace(plan, resident=plan.resident + 1).total_bytes > plan.usable_bytes
        assert plan.total_bytes == plan.instances * plan.instance_bytes + plan.encoder_bytes
        assert plan.network_cache_mib * MIB >= plan.resident * plan.file_bytes


def test_a_context_that_takes_more_leaves_less_room(avatar: Path) -> None:
    few, many = (gpu_plan(avatar, 24 * GIB, context_bytes=size) for size in (900_000_000, 450_000_000))
    assert few.resident < many.resident


def test_a_machine_too_small_is_refused_with_what_it_would_take(avatar: Path) -> None:
    with pytest.raises(ExportError, match=r"8 instances take .* there are 1\.8 GiB"):
        gpu_plan(avatar, 2 * GIB)
    with pytest.raises(ExportError, match="instances: expected 1 or more"):
        gpu_plan(avatar, 24 * GIB, 0)


@pytest.mark.parametrize(
    ("row_bytes", "scratch_bytes", "rows"),
    [(10, 100, 10), (10, 99, 5), (10, 5, 1), (1, 1 << 40, 25)],
)
def test_a_run_has_as_many_rows_as_fit(row_bytes: int, scratch_bytes: int, rows: int) -> None:
    assert rows_of("GPU", row_bytes, scratch_bytes) == rows


def test_half_precision_takes_half_of_the_weights_and_activations(tmp_path: Path) -> None:
    path = tmp_path / "network.onnx"
    onnx.save(convolving_graph(), str(path))
    whole = read_memory(path)
    plan = gpu_plan_of(whole.halved(), path.stat().st_size, 24 * GIB)
    assert plan.weight_bytes == 2 * whole.weights
    assert plan.row_bytes < whole.row_bytes


def test_a_piece_fits_the_arenas_first_region() -> None:
    """Else a second one, twice as large, would stay half empty."""
    scratch_bytes = DEFAULT_SCRATCH_BYTES["GPU"]
    policy = served_policy(scratch_bytes)
    assert policy.region_bytes == arena_region_bytes(scratch_bytes) > scratch_bytes
    assert not policy.reuse_shapes
