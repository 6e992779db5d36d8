from __future__ import annotations

import pytest

from perf.bench import Bench
from perf.cases.serving_cost import measure
from perf.results import Section

pytestmark = pytest.mark.functional


@pytest.fixture(scope="module")
def section(bench: Bench) -> Section:
    return measure(bench)


def test_a_quick_run_says_what_serving_costs_in_both_systems(section: Section) -> None:
    figures = {figure.name: figure for figure in section.figures}
    assert len(figures) == len(section.figures)
    for name in ("lipstream", "separated"):
        for what in ("cpu_ms", "wall_ms", "network_ms", "bytes"):
            assert f"serving.{name}.{what}" in figures
    assert {"serving.pcm.mel_ms", "serving.pcm.encoder_ms"} <= figures.keys()
    # Six and three planes of floats, and audio; the JPEG and audio.
    assert figures["serving.separated.bytes"].value == 4 * (9 * 320 * 320 + 32 * 16 * 16)
    assert 4 * 32 * 16 * 16 < figures["serving.lipstream.bytes"].value < 200_000
    assert figures["serving.cpu_ratio"].unit == "x"


def test_the_parts_of_the_plot_make_up_the_whole(section: Section) -> None:
    plots = {plot.name: plot for plot in section.plots}
    split = plots["serving_split"]
    assert split.kind == "stacked"
    parts = {series.label: dict(series.points) for series in split.series}
    assert {"client", "tritonserver", "network", "compositor", "audio_windows"} <= parts.keys()
    assert parts["compositor"]["separated"] == 0
    steps = {series.label: dict(series.points) for series in plots["serving_steps"].series}
    assert steps.keys() == {"queue", "input", "infer", "output"}
    assert steps["infer"].keys() == {"audio_windows", "network", "compositor"}
