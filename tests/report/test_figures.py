"""What figures of an analysis draw is the analysis: positions and heights are read back from the artists."""

from __future__ import annotations

from typing import Any

import figure_data
import pytest
from figure_data import COMMIT, LAYERS, PEAK, Layer

import waterline as library
from waterline.bench.workload import Workload
from waterline.errors import InvalidArgument
from waterline.report import figures
from waterline.report.figures.sheet import apart

pytest.importorskip("matplotlib")

NET = figure_data.analysis()
THEMES = ("light", "dark")


def bars(axes: Any, label: str) -> list[Any]:
    """The rectangles of `bar` or `barh`."""
    return [patch for container in axes.containers if container.get_label() == label for patch in container.patches]


def points(axes: Any, label: str) -> list[tuple[float, float]]:
    return [
        (float(x), float(y))
        for collection in axes.collections
        if collection.get_label() == label
        for x, y in collection.get_offsets()
    ]


def segments(axes: Any, label: str) -> list[Any]:
    """Of `hlines` and `vlines`: begin and end."""
    return [
        segment.tolist()
        for collection in axes.collections
        if collection.get_label() == label
        for segment in collection.get_segments()
    ]


def lines(axes: Any) -> dict[str, Any]:
    return {line.get_label(): line for line in axes.lines}


def texts(drawing: figures.Drawing) -> list[str]:
    from matplotlib.text import Text

    return [text.get_text() for text in drawing.figure.findobj(Text)]


# ---- roofline -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("theme", THEMES)
def test_points_of_the_roofline_are_intensities_and_rates(theme: str) -> None:
    axes = figures.roofline(NET, theme=theme, commit=COMMIT).figure.axes[0]
    assert points(axes, "direct_gemm") == [pytest.approx((40.0, 80.0))]
    assert points(axes, "depthwise") == [pytest.approx((5.0, 50.0))]
    # Of Winograd's layer what is executed, 60 % of peak; as the direct algorithm counts it is cut at the frame.
    assert points(axes, "winograd") == [pytest.approx((40.0, 60.0))]
    assert points(axes, "the same, above peak") == [pytest.approx((40.0, 100.0))]
    assert not points(axes, "other")


def test_a_fast_layer_below_peak_has_a_hollow_point_at_its_direct_rate() -> None:
    net = figure_data.analysis((Layer("a", 8, 200, 100, "winograd:f2x2", 0.5),))
    axes = figures.roofline(net, commit=COMMIT).figure.axes[0]
    assert points(axes, "winograd") == [pytest.approx((40.0, 40.0))]
    assert points(axes, "counted as direct") == [pytest.approx((40.0, 80.0))]


def test_operations_wasted_on_parts_of_tiles_are_not_drawn_as_work() -> None:
    net = figure_data.analysis((Layer("a", 8, 200, 100, "indirect", 1.2),))
    axes = figures.roofline(net, commit=COMMIT).figure.axes[0]
    assert points(axes, "indirect") == [pytest.approx((40.0, 80.0))]
    assert not points(axes, "counted as direct")


def test_roofs_end_at_their_ridges_and_the_frame_at_peak() -> None:
    drawing = figures.roofline(NET, commit=COMMIT)
    axes, right = drawing.figure.axes
    assert axes.get_ylim()[1] == pytest.approx(PEAK / 1e9)
    assert right.get_ylim()[1] == pytest.approx(100)
    assert right.get_ylim()[0] == pytest.approx(100 * axes.get_ylim()[0] * 1e9 / PEAK)
    for level, ridge in (("l3", 5.0), ("dram", 10.0)):
        x, y = lines(axes)[level].get_data()
        assert (x[-1], y[-1]) == pytest.approx((ridge, 100.0))
        assert y[0] / x[0] == pytest.approx(figure_data.BYTES_PER_S[level] / 1e9)
    # The line of memory has a large point on it, so its words are beside its ridge.
    words = {"ridge 5.00", "L3 20.0 GB/s", "ridge 10.0, memory 10.0 GB/s", "peak 100 GFLOP/s"}
    assert words <= set(texts(drawing))


def test_areas_of_points_grow_with_the_share_of_time() -> None:
    net = figure_data.analysis((Layer("a", 8, 200, 10), Layer("b", 8, 100, 90)))
    axes = figures.roofline(net, commit=COMMIT).figure.axes[0]
    small, large = next(c.get_sizes() for c in axes.collections if c.get_label() == "direct_gemm")
    assert large > small


def test_the_share_of_a_layer_above_the_frame_is_printed() -> None:
    assert "150 %" in texts(figures.roofline(NET, commit=COMMIT))


# ---- waterline ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("theme", THEMES)
def test_bars_of_the_waterline_are_efficiencies(theme: str) -> None:
    drawing = figures.waterline(NET, theme=theme, commit=COMMIT)
    (axes,) = drawing.figure.axes
    expected = {"direct_gemm": (0.0, 0.008, 80.0), "depthwise": (0.008, 0.004, 50.0), "winograd": (0.012, 0.012, 100.0)}
    for label, (begin, width, height) in expected.items():
        (bar,) = bars(axes, label)
        assert (bar.get_x(), bar.get_width(), bar.get_height()) == pytest.approx((begin, width, height))
    assert segments(axes, "attainable") == [
        [pytest.approx([0.0, 100.0]), pytest.approx([0.008, 100.0])],
        [pytest.approx([0.008, 50.0]), pytest.approx([0.012, 50.0])],
        [pytest.approx([0.012, 100.0]), pytest.approx([0.024, 100.0])],
    ]
    assert "150 % conv3" in texts(drawing)
    assert axes.get_ylim() == (0, 100)
    assert axes.get_xlim() == pytest.approx((0, 0.024))


def test_lines_of_the_waterline_are_the_networks() -> None:
    (axes,) = figures.waterline(NET, commit=COMMIT).figure.axes
    expected = {
        "waterline": NET.waterline,
        "blocks fused": NET.fused_waterline,
        "achieved": NET.computational_efficiency,
    }
    assert {name: line.get_ydata()[0] / 100 for name, line in lines(axes).items()} == pytest.approx(expected)


def test_widths_by_time_make_the_area_the_efficiency() -> None:
    layers = (Layer("a", 8, 200, 100), Layer("b", 3, 600, 70, "indirect"), Layer("c", 0, 100, 30, "Pool", 0))
    net = figure_data.analysis(layers)
    (axes,) = figures.waterline(net, "time", commit=COMMIT).figure.axes
    drawn = [*bars(axes, "direct_gemm"), *bars(axes, "indirect")]
    area = sum(bar.get_width() * bar.get_height() / 100 for bar in drawn)
    assert area / axes.get_xlim()[1] == pytest.approx(net.computational_efficiency)
    (idle,) = bars(axes, "no operations")
    assert (idle.get_x(), idle.get_width()) == pytest.approx((0.17, 0.03))


def test_the_line_of_a_network_above_peak_is_not_drawn_but_named() -> None:
    drawing = figures.waterline(figure_data.analysis(LAYERS[2:3]), commit=COMMIT)
    assert "achieved" not in lines(drawing.figure.axes[0])
    assert "achieved 150.0 %" in texts(drawing)


def test_blocks_show_what_a_fused_kernel_may_attain() -> None:
    drawing = figures.waterline(NET, "flops", per="block", commit=COMMIT)
    (axes,) = drawing.figure.axes
    first, second = NET.blocks
    shares = [first.computational_efficiency, second.computational_efficiency]
    assert [bar.get_height() for bar in bars(axes, "block")] == pytest.approx([100 * min(1, share) for share in shares])
    marks = [segment[0][1] for segment in segments(axes, "attainable, fused")]
    assert marks == pytest.approx([100 * block.fused_attainable_efficiency for block in (first, second)])


def test_only_the_widest_layers_have_names() -> None:
    layers = tuple(Layer(f"layer{i}", 1 + (i % 10 == 0) * 40, 20, 500) for i in range(200))
    drawn = set(texts(figures.waterline(figure_data.analysis(layers), commit=COMMIT)))
    names = {name for name in drawn if name.startswith("layer")}
    assert names <= {f"layer{i}" for i in range(0, 200, 10)}
    assert 5 <= len(names) <= 20


def test_names_of_lines_stay_apart_and_above_the_axis() -> None:
    assert apart([99.0, 98.0, 50.0], 6, 3) == [99.0, 93.0, 50.0]
    assert apart([5.0, 4.0, 3.0], 6, 3) == [15.0, 9.0, 3.0]
    assert apart([], 6, 3) == []
    net = figure_data.analysis((Layer("a", 1, 10_000, 1000),))
    assert_nothing_overlaps(figures.waterline(net, commit=COMMIT))


# ---- time by layer --------------------------------------------------------------------------------------------------
def test_bars_of_time_are_stacked_from_causes() -> None:
    (axes,) = figures.time_by_layer(NET, commit=COMMIT).figure.axes
    reached = [0.0] * 4
    for cause in ("arithmetic", "memory", "overhead"):
        drawn = bars(axes, cause)
        assert [bar.get_x() for bar in drawn] == pytest.approx(reached)
        widths = [getattr(layer.causes, f"{cause}_ns") / 1e6 for layer in NET.layers]
        assert [bar.get_width() for bar in drawn] == pytest.approx(widths)
        reached = [a + b for a, b in zip(reached, widths, strict=True)]
    assert reached == pytest.approx([layer.time_ns / 1e6 for layer in NET.layers])
    marks = [segment[0][0] for segment in segments(axes, "bound")]
    assert marks == pytest.approx([layer.bound_ns / 1e6 for layer in NET.layers])
    assert axes.yaxis_inverted()


def test_bars_of_time_are_stacked_from_phases() -> None:
    (axes,) = figures.time_by_layer(NET, "phase", commit=COMMIT).figure.axes
    widths = {
        label: [round(bar.get_width(), 6) for bar in bars(axes, label)]
        for label in ("winograd input", "winograd gemm", "winograd output", "in one phase")
    }
    assert widths == {
        "winograd input": [0, 0, 0.01, 0],
        "winograd gemm": [0, 0, 0.06, 0],
        "winograd output": [0, 0, 0.01, 0],
        "in one phase": [0.1, 0.08, 0, 0.04],
    }


def test_equal_layers_share_a_bar_in_a_long_network() -> None:
    layers = tuple(Layer(f"layer{i}", 1, 20, 20, shape=f"shape{i % 5}") for i in range(80))
    drawing = figures.time_by_layer(figure_data.analysis(layers), commit=COMMIT)
    (axes,) = drawing.figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [f"layer{i} (x16)" for i in range(5)]
    total = sum(bar.get_width() for cause in ("arithmetic", "memory", "overhead") for bar in bars(axes, cause))
    assert total == pytest.approx(80 * 0.02)
    every = figures.time_by_layer(figure_data.analysis(layers), grouped=False, commit=COMMIT)
    assert len(bars(every.figure.axes[0], "memory")) == 80
    assert every.figure.get_figheight() > 3 * drawing.figure.get_figheight()


# ---- all of them ----------------------------------------------------------------------------------------------------
def test_every_figure_says_where_its_numbers_are_from() -> None:
    for drawing in figures.of_analysis(NET, commit=COMMIT):
        for part in ("a machine", "2 threads", "batch 3", "measured", f"commit {COMMIT}"):
            assert part in drawing.caption
        assert drawing.caption in texts(drawing)
        assert drawing.title.startswith("net: ")
        assert drawing.title in texts(drawing)


def test_descriptions_have_the_numbers() -> None:
    roofline, by_flops, *_, by_cause, _ = figures.of_analysis(NET, commit=COMMIT)
    assert "peak 100 GFLOP/s" in roofline.description
    assert "conv3 most, at 150 %" in roofline.description
    assert f"{100 * NET.waterline:.1f} % of peak" in by_flops.description
    assert "0.300 ms in all" in by_cause.description
    assert "conv1: 0.100 ms, 33.3 %" in by_cause.description


@pytest.mark.parametrize("layers", [(), LAYERS[3:]], ids=["no layers", "no operations"])
@pytest.mark.parametrize("theme", THEMES)
def test_a_network_without_operations_can_be_drawn(layers: tuple[Layer, ...], theme: str) -> None:
    for drawing in figures.of_analysis(figure_data.analysis(layers), theme, COMMIT):
        assert "no layer" in drawing.description or "pool" in drawing.description
        assert drawing.svg().startswith("<svg")


@pytest.mark.parametrize("model", ["resnet50", "mobilenet_v2", "convnext_tiny"])
def test_networks_of_the_zoo_have_no_label_on_another(model: str) -> None:
    net = library.analyse(Workload.named(model, None).graph(1), num_threads=1)
    for drawing in figures.of_analysis(net, commit=COMMIT):
        assert len(drawing.svg()) < 150_000
        assert_nothing_overlaps(drawing)


def assert_nothing_overlaps(drawing: figures.Drawing) -> None:
    """Upright words of a drawing neither touch nor leave it. Slanting ones are measured by what is around them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    canvas = FigureCanvasAgg(drawing.figure)
    canvas.draw()
    boxes = []
    for text in drawing.figure.findobj(Text):
        if text.get_text().strip() and text.get_visible() and text.get_rotation() % 90 == 0:
            box = Text.get_window_extent(text, canvas.get_renderer())
            assert box.x0 >= 0 and box.x1 <= drawing.figure.bbox.width, text  # noqa: PT018
            boxes.append((box.padded(-1.5), text.get_text()))
    for number, (box, words) in enumerate(boxes):
        for other, more in boxes[number + 1 :]:
            assert not box.overlaps(other), (drawing.name, words, more)


# ---- mistakes -------------------------------------------------------------------------------------------------------
def test_mistakes_are_told() -> None:
    with pytest.raises(InvalidArgument, match=r"'pink' is no theme.*light, dark"):
        figures.roofline(NET, theme="pink")
    with pytest.raises(InvalidArgument, match=r"by='size' is not known.*'flops', 'time'"):
        figures.waterline(NET, "size")
    with pytest.raises(InvalidArgument, match="per='net' is not known"):
        figures.waterline(NET, per="net")
    with pytest.raises(InvalidArgument, match=r"by='flops' is not known.*'cause', 'phase'"):
        figures.time_by_layer(NET, "flops")
