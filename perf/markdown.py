"""Numbers and tables as people read them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from perf.results import Figure

NOT_MEASURED = "–"
_BYTES = ("B", "bytes")
_PREFIXES = ("", "k", "M", "G")


def number(value: float) -> str:
    """Three significant digits, more only where the whole part has more: 0.0123, 4.56, 78.9, 12,345, and 5 for 5.0."""
    if value == round(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    whole_digits = 2 if abs(value) >= 10 else 1
    if abs(value) >= 1:
        return f"{value:.{3 - whole_digits}f}"
    # The general form alone would go over to powers of ten below 0.0001.
    return f"{value:.3g}" if abs(value) >= 1e-4 else f"{value:.1e}"


def quantity(value: float, unit: str) -> str:
    """A number with its unit: "8.20×", "12.0 %", "3.69 MB"; a unit such as "bytes/frame" gets a decimal prefix."""
    return "".join(_number_and_unit(value, unit))


def measured(figure: Figure | None) -> str:
    """A figure's median with its unit; a dash where there is none."""
    return NOT_MEASURED if figure is None else quantity(figure.value, figure.unit)


def quartiles(figure: Figure) -> str:
    """The quartiles as "low to high" with the unit, once where both have the same; a dash if the figure has none."""
    if figure.low is None or figure.high is None:
        return NOT_MEASURED
    low, low_unit = _number_and_unit(figure.low, figure.unit)
    high, high_unit = _number_and_unit(figure.high, figure.unit)
    return f"{low}{'' if low_unit == high_unit else low_unit} to {high}{high_unit}"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[int] = ()) -> str:
    """A table in Markdown; the columns in `right`, counted from 0, are aligned right."""
    rule = ["---:" if column in right else "---" for column in range(len(headings))]
    return "\n".join(_line(cells) for cells in (headings, rule, *rows))


def _number_and_unit(value: float, unit: str) -> tuple[str, str]:
    """The unit with the space before it, if it has one."""
    if unit in ("x", "×"):
        return number(value), "×"
    base, _, per = unit.partition("/")
    if base in _BYTES:
        value, base = _prefixed(value)
        unit = f"{base}/{per}" if per else base
    return number(value), f" {unit}" if unit else ""


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"


def _prefixed(value: float) -> tuple[float, str]:
    power = 0
    while abs(value) >= 1000 and power < len(_PREFIXES) - 1:
        value, power = value / 1000, power + 1
    return value, f"{_PREFIXES[power]}B"
