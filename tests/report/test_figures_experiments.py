"""Figures of several networks and of the papers' experiments draw the rows that they are given."""

from __future__ import annotations

import math
from typing import Any

import pytest
from figure_data import COMMIT
from test_figures import assert_nothing_overlaps, bars, lines, segments, texts

from waterline.errors import InvalidArgument
from waterline.report import figures
from waterline.report.figures import BatchRow, EfficiencyRow, GapPoint, RatioRow

pytest.importorskip("matplotlib")

SOURCE = figures.Source("a machine", (1, 2), COMMIT)
POINTS = [
    GapPoint("small", 0.6, 1.5e6, 1.9e6, 2.5e6),
    GapPoint("large", 8.2, 20e6, 20.5e6, 25e6),
    GapPoint("fast", 30.0, 74e6, 82e6, 49e6),
]
ROWS = [
    EfficiencyRow("conv1", "batch 1", 0.7, "alexnet", 0.934),
    EfficiencyRow("conv1", "batch 16", 0.9, "alexnet", 0.934),
    EfficiencyRow("conv2", "batch 1", 0.8, "alexnet"),
    EfficiencyRow("conv2", "batch 16", 1.25, "alexnet"),
    EfficiencyRow("conv1", "batch 16", 0.95, "vgg"),
]
RATIOS = [
    RatioRow("a", 2.0, "larger filters", 1.9, 2.1),
    RatioRow("b", 0.5, "larger filters"),
    RatioRow("c", 1.5, "1x1"),
]
BATCHES = [
    BatchRow("ours", 4, 1.4),
    BatchRow("ours", 1, 1.2),
    BatchRow("paper", 1, 0.9),
    BatchRow("paper", 64, 0.95),
]


def drawn(theme: str = "light") -> list[figures.Drawing]:
    return [
        figures.efficiency_gap(POINTS, SOURCE, theme=theme),
        figures.efficiency_bars(ROWS, SOURCE, name="maxdnn", title="Efficiency", published="maxDNN", theme=theme),
        figures.ratio_rows(RATIOS, SOURCE, name="indirect", title="Ratios", quantity="im2col / indirect", theme=theme),
        figures.by_batch(BATCHES, SOURCE, name="winograd", title="By batch", theme=theme),
    ]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_they_can_be_read(theme: str) -> None:
    for drawing in drawn(theme):
        assert_nothing_overlaps(drawing)
        assert drawing.caption == f"a machine \u00b7 1 and 2 threads \u00b7 commit {COMMIT}"
        assert drawing.caption in texts(drawing)


# ---- efficiency gap -------------------------------------------------------------------------------------------------
def test_the_gap_is_between_ideal_and_measured() -> None:
    drawing = drawn()[0]
    (axes,) = drawing.figure.axes
    assert segments(axes, "gap") == [
        [[pytest.approx(point.ideal_ns / 1e6), point.value], [pytest.approx(point.time_ns / 1e6), point.value]]
        for point in POINTS
    ]
    for label, name in (("ideal", "ideal_ns"), ("waterline", "bound_ns"), ("measured", "time_ns")):
        x, y = lines(axes)[label].get_data()
        assert list(x) == pytest.approx([getattr(point, name) / 1e6 for point in POINTS])
        assert list(y) == [point.value for point in POINTS]
    assert {"small 60.0 %", "large 80.0 %", "fast 151.0 %"} <= set(texts(drawing))
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert "large: 20.0 ms ideal, 20.5 ms at the waterline, 25.0 ms measured, 80.0 % of peak" in drawing.description


def test_the_gap_by_accuracy_has_a_linear_axis_below_100() -> None:
    points = [GapPoint("a", 99.9, 1e6, 2e6, 3e6), GapPoint("b", 70.0, 2e6, 2e6, 3e6)]
    (axes,) = figures.efficiency_gap(points, SOURCE, value="accuracy").figure.axes
    assert axes.get_yscale() == "linear"
    assert axes.get_ylim()[1] == 100
    assert axes.get_ylabel() == "accuracy, %"


def test_networks_at_one_place_have_names_beside_each_other() -> None:
    points = [GapPoint(f"network {i}", 4 * (1 + i / 100), 1e6, 1.1e6, 2e6) for i in range(5)]
    drawing = figures.efficiency_gap(points, SOURCE)
    assert {f"network {i} 50.0 %" for i in range(5)} <= set(texts(drawing))
    assert_nothing_overlaps(drawing)


# ---- bars by layer --------------------------------------------------------------------------------------------------
def test_bars_are_efficiencies_of_their_series() -> None:
    drawing = drawn()[1]
    alexnet, vgg = drawing.figure.axes
    assert [bar.get_height() for bar in bars(alexnet, "batch 1")] == pytest.approx([70, 80])
    assert [bar.get_height() for bar in bars(alexnet, "batch 16")] == pytest.approx([90, 100])
    assert [bar.get_height() for bar in bars(vgg, "batch 16")] == pytest.approx([95])
    assert "125 %" in texts(drawing)
    ((begin, end),) = segments(alexnet, "maxDNN")
    assert begin[1] == end[1] == pytest.approx(93.4)
    assert begin[0] < 0 < end[0]
    assert not segments(vgg, "maxDNN")
    assert all(axes.get_ylim() == (0, 100) for axes in (alexnet, vgg))
    assert [label.get_text() for label in alexnet.get_xticklabels()] == ["conv1", "conv2"]
    assert "batch 16 from 90.0 % to 125.0 % of peak" in drawing.description


def test_bars_of_one_layer_are_beside_each_other() -> None:
    alexnet = drawn()[1].figure.axes[0]
    first, second = bars(alexnet, "batch 1")[0], bars(alexnet, "batch 16")[0]
    assert first.get_x() + first.get_width() <= second.get_x()
    assert -0.5 < first.get_x() < 0 < second.get_x() + second.get_width() < 0.5


# ---- ratios ---------------------------------------------------------------------------------------------------------
def test_ratios_begin_at_one_and_groups_have_their_mean() -> None:
    drawing = drawn()[2]
    (axes,) = drawing.figure.axes
    assert axes.get_xscale() == "log"
    ends = [bar.get_x() + bar.get_width() for bar in bars(axes, "ratio")]
    assert ends == pytest.approx([2.0, 0.5, 1.5])
    assert {bar.get_x() for bar in bars(axes, "ratio")} == {1}
    assert [[x for x, _ in segment] for segment in segments(axes, "spread")] == [[1.9, 2.1]]
    means = [line.get_xdata()[0] for line in axes.lines if line.get_label() == "geometric mean"]
    assert means == pytest.approx([1.0, 1.5])
    assert {"mean 1.00", "mean 1.50", "2.00", "0.50"} <= set(texts(drawing))
    assert "larger filters: geometric mean 1.00, from 0.50 to 2.00" in drawing.description


# ---- by batch -------------------------------------------------------------------------------------------------------
def test_lines_by_batch_may_leave_the_peak_behind() -> None:
    drawing = drawn()[3]
    (axes,) = drawing.figure.axes
    x, y = lines(axes)["ours"].get_data()
    assert (list(x), list(y)) == ([1, 4], [120, 140])
    assert "more than the direct algorithm could" in texts(drawing)
    assert lines(axes)["peak"].get_ydata()[0] == 100
    assert axes.get_ylim()[1] > 140
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "4", "64"]


def test_lines_below_peak_end_at_100() -> None:
    rows = [BatchRow("ours", 1, 0.9), BatchRow("ours", 2, 0.97)]
    drawing = figures.by_batch(rows, SOURCE, name="a", title="a")
    assert drawing.figure.axes[0].get_ylim() == (0, 100)
    assert "more than the direct algorithm could" not in texts(drawing)


# ---- mistakes -------------------------------------------------------------------------------------------------------
def test_nothing_measured_can_be_drawn() -> None:
    for drawing in (
        figures.efficiency_gap([], SOURCE),
        figures.efficiency_bars([], SOURCE, name="a", title="a"),
        figures.ratio_rows([], SOURCE, name="a", title="a", quantity="a"),
        figures.by_batch([], SOURCE, name="a", title="a"),
    ):
        assert drawing.svg().startswith("<svg")
        assert re_no_numbers(drawing.description)


def re_no_numbers(text: str) -> bool:
    return not any(letter.isdigit() for letter in text)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_numbers_that_have_no_place(value: float) -> None:
    def draw(function: Any, row: Any, **more: Any) -> None:
        with pytest.raises(InvalidArgument, match=r"'net'.*positive, finite"):
            function([row], SOURCE, **more)

    named = {"name": "a", "title": "a"}
    draw(figures.efficiency_gap, GapPoint("net", 1.0, 1.0, 1.0, value))
    draw(figures.ratio_rows, RatioRow("net", value), quantity="a", **named)
    if value:
        draw(figures.efficiency_bars, EfficiencyRow("net", "s", value), **named)
        draw(figures.by_batch, BatchRow("net", 1, value), **named)
    with pytest.raises(InvalidArgument, match="a batch is less than 1"):
        figures.by_batch([BatchRow("net", 0, 0.5)], SOURCE, **named)
    with pytest.raises(InvalidArgument, match="value='speed' is not known"):
        figures.efficiency_gap(POINTS, SOURCE, value="speed")
