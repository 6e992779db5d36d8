"""Draws a report's plots as PNG by Vega-Lite's own renderer; nothing is fetched."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import vl_convert

from perf.markdown import number
from perf.results import Plot, ReportError

Spec = dict[str, Any]
"""A Vega-Lite specification or a part of one."""

SCALE = 2.0
"""Pixels of the picture for each of the specification's: sharp where screens have two for one."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,99}")
_SCHEMA = "https://vega.github.io/schema/vega-lite/v5.json"  # a name only: the renderer carries it
_WIDTH_PX, _HEIGHT_PX, _BAR_PX = 620, 320, 30
_INK, _PALE, _GRID, _RULE = "#24292F", "#57606A", "#E6E8EB", "#B0B6BD"
# Okabe and Ito's colours, told apart by people who are colour-blind as well, and the ink to be read on each.
_INK_ON = {
    "#0072B2": "white",
    "#E69F00": _INK,
    "#009E73": "white",
    "#D55E00": "white",
    "#56B4E9": _INK,
    "#CC79A7": _INK,
    "#6E7781": "white",
    "#F0E442": _INK,
}
_FONT = "Liberation Sans"
"""The renderer carries it, so that pictures look alike on every machine, one without any fonts included."""
_DECADES = 2
"""A line whose values span more than these gets a logarithmic axis."""
_NUMBER_PX = 12
_DIGIT_PX = 8.0
"""The width of a bold digit of that height, and a little of the space before and after the number."""

_TICK_SHARE = 0.05
"""Values along a line nearer to each other than this share of the axis cannot each have a tick with a number."""
# The title of lying bars' names, level and above them: beside them it would stand on end.
_ABOVE = {"titleAngle": 0, "titleAlign": "right", "titleX": -8, "titleY": -4, "titleBaseline": "bottom"}


def render(plot: Plot) -> bytes:
    """The plot as PNG."""
    png: bytes = vl_convert.vegalite_to_png(specification(plot), scale=SCALE, allowed_base_urls=[])
    return png


def write(plots: Iterable[Plot], folder: Path) -> list[Path]:
    """Draw each into ``<name>.png``; `ReportError` for a name that is no file name or comes twice."""
    written: list[Path] = []
    for plot in plots:
        path = folder / file_name(plot)
        if path in written:
            raise ReportError(f"two plots are called {plot.name}; a plot's name is to be its own")
        try:
            path.write_bytes(render(plot))
        except OSError as error:
            raise ReportError(f"{path} cannot be written: {error.strerror}") from error
        written.append(path)
    return written


def file_name(plot: Plot) -> str:
    """The name of the plot's picture; `ReportError` if the plot's name is not fit for one."""
    if not _NAME.fullmatch(plot.name):
        raise ReportError(
            f"a plot is called {plot.name!r}; lower-case letters, digits, '-', '_' and '.' are wanted"
        )
    return f"{plot.name}.png"


def specification(plot: Plot) -> Spec:
    """The plot in Vega-Lite; `ReportError` if it has no point."""
    if not any(series.points for series in plot.series):
        raise ReportError(f"the plot {plot.name} has no point to draw")
    draw = {"line": _lines, "bars": _bars, "stacked": _stacked}[plot.kind]
    return {
        "$schema": _SCHEMA,
        "title": plot.title,
        "data": {"values": _values(plot)},
        "width": _WIDTH_PX,
        **draw(plot),
        "config": _config(),
    }


def _values(plot: Plot) -> list[dict[str, Any]]:
    """A row for each point; `order` is the series' place, by which the parts of a bar follow one another."""
    rows = []
    for order, series in enumerate(plot.series):
        ink = _INK_ON[_colours(plot)[series.label]]
        for x, y in series.points:
            name = x if isinstance(x, str) else number(x)
            row = {"series": series.label, "order": order, "ink": ink}
            rows.append({**row, "x": x, "name": name, "y": y, "label": number(y)})
    return rows


def _lines(plot: Plot) -> Spec:
    xs, ys = ([point[axis] for series in plot.series for point in series.points] for axis in (0, 1))
    if any(isinstance(x, str) for x in xs):
        x: Spec = {"field": "name", "type": "ordinal", "sort": _names(plot), "axis": {"labelAngle": 0}}
    else:
        x = {
            "field": "x",
            "type": "quantitative",
            "scale": {**_scale(xs), "nice": False},
            "axis": _axis_at(xs),
        }
    # The same domain as the colours', for the two legends to be drawn as one.
    shape = _legend(plot, {"field": "series", "scale": {"domain": _labels(plot)}})
    return {
        "height": _HEIGHT_PX,
        "encoding": {
            "x": {**x, "title": plot.x_label},
            "y": {
                "field": "y",
                "type": "quantitative",
                "title": plot.y_label,
                "scale": _scale(ys),
                "axis": _axis(ys),
            },
            "color": _colour(plot),
        },
        "layer": [
            {"mark": {"type": "line", "strokeWidth": 2.5}},
            {
                "mark": {"type": "point", "filled": True, "size": 75, "opacity": 1},
                "encoding": {"shape": shape} if _many(plot) else {},
            },
        ],
    }


def _bars(plot: Plot) -> Spec:
    """Lying bars, so that names of any length stand level; with several series, one below the other."""
    offset = {"yOffset": {"field": "series", "sort": _labels(plot)}} if _many(plot) else {}
    return {
        "height": {"step": _BAR_PX if not _many(plot) else _BAR_PX * 0.8},
        "encoding": {**_lying(plot), **offset},
        "layer": [
            {"mark": {"type": "bar", "cornerRadiusEnd": 2}, "encoding": {"color": _colour(plot)}},
            _text("label", "y"),
        ],
    }


def _stacked(plot: Plot) -> Spec:
    """One lying bar per name with a part per series, each part's number within it and the sum at its end."""
    inside = {
        "data": {"values": _inside(plot)},
        "mark": {"type": "text", "fontWeight": "bold", "fontSize": _NUMBER_PX},
        "encoding": {
            "x": {"field": "middle", "type": "quantitative"},
            "text": {"field": "label"},
            "color": {"field": "ink", "type": "nominal", "scale": None, "legend": None},
        },
    }
    sums = [{"name": name, "y": total, "label": number(total)} for name, total in _totals(plot).items()]
    return {
        "height": {"step": _BAR_PX * 1.5},
        "encoding": _lying(plot),
        "layer": [
            {
                "mark": {"type": "bar", "stroke": "white", "strokeWidth": 1},
                "encoding": {"color": _colour(plot), "order": {"field": "order"}},
            },
            inside,
            {"data": {"values": sums}, **_text("label", "y")},
        ],
    }


def _inside(plot: Plot) -> list[dict[str, Any]]:
    """The numbers within a stacked bar's parts and where they stand; of a part that is too narrow, none."""
    rows: list[dict[str, Any]] = []
    # The axis ends at a round number beyond the longest bar, so that a part may be a little narrower than this.
    px = 0.9 * _WIDTH_PX / (max(_totals(plot).values()) or 1.0)
    for name in _names(plot):
        begin = 0.0
        for row in (row for row in _values(plot) if row["name"] == name):
            if row["y"] * px > len(row["label"]) * _DIGIT_PX:
                rows.append({**row, "middle": begin + row["y"] / 2})
            begin += row["y"]
    return rows


def _totals(plot: Plot) -> dict[str, float]:
    """The length of each stacked bar."""
    return {name: sum(row["y"] for row in _values(plot) if row["name"] == name) for name in _names(plot)}


def _lying(plot: Plot) -> Spec:
    return {
        "y": {
            "field": "name",
            "type": "ordinal",
            "sort": _names(plot),
            "title": plot.x_label,
            "scale": {"paddingInner": 0.3, "paddingOuter": 0.2},
            "axis": {"ticks": False, "labelPadding": 8, **_ABOVE},
        },
        "x": {"field": "y", "type": "quantitative", "title": plot.y_label, "axis": {"tickCount": 6}},
    }


def _text(field: str, at: str) -> Spec:
    """Numbers at the ends of bars."""
    mark = {"type": "text", "align": "left", "dx": 5, "color": _INK, "fontSize": _NUMBER_PX}
    place = {"field": at, "type": "quantitative", "stack": None}
    return {"mark": mark, "encoding": {"x": place, "text": {"field": field}}}


def _colour(plot: Plot) -> Spec:
    if not _many(plot):
        return {"value": next(iter(_INK_ON))}
    colours = _colours(plot)
    return _legend(plot, {"field": "series", "scale": {"domain": [*colours], "range": [*colours.values()]}})


def _colours(plot: Plot) -> dict[str, str]:
    """A colour for each series, in their order. Lipstream has the first in every picture, wherever it stands."""
    first = sorted(_labels(plot), key=lambda label: not label.startswith("Lipstream"))
    colours = {label: list(_INK_ON)[place % len(_INK_ON)] for place, label in enumerate(first)}
    return {label: colours[label] for label in _labels(plot)}


def _legend(plot: Plot, channel: Spec) -> Spec:
    return {
        **channel,
        "type": "nominal",
        "legend": {"title": None, "orient": "top", "columns": _columns(plot)},
    }


def _legend_style(plot: Plot) -> Spec:
    style: Spec = {"title": None, "orient": "top", "columns": _columns(plot)}
    return style if plot.kind == "line" else {**style, "symbolType": "square"}


def _columns(plot: Plot) -> int:
    """So many entries of the legend beside each other as the picture's width holds."""
    longest = max(len(label) for label in _labels(plot))
    return max(1, min(len(plot.series), _WIDTH_PX // (longest * 7 + 40)))


def _scale(values: Sequence[float | str]) -> Spec:
    return {"type": "log"} if _spans_decades(values) else {"zero": True}


def _axis(values: Sequence[float | str]) -> Spec:
    """On a logarithmic axis only 1, 2 and 5 of each decade are named: more names would overlap."""
    if not _spans_decades(values):
        return {"tickCount": 6} | ({"format": ".2~s"} if max(map(float, values)) >= 1e5 else {})
    numbers = [float(value) for value in values]
    first, last = math.floor(math.log10(min(numbers))), math.ceil(math.log10(max(numbers)))
    steps = (1,) if last - first > 4 else (1, 2, 5)
    return {"values": [step * 10.0**decade for decade in range(first, last + 1) for step in steps]}


def _axis_at(values: Sequence[float | str]) -> Spec:
    """Ticks at the very values where they are few and stand far enough apart for their numbers."""
    places = sorted({float(value) for value in values})
    gaps = [(after - before) / (places[-1] - places[0]) for before, after in pairwise(places)]
    if _spans_decades(values) or not gaps or min(gaps) < _TICK_SHARE:
        return _axis(values)
    return {**_axis(values), "values": places}


def _spans_decades(values: Sequence[float | str]) -> bool:
    numbers = [value for value in values if not isinstance(value, str)]
    return min(numbers) > 0 and max(numbers) / min(numbers) > 10**_DECADES


def _many(plot: Plot) -> bool:
    return len(plot.series) > 1


def _labels(plot: Plot) -> list[str]:
    return [series.label for series in plot.series]


def _names(plot: Plot) -> list[str]:
    """Every x as a name, in the order given."""
    return list(dict.fromkeys(row["name"] for row in _values(plot)))


def _config() -> Mapping[str, Any]:
    return {
        "background": "white",
        "font": _FONT,
        "padding": 16,
        "view": {"stroke": None},
        "title": {"fontSize": 17, "fontWeight": 600, "anchor": "start", "color": _INK, "offset": 14},
        "axis": {
            "labelFontSize": 12.5,
            "titleFontSize": 13,
            "titleFontWeight": 500,
            "titlePadding": 10,
            "labelColor": _INK,
            "titleColor": _PALE,
            "gridColor": _GRID,
            "domainColor": _RULE,
            "tickColor": _RULE,
            "labelLimit": 320,
            "labelFlush": False,
        },
        "axisY": {"titleAnchor": "middle"},
        "legend": {"labelFontSize": 12.5, "labelColor": _INK, "labelLimit": 300, "symbolSize": 90},
    }
