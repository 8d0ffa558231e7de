"""Copies between layouts, padding, slices, concatenations and reshapes: exact, whatever the strides."""

from __future__ import annotations

import itertools

import pytest

from waterline.graph.ops import END, Concat, Expand, Op, Pad, Reshape, Slice, Transpose
from waterline.operators import lower

from .harness import LAYOUTS, LOCAL, MACHINES, Case, channel_counts, check

PAIRS = [pair for pair in itertools.product(LAYOUTS, LAYOUTS) if set(pair) & {"nhwc", "dense"}]
BORDERS = [
    Pad((0, 0, 1, 2), (0, 0, 3, 1)),
    Pad((0, 0, 0, 0), (0, 0, 0, 1), value=2.5),
    Pad((0, 0, -1, 2), (0, 0, 1, -2)),
    Pad((1, 0, 0, 0), (0, 1, 0, 0)),
    Pad((0, -1, 0, 0), (0, 0, 2, 0)),
    Pad((0, 0, -5, 0), (0, 0, 2, 0)),
    Pad((0, 0, 1, 1), (0, 0, 1, 1), "edge"),
    Pad((0, 2, 2, 1), (1, 0, 0, 2), "edge"),
    Pad((0, 0, 2, 1), (0, 0, 1, 3), "reflect"),
    Pad((0, 0, -1, 1), (0, 0, 1, -1), "reflect"),
]


def copying(shape: tuple[int, ...], layouts: tuple[str, str]) -> Case:
    return Case(Transpose(tuple(range(len(shape)))), (shape,), (layouts[0],), layouts[1])


@pytest.mark.parametrize("layouts", PAIRS, ids="-".join)
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 16, 33])
def test_copy(channels: int, layouts) -> None:
    for size in ((3, 5), (1, 1), (1, 40), (19, 18)):
        check(copying((2, channels, *size), layouts))


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.isa)
@pytest.mark.parametrize("channels", [2, *channel_counts()])
def test_edges_of_a_network(channels: int, machine) -> None:
    lanes = machine.lanes()
    for width in (1, lanes - 1, lanes, 2 * lanes + 1):
        check(copying((2, channels, 3, width), ("dense", "nhwc")), machine)
        check(copying((1, channels, 2, width), ("nhwc", "dense")), machine)
        check(Case(Pad((0, 0, 3, 3), (0, 0, 3, 2)), ((2, channels, 4, width),), ("dense",), "nhwc"), machine)
        check(Case(Pad((0, 0, 1, 1), (0, 0, 1, 1)), ((2, channels, 4, width),), ("nhwc",)), machine)


@pytest.mark.parametrize("layouts", [("nhwc", "nhwc"), ("dense", "nhwc"), ("gapped", "scrambled")], ids="-".join)
@pytest.mark.parametrize("op", BORDERS, ids=str)
def test_pad(op: Op, layouts) -> None:
    for channels in (3, 18):
        check(Case(op, ((2, channels, 5, 6),), (layouts[0],), layouts[1]))


def test_photograph() -> None:
    check(Case(Pad((0, 0, 3, 3), (0, 0, 3, 3)), ((2, 3, 70, 224),), ("dense",), "nhwc"))
    check(copying((1, 64, 56, 56), ("dense", "nhwc")))


def test_pad_of_nothing() -> None:
    check(Case(Pad((0, 0, 1, 1), (0, 0, 1, 1), value=3.0), ((2, 3, 0, 0),)))
    check(Case(Pad((1,), (2,)), ((5,),), ("dense",)))


@pytest.mark.parametrize("perm", [(0, 2, 3, 1), (3, 1, 0, 2), (1, 0, 2, 3), (0, 1, 3, 2)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_transpose(perm, layout: str) -> None:
    check(Case(Transpose(perm), ((2, 17, 5, 6),), (layout,), "dense"))
    check(Case(Transpose(perm), ((2, 17, 5, 6),), (layout,)))


@pytest.mark.parametrize("groups", [2, 3, 4, 8])
def test_channel_shuffle(groups: int) -> None:
    """(N, H, W, g, C/g) with its last two axes exchanged, as it lies in NHWC storage."""
    check(Case(Transpose((0, 1, 2, 4, 3)), ((2, 5, 6, groups, 29),), ("dense",)))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "op",
    [
        Slice((1,), (3,), (END,), (1,)),
        Slice((1, 2), (0, -1), (END, -END - 1), (2, -1)),
        Slice((0,), (1,), (2,), (1,)),
        Slice((3,), (-1,), (-END - 1,), (-2,)),
        Slice((2, 3), (1, 1), (-1, -1), (1, 1)),
    ],
    ids=str,
)
def test_slice(op: Op, layout: str) -> None:
    check(Case(op, ((2, 20, 5, 6),), (layout,)))


def test_empty_slice() -> None:
    case = Case(Slice((1,), (3,), (3,), (1,)), ((2, 20, 5, 6),))
    assert lower(case.op, case.views(), [case.output()], LOCAL) == []


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
def test_concat(axis: int) -> None:
    shapes = [[2, 5, 3, 4], [2, 5, 3, 4], [2, 5, 3, 4]]
    shapes[1][axis], shapes[2][axis] = 1, 7
    for layouts in (("nhwc",), ("nhwc", "dense", "gapped")):
        check(Case(Concat(axis), tuple(map(tuple, shapes)), layouts, "gapped"))
    check(Case(Concat(axis), tuple(map(tuple, shapes[:1]))))


@pytest.mark.parametrize(
    ("shape", "to"),
    [((4, 1), (3, 2, 4, 5)), ((1,), (7,)), ((), (2, 3)), ((2, 1, 1, 5), (2, 3, 4, 5)), ((3, 4), (1, 1))],
)
def test_expand(shape, to) -> None:
    check(Case(Expand(to), (shape,), ("dense",)))
    check(Case(Expand(to), (shape,), ("dense",), "scrambled"))


@pytest.mark.parametrize(
    ("shape", "to"),
    [
        ((2, 3, 4, 5), (0, -1)),
        ((2, 3, 4, 5), (0, 12, 5)),
        ((2, 6, 2, 2), (0, 4, 3, 2)),
        ((6, 2, 2), (4, 3, 2)),
        ((2, 3, 4), (24,)),
        ((24,), (2, 3, 4)),
        ((1, 6, 4, 4), (0, 2, 3, 4, 4)),
        ((2, 1, 3, 1), (0, 3)),
        ((1, 1), ()),
        ((2, 8, 3, 3), (0, 2, 2, 2, 3, 3)),
    ],
)
def test_reshape(shape, to) -> None:
    for layouts in itertools.product(LAYOUTS, LAYOUTS):
        check(Case(Reshape(to), (shape,), (layouts[0],), layouts[1] if to else "dense"))
