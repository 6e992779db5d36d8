import argparse
import json

import pytest

from export.demo import cli, evaluate, train
from export.demo.evaluate import Figures

GOOD = Figures(100, 25.0, 0.9, {"natural": 0.9, "robotic": 0.91}, 0.01, 0.03, 0.95, 40, 31.0, 36.0)
BAD = Figures(100, 25.0, 0.7, {"natural": 0.9, "robotic": 0.91}, 0.01, 0.03, 0.95, 40, 31.0, 36.0)


def parse(*arguments):
    parser = argparse.ArgumentParser()
    cli.add_commands(parser.add_subparsers(required=True))
    return parser.parse_args(arguments)


@pytest.fixture
def figures(monkeypatch):
    """Evaluation gives the figures put into this list."""
    given = []
    monkeypatch.setattr(evaluate, "Networks", lambda weights, threads: None)
    monkeypatch.setattr(evaluate, "evaluate", lambda networks, settings, progress: given[0])
    return given


def test_good_figures_are_printed_and_exit_with_0(figures, capsys):
    figures.append(GOOD)
    args = parse("demo-eval")
    assert args.run(args) == 0
    printed = capsys.readouterr().out
    for figure in ("0.900", "1.00%", "95.0%", "31.00 dB"):
        assert figure in printed


def test_a_figure_that_falls_short_is_named_and_exits_with_1(figures, capsys):
    figures.append(BAD)
    args = parse("demo-eval")
    assert args.run(args) == 1
    assert "correlation 0.700 < 0.8" in capsys.readouterr().err


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
