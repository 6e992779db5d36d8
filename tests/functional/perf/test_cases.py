"""Quick runs of cases, on an avatar cut short: what is measured, and not how good it is."""

from __future__ import annotations

import pytest

from perf.bench import Bench
from perf.cases import catalogue, first_frame, frame_sizes, gpu, idle, regions, residents, stages, streams
from perf.results import Section
from perf.subjects import SIZES

pytestmark = pytest.mark.functional


def values(section: Section) -> dict[str, float]:
    found = {figure.name: figure.value for figure in section.figures}
    assert len(found) == len(section.figures)
    return found


def test_frame_sizes(bench: Bench) -> None:
    found = values(frame_sizes.measure(bench))
    assert found["compose.identical"] == 1
    for size in SIZES:
        assert {f"compose.{size}.{name}" for name in ("floor_ms", "whole_frame_ms", "ratio")} <= found.keys()


def test_stages(bench: Bench) -> None:
    section = stages.measure(bench)
    assert {name.split(".")[1] for name in values(section)} >= {*stages.CHAIN, "mel", "features", "harness"}
    waterfall = next(plot for plot in section.plots if plot.name == "waterfall")
    assert [series.label for series in waterfall.series] == list(stages.CHAIN)


def test_idle(bench: Bench) -> None:
    found = values(idle.measure(bench))
    assert found["idle.fps"] > 0
    assert "idle.20_streams_cores" in found


def test_regions(bench: Bench) -> None:
    found = values(regions.measure(bench))
    # Sizes do not depend on how busy the machine is.
    assert 0 < found["regions.bytes_share"] <= found["regions.largest_share"] < 0.2
    assert {"regions.jpeg_cpu_ms", "regions.region_cpu_ms", "regions.cpu_ratio"} <= found.keys()


def test_first_frame(bench: Bench) -> None:
    section = first_frame.measure(bench)
    found = values(section)
    for name in ("unsaved", "saved"):
        assert found[f"first_frame.{name}_s"] > 0
        assert f"first_frame.{name}_later_ms" in found
    assert {series.label for series in section.plots[0].series} == {
        "resident",
        "saved graph",
        "no saved graph",
    }


def test_residents(bench: Bench) -> None:
    section = residents.measure(bench)
    found = values(section)
    few, many = residents.QUICK_RESIDENTS
    assert found[f"residents.{many}.memory_mb"] > found[f"residents.{few}.memory_mb"]
    assert {f"residents.{few}.cpu_ms", f"residents.{many}.cpu_ms", "residents.cpu_ratio"} <= found.keys()
    memory = next(plot for plot in section.plots if plot.name == "residents")
    parts = {series.label: dict(series.points) for series in memory.series}
    for count in residents.QUICK_RESIDENTS:
        total_mb = sum(part[str(count)] for part in parts.values())
        assert total_mb == pytest.approx(found[f"residents.{count}.memory_mb"])


def test_catalogue(bench: Bench) -> None:
    found = values(catalogue.measure(bench))
    assert found["catalogue.wrong_frames"] == 0
    assert found["catalogue.lost_frames"] == 0
    assert found["catalogue.lru_hit_rate_pct"] > 20  # there is something to be kept
    # Requests reach the server in another order than they were sent in, which moves a few of them.
    assert abs(found["catalogue.hit_rate_below_pct"]) < 10


@pytest.mark.slow
def test_streams(bench: Bench) -> None:
    section = streams.measure(bench)
    found = values(section)
    assert found["streams.lost_or_disordered"] == 0
    assert {"streams.demo.first_frame_ms", "streams.p99_to_p50"} <= found.keys()
    assert {plot.name for plot in section.plots} == {"throughput", "ages"}


@pytest.mark.slow
def test_the_gpu_case_runs_without_one(bench: Bench) -> None:
    """All of it but the device."""
    found = values(gpu.measure(bench))
    assert found["gpu.fps"] > 0
    assert {"gpu.network_fps", "gpu.roofline_share"} <= found.keys()
