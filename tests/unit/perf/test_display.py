from __future__ import annotations

import io
import re

from rich.console import Console

from perf.display import Display


def shown(*, terminal: bool) -> str:
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=100)
    with Display(console, 2) as display:
        display.begin("stages")
        display.tell("building [null]")
        display.end("stages")
    return text.getvalue()


def test_a_terminal_shows_the_case_its_step_and_how_many_there_are() -> None:
    text = shown(terminal=True)
    assert "stages" in text
    assert "1/2" in text


def test_elsewhere_there_is_one_line_for_each_case() -> None:
    assert re.fullmatch(r"stages measured in \d+\.\d s\n", shown(terminal=False))
