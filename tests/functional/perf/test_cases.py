"""Quick runs of cases, on an avatar cut short."""

from __future__ import annotations

import pytest

from perf.bench import Bench
from perf.cases import frame_sizes, gpu, idle, stages, streams
from perf.results import Section
from perf.subjects import SIZES

pytestmark = pytest.mark.functional


def values(section: Section) -> dict[str, float]:
    found = {figure.name: figure.value for figure in section.figures}
    assert len(found) == len(section.figures)
    for figure in section.figures:
        assert figure.value >= 0, figure
    return found


def test_frame_sizes(bench: Bench) -> None:
    found = values(frame_sizes.measure(bench))
    assert found["compose.identical"] == 1
    for size in SIZES:
        assert found[f"compose.{size}.floor_ms"] < found[f"compose.{size}.whole_frame_ms"]
        assert found[f"compose.{size}.ratio"] > 1


def test_stages(bench: Bench) -> None:
    section = stages.measure(bench)
    found = values(section)
    assert {name.split(".")[1] for name in found} >= {*stages.CHAIN, "mel", "features", "harness"}
    assert found["stage.encode.stacked"] < found["stage.encode.whole"]
    waterfall = next(plot for plot in section.plots if plot.name == "waterfall")
    assert [series.label for series in waterfall.series] == list(stages.CHAIN)


def test_idle(bench: Bench) -> None:
    found = values(idle.measure(bench))
    assert found["idle.fps"] > 0
    assert 0 < found["idle.20_streams_cores"] < 20


@pytest.mark.slow
def test_streams(bench: Bench) -> None:
    section = streams.measure(bench)
    found = values(section)
    assert found["streams.lost_or_disordered"] == 0
    assert found["streams.demo.first_frame_ms"] > 0
    assert found["streams.p99_to_p50"] >= 1
    assert {plot.name for plot in section.plots} == {"throughput", "ages"}


@pytest.mark.slow
def test_the_gpu_case_runs_without_one(bench: Bench) -> None:
    """All of it but the device."""
    found = values(gpu.measure(bench))
    assert found["gpu.fps"] > 0
    assert found["gpu.network_fps"] > found["gpu.fps"] / 2
    assert 0 < found["gpu.roofline_share"] < 1
