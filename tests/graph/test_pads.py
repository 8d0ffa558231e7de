import itertools

import pytest

from waterline.graph.ops import Binary, Conv, Pad, Pool
from waterline.graph.passes import merge_pads
from waterline.spec import Activation, Epilogue

from .building import Builder, check_same, op_names

NOTHING = float("-inf")


def spatial(top, left, bottom, right, value=0.0, mode="constant"):
    return Pad((0, 0, top, left), (0, 0, bottom, right), mode, value)


def before(op, pad, activation="relu"):
    b = Builder()
    x = b.unary(activation, b.input(1, 3, 7, 8))
    y = b.add(pad, x)
    return b.finish(b.conv(y, 4, pad=op.pad) if isinstance(op, Conv) else b.add(op, y))


MERGED = {
    "conv": (Conv(), spatial(1, 2, 0, 3)),
    "padded conv": (Conv(pad=(1, 0, 2, 1)), spatial(1, 2, 0, 3)),
    "cropped conv": (Conv(), spatial(-1, 0, 2, -2)),
    "conv that crops": (Conv(pad=(-1, -2, -1, 0)), spatial(1, 1, -1, 0)),
    "average": (Pool("average", (3, 3), (2, 2)), spatial(0, 1, 2, 1)),
    "counting average": (Pool("average", (3, 3), (2, 2), (1, 1, 1, 1), count_include_pad=True), spatial(0, 1, 1, 1)),
    "max of nothing": (Pool("max", (3, 3), (2, 2)), spatial(1, 0, 1, 2, NOTHING)),
    "padded max of nothing": (Pool("max", (3, 3), (1, 1), (1, 1, 1, 1)), spatial(1, 0, 1, 0, NOTHING)),
    "max of what is not negative": (Pool("max", (3, 3), (2, 2)), spatial(0, 0, 1, 1)),
    "lp": (Pool("lp", (3, 3), (2, 2)), spatial(0, 0, 1, 1)),
}
KEPT = {
    "crop, then pad": (Conv(pad=(1, 1, 1, 1)), spatial(-1, 0, 0, 0)),
    "ones": (Conv(), spatial(1, 1, 1, 1, 1.0)),
    "reflection": (Conv(), spatial(1, 1, 1, 1, mode="reflect")),
    "channels": (Pool("max", (2, 2)), Pad((0, 1, 0, 0), (0, 1, 0, 0))),
    "average that does not count": (Pool("average", (3, 3), (1, 1), (1, 1, 1, 1)), spatial(0, 0, 1, 1)),
    "ceil mode": (Pool("max", (3, 3), (2, 2), ceil_mode=True), spatial(0, 0, 1, 1)),
    "more than the window": (Pool("average", (2, 2)), spatial(2, 0, 0, 0)),
    "cropped pooling": (Pool("max", (2, 2)), spatial(-1, 0, 0, 0, NOTHING)),
    "average of nothing": (Pool("average", (2, 2)), spatial(1, 0, 0, 0, NOTHING)),
    "dilated max": (Pool("max", (2, 2), dilation=(2, 2)), spatial(1, 1, 1, 1)),
}


@pytest.mark.parametrize("name", MERGED)
def test_merged(name):
    graph = before(*MERGED[name])
    result = merge_pads(graph)
    assert "Pad" not in op_names(result)
    check_same(graph, result)


@pytest.mark.parametrize("name", KEPT)
def test_kept(name):
    graph = before(*KEPT[name])
    assert merge_pads(graph) is graph


@pytest.mark.parametrize("source", ["conv", "sum", "pool", "clip"])
def test_what_is_known_not_to_be_negative(source):
    """Fused activations count, and pooling passes the knowledge on."""
    b = Builder()
    x = b.input(1, 3, 7, 8)
    match source:
        case "conv":
            y = b.conv(x, 3, epilogue=Epilogue(after=Activation("relu")))
        case "sum":
            y = b.add(Binary("add", Activation("relu")), x, x)
        case "pool":
            y = b.add(Pool("average", (2, 2)), b.unary("sigmoid", x))
        case "clip":
            y = b.unary("clip", x, 0.0, 6.0)
    graph = b.finish(b.add(Pool("max", (3, 3), (2, 2)), b.add(spatial(0, 0, 1, 1), y)))
    result = merge_pads(graph)
    assert "Pad" not in op_names(result)
    check_same(graph, result)


def test_max_of_negative_numbers_keeps_its_zeros():
    graph = before(Pool("max", (3, 3), (2, 2)), spatial(0, 0, 1, 1), "tanh")
    assert merge_pads(graph) is graph


def test_a_pad_with_other_readers_stays_for_them():
    b = Builder()
    y = b.add(spatial(1, 1, 1, 1), b.input(1, 3, 5, 5))
    graph = b.finish(b.conv(y, 4), b.unary("relu", y))
    result = merge_pads(graph)
    assert sorted(op_names(result)) == ["Conv", "Pad", "relu"]
    assert result.nodes[-1].inputs[0] == "x0" or result.nodes[0].inputs[0] == "x0"
    check_same(graph, result)


def test_every_small_convolution_is_exact():
    """All combinations of small pads and crops: what is merged gives the same values."""
    for outer, inner in itertools.product(range(-2, 3), repeat=2):
        b = Builder()
        y = b.add(spatial(outer, 0, 0, outer), b.input(1, 1, 9, 9))
        graph = b.finish(b.conv(y, 1, pad=(inner, 0, 0, inner)))
        result = merge_pads(graph)
        assert (len(result.nodes) == 1) == (not outer < 0 < inner)
        check_same(graph, result)
