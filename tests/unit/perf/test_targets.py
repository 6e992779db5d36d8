from __future__ import annotations

import pytest

from perf.results import Report
from perf.targets import TARGETS, Result, judge
from tests.unit.perf.sample import MACHINE, figures

GPU = {**MACHINE, "GPU": "Some GPU"}


def result(report: Report, name: str) -> Result:
    return next(found for found in judge(report) if found.target.figure == name)


@pytest.mark.parametrize(
    ("name", "value", "met"),
    [
        ("compose.1280x720.ratio", 8.0, True),
        ("compose.1280x720.ratio", 7.99, False),
        ("compose.identical", 1.0, True),
        ("compose.identical", 0.999, False),
        ("serving.lipstream.cpu_ms", 0.5, True),
        ("serving.lipstream.cpu_ms", 0.51, False),
        ("memory.compositor_instance_mb", 40.0, False),
        ("memory.compositor_instance_mb", 39.9, True),
        ("memory.compositor_instance_mb", -3.0, True),
        ("streams.lost_or_disordered", 0, True),
        ("streams.lost_or_disordered", 1, False),
        ("gpu.fps", 1999, False),
    ],
)
def test_a_measured_value_meets_its_target_or_fails_the_run(name: str, value: float, met: bool) -> None:
    found = result(figures(**{name.replace(".", "__"): value}), name)
    assert found.verdict == ("met" if met else "missed")
    assert found.fails is not met


def test_what_a_quick_run_does_not_measure_fails_nothing() -> None:
    found = list(judge(figures(idle__fps=2000)))
    assert len(found) == len(TARGETS)
    assert not any(one.fails for one in found)
    assert {one.verdict for one in found} == {"met", "not in a quick run", "not run on a GPU"}


def test_a_full_run_fails_by_what_it_did_not_measure_but_for_a_gpu_s() -> None:
    found = list(judge(figures("full", idle__fps=2000)))
    assert {one.target.figure for one in found if not one.fails} == {"idle.fps", "gpu.fps"}
    assert result(figures("full"), "gpu.fps").verdict == "not run on a GPU"


def test_on_a_gpu_its_figure_is_wanted_too() -> None:
    assert result(figures("full", GPU), "gpu.fps").fails
    assert result(figures("full", {}), "gpu.fps").verdict == "not run on a GPU"
    assert not result(figures("full", GPU, gpu__fps=2500), "gpu.fps").fails


def test_every_claim_has_a_line_with_target_value_and_verdict() -> None:
    assert {target.show for target in TARGETS} == set(range(1, 11))
    line = result(figures(idle__fps=2000.0), "idle.fps").line
    assert line.split("  ")[0] == "6"
    for words in ("idle frames", "≥ 1,500 frames/s", "2,000", "met"):
        assert words in line
    missing = result(figures(), "serving.lipstream.cpu_ms").line
    assert "≤ 0.5 ms/frame" in missing
    assert "–" in missing
    assert missing.endswith("not in a quick run")
