import argparse
import json
from dataclasses import replace

import pytest

from export.demo import cli, evaluate, train
from export.demo.evaluate import Figures

GOOD = Figures(
    frames=100,
    range_px=25.0,
    correlation=0.9,
    correlation_by_voice={"natural": 0.9, "robotic": 0.91},
    silence_mean=0.01,
    silence_p95=0.03,
    closed_rate=0.95,
    closures=40,
    psnr_db=35.0,
    worst_psnr_db=28.0,
    outside=12.0,
    outside_frames=0,
    flicker=0.5,
    opening_speed=0.9,
    closing_speed=0.9,
)
BAD = replace(GOOD, correlation=0.7, correlation_by_voice={"natural": 0.7, "robotic": 0.91})


def parse(*arguments):
    parser = argparse.ArgumentParser()
    cli.add_commands(parser.add_subparsers(required=True))
    return parser.parse_args(arguments)


@pytest.fixture
def figures(monkeypatch):
    """Evaluation gives the figures put into this list."""
    given = []
    monkeypatch.setattr(evaluate, "Networks", lambda weights, threads: None)
    monkeypatch.setattr(evaluate, "evaluate", lambda networks, settings, progress, worst: given[0])
    return given


def test_good_figures_are_printed_and_exit_with_0(figures, capsys):
    figures.append(GOOD)
    args = parse("demo-eval")
    assert args.run(args) == 0
    printed = capsys.readouterr().out
    for figure in ("0.900", "1.00%", "95.0%", "35.00 dB"):
        assert figure in printed


def test_a_figure_that_falls_short_is_named_and_exits_with_1(figures, capsys):
    figures.append(BAD)
    args = parse("demo-eval")
    assert args.run(args) == 1
    assert "correlation of natural 0.700 < 0.88" in capsys.readouterr().err


def test_json_is_json(figures, capsys):
    figures.append(BAD)
    args = parse("demo-eval", "--json")
    args.run(args)
    told = json.loads(capsys.readouterr().out)
    assert told["correlation"] == 0.7
    assert told["shortfalls"]


def test_training_takes_its_settings_from_the_command_line(monkeypatch, tmp_path, capsys):
    asked = []
    monkeypatch.setattr(
        train, "train", lambda settings, progress: asked.append(settings) or {"validation": {}}
    )
    args = parse(
        "demo-train", "--minutes", "5", "--seed", "3", "--work", str(tmp_path), "--out", str(tmp_path)
    )
    assert args.run(args) == 0
    (settings,) = asked
    assert settings.minutes == 5
    assert settings.work == settings.weights == tmp_path
    assert settings.corpus.seed == train.CorpusSettings().seed + 3
    assert settings.unet.seed == train.UNetSettings().seed + 3
