from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf import text_format

from compositor_backend.contract import COMPOSITOR_MODEL
from perf.bench import Bench
from perf.cases.memory import CONFIGS, measure, model_repository
from perf.processes import pss_bytes
from perf.readings import read
from perf.results import Section
from server.settings import ROOT
from tests.support.config_contract import read_config

pytestmark = pytest.mark.functional


@pytest.fixture(scope="module")
def section(bench: Bench) -> Section:
    return measure(bench)


def test_it_says_what_instances_add(section: Section) -> None:
    figures = {figure.name: figure.value for figure in section.figures}
    # Every one of the eight processes has its own Python and its own heap.
    assert figures["memory.compositors_8_mb"] > figures["memory.compositors_2_mb"] + 6 * 10
    assert figures["memory.compositor_instance_mb"] == pytest.approx(
        max(figures["memory.compositor_1_to_2_mb"], figures["memory.compositor_2_to_8_mb"])
    )


def test_the_packs_pages_are_counted_once_however_many_compositors_map_them(section: Section) -> None:
    plot = next(plot for plot in section.plots if plot.name == "memory")
    packs = next(dict(series.points) for series in plot.series if series.label == "avatars' packs")
    assert packs["1"] > 1
    assert packs["8"] == pytest.approx(packs["1"], rel=0.1)


def test_the_parts_of_each_bar_make_up_the_whole(section: Section) -> None:
    figures = {figure.name: figure.value for figure in section.figures}
    plot = next(plot for plot in section.plots if plot.name == "memory")
    assert plot.kind == "stacked"
    for instances in ("1", "2", "8"):
        parts = {series.label: dict(series.points)[instances] for series in plot.series}
        assert sum(parts.values()) == pytest.approx(figures[f"memory.compositors_{instances}_mb"])
        assert {"compositor", "lipsync", "shared memory", "tritonserver"} <= parts.keys()


def test_a_reading_is_the_kernels_own_sum(bench: Bench) -> None:
    with bench.serving(bench.avatars) as server:
        reading = read(server, bench.avatars)
        assert reading.total == pytest.approx(pss_bytes([server.pid]), rel=0.05)


def test_a_repository_differs_only_in_the_number_of_compositors(tmp_path: Path) -> None:
    copy = model_repository(tmp_path / "models", 8)
    for name in CONFIGS:
        config = read_config(copy / COMPOSITOR_MODEL.name / name)
        original = read_config(ROOT / "model_repository" / COMPOSITOR_MODEL.name / name)
        assert [group.count for group in config.instance_group] == [8]
        for found in (config, original):
            for group in found.instance_group:
                group.count = 1
        assert text_format.MessageToString(config) == text_format.MessageToString(original)
    other = "idle_frames/config.pbtxt"
    assert (copy / other).read_text() == (ROOT / "model_repository" / other).read_text()
