from __future__ import annotations

import pytest

from perf.bench import Bench
from perf.cases.first_frame import measure
from perf.results import Section

pytestmark = pytest.mark.functional


@pytest.fixture(scope="module")
def section(bench: Bench) -> Section:
    return measure(bench)


def test_it_says_how_long_a_first_frame_takes_with_and_without_the_encoder(section: Section) -> None:
    figures = {figure.name: figure for figure in section.figures}
    wanted = ("total_s", "load_s", "request_s", "again_s", "with_encoder_s", "with_encoder_load_s")
    assert {f"first_frame.{name}" for name in wanted} <= figures.keys()
    assert all(figure.value > 0 and figure.unit == "s" for figure in section.figures)
    total = figures["first_frame.total_s"]
    assert total.value > figures["first_frame.load_s"].value
    assert total.value > figures["first_frame.request_s"].value
    assert total.low is not None
    assert total.high is not None
    assert total.low <= total.value <= total.high


def test_a_cold_figure_stands_only_beside_the_word_that_the_cache_was_cold(section: Section) -> None:
    measured = any(figure.name == "first_frame.cold_cache_s" for figure in section.figures)
    assert measured == ("took effect" in section.text)
    assert measured != ("could not be emptied" in section.text)


def test_the_causes_make_up_the_whole(section: Section) -> None:
    (plot,) = section.plots
    assert (plot.name, plot.kind) == ("first_frame", "stacked")
    figures = {figure.name: figure for figure in section.figures}
    for scenario, name in (("first avatar", "total_s"), ("encoder loaded", "with_encoder_s")):
        parts = {series.label: dict(series.points)[scenario] for series in plot.series}
        assert all(seconds >= 0 for seconds in parts.values())
        assert {"load: warm-up", "request: network", "request: compositor"} <= parts.keys()
        # The bar is one of the measurements, at or below the median of an even number of them.
        low = figures[f"first_frame.{name}"].low
        assert low is not None
        assert 0 < sum(parts.values()) <= figures[f"first_frame.{name}"].value * 1.02
        assert sum(parts.values()) > parts["load: start"] > parts["load: warm-up"] / 100
