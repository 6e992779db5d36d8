from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perf import plots
from perf.results import Plot, ReportError, Series
from tests.unit.perf.sample import BARS, LINES, STACKED


def pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def count(picture: np.ndarray, colour: str) -> int:
    """How many pixels have that colour, written as #rrggbb."""
    wanted = np.frombuffer(bytes.fromhex(colour[1:]), np.uint8)
    return int((picture == wanted).all(axis=2).sum())


BLUE, ORANGE = "#0072B2", "#E69F00"


@pytest.mark.parametrize("plot", [BARS, LINES, STACKED], ids=lambda plot: plot.kind)
def test_a_plot_is_a_picture_of_a_readable_size_on_white(plot: Plot) -> None:
    picture = pixels(plots.render(plot))
    height, width, _ = picture.shape
    assert width > 1200
    assert height > 200
    assert picture[0, 0].tolist() == picture[-1, -1].tolist() == [255, 255, 255]
    assert count(picture, "#FFFFFF") > height * width / 2
    assert count(picture, BLUE) > 500


def test_bars_are_as_long_as_their_values() -> None:
    one = Plot("a", "A", "x", "y", "bars", (Series("", (("p", 10.0), ("q", 5.0))),))
    blue = (pixels(plots.render(one)) == np.frombuffer(bytes.fromhex(BLUE[1:]), np.uint8)).all(axis=2)
    lengths = [int(n) for n in blue.sum(axis=1) if n > 50]
    assert max(lengths) == pytest.approx(2 * min(lengths[4:-4]), rel=0.02)


def test_parts_of_a_stacked_bar_are_in_proportion() -> None:
    picture = pixels(plots.render(STACKED))
    legend = pixels(plots.render(LINES))
    assert count(legend, BLUE) > 0
    # 0.2 + 3 of the first series, 0.8 + 9 of the second; the numbers within hide a little of each.
    assert count(picture, ORANGE) / count(picture, BLUE) == pytest.approx(9.8 / 3.2, rel=0.1)


def test_numbers_stand_in_the_middle_of_their_parts_and_only_where_they_fit() -> None:
    parts = tuple(Series(name, (("n", y),)) for name, y in (("a", 0.123), ("b", 4.0), ("c", 0.0), ("d", 6.0)))
    layers = plots.specification(Plot("a", "A", "x", "y", "stacked", parts))["layer"]
    inside, sums = (layer["data"]["values"] for layer in layers[1:])
    places = {row["label"]: row["middle"] for row in inside}
    assert places == {"4": pytest.approx(2.123), "6": pytest.approx(7.123)}
    assert [row["label"] for row in sums] == ["10.1"]


def test_lipstream_has_the_same_colour_wherever_it_stands() -> None:
    other = Plot(
        "a", "A", "x", "y", "bars", (Series("other", (("p", 1.0),)), Series("Lipstream", (("p", 9.0),)))
    )
    picture = pixels(plots.render(other))
    assert count(picture, BLUE) > 5 * count(picture, ORANGE) > 0


def legend_entries(plot: Plot) -> int:
    return str(plots.specification(plot)).count("'legend':")


def test_only_several_series_have_a_legend() -> None:
    assert legend_entries(BARS) == 1  # its style among the settings
    assert legend_entries(LINES) > 1


def scale(*ys: float) -> object:
    line = Plot("a", "A", "x", "y", "line", (Series("", tuple(enumerate(ys, 1))),))
    return plots.specification(line)["encoding"]["y"]["scale"].get("type")


def test_lines_over_more_than_two_decades_have_a_logarithmic_axis() -> None:
    assert scale(0.1, 11) == "log"
    assert scale(0.1, 9) is None
    assert scale(0, 1000) is None


def test_extreme_plots_are_drawn_too() -> None:
    one = Plot("a", "A", "x", "y", "line", (Series("one", ((1, 2.0),)),))
    many = Plot("b", "B", "x", "y", "stacked", tuple(Series(f"part {n}", (("all", 1.0),)) for n in range(20)))
    zero = Plot("c", "C", "x", "y", "stacked", (Series("a", (("n", 0.0),)), Series("b", ())))
    wide = Plot("d", "D", "x", "y", "line", (Series("a", ((1, 1e-3), (1e6, 1e6))),))
    named = Plot("e", "E", "x", "y", "line", (Series("a", (("1280×720", 1.0), ("4K", 2.0))),))
    for plot in (one, many, zero, wide, named):
        assert pixels(plots.render(plot)).shape[1] > 1000


def test_pictures_are_written_under_the_plots_names(tmp_path: Path) -> None:
    assert plots.write([BARS, LINES], tmp_path) == [tmp_path / "stages.png", tmp_path / "streams.png"]
    assert {file.name for file in tmp_path.iterdir()} == {"stages.png", "streams.png"}


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "Large", "a b"])
def test_a_name_that_is_no_file_name_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="a plot is called"):
        plots.write([Plot(name, "A", "x", "y", "bars", BARS.series)], tmp_path)


def test_two_plots_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="two plots are called stages"):
        plots.write([BARS, BARS], tmp_path)


def test_a_plot_without_points_is_refused() -> None:
    with pytest.raises(ReportError, match="no point"):
        plots.render(Plot("a", "A", "x", "y", "line", (Series("a", ()),)))
