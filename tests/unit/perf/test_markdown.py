from __future__ import annotations

import pytest

from perf.markdown import measured, number, quantity, quartiles, table
from perf.results import Figure
from tests.unit.perf.sample import table_rows


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (5.0, "5"),
        (0.01234, "0.0123"),
        (0.00001234, "1.2e-05"),
        (4.5678, "4.57"),
        (78.94, "78.9"),
        (123.4, "123"),
        (12345.6, "12,346"),
        (-4.5678, "-4.57"),
    ],
)
def test_a_number_has_three_significant_digits(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (8.21, "x", "8.21×"),
        (1.25, "ms/frame", "1.25 ms/frame"),
        (3_690_000, "bytes/frame", "3.69 MB/frame"),
        (999, "bytes", "999 B"),
        (1500, "B", "1.50 kB"),
        (7.25e12, "B", "7,250 GB"),
        (0.5, "", "0.5"),
    ],
)
def test_a_quantity_has_its_unit(value: float, unit: str, text: str) -> None:
    assert quantity(value, unit) == text


def test_what_was_not_measured_is_a_dash() -> None:
    assert measured(None) == "–"
    assert quartiles(Figure("a", "a", 1.5, "ms")) == "–"
    assert quartiles(Figure("a", "a", 1.5, "ms", "less", 1.25, 1.75)) == "1.25 to 1.75 ms"
    assert quartiles(Figure("a", "a", 1.5, "x", "less", 1.25, 1.75)) == "1.25 to 1.75×"
    assert quartiles(Figure("a", "a", 1000, "B", "less", 900, 1100)) == "900 B to 1.10 kB"


def test_a_table_keeps_bars_and_line_breaks_within_cells() -> None:
    text = table(("one", "two"), [("a|b", "c\nd")], right=(1,))
    assert text.splitlines()[1] == "| --- | ---: |"
    assert table_rows(text) == [["one", "two"], ["a|b", "c d"]]
